"""The picture book: stories and frames are pure functions of a seed; any caption is rewritten into one it can show."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch

from blockvid_cli.models.card import packaged_folder
from blockvid_cli.models.sentence_encoder import embed
from blockvid_cli.storybook.caption_rewriter import CaptionRewriter, read_vocabulary
from blockvid_cli.storybook.edition import Pose, move, read_edition
from blockvid_cli.storybook.rendering import render_story
from blockvid_cli.storybook.settings import LIGHTS, SETTINGS, backdrop, backdrop_layers
from blockvid_cli.storybook.stories import (
    ACTION_PHRASES,
    CAMERA_PHRASES,
    LIGHT_PHRASES,
    SETTING_PHRASES,
    WEATHER_PHRASES,
    frame_states,
    make_caption,
    make_story,
    opening_story,
    returning_story,
)
from blockvid_cli.storybook.subjects import COLOURS, SUBJECTS, sprite

EDITION = read_edition()


def test_the_edition_names_only_what_can_be_rendered():
    assert set(EDITION.subjects) <= set(SUBJECTS) and set(EDITION.colours) <= set(COLOURS)
    assert set(EDITION.settings) <= set(SETTINGS) & set(SETTING_PHRASES) and set(EDITION.lights) <= set(LIGHTS) & set(
        LIGHT_PHRASES
    )
    assert set(EDITION.actions) <= set(ACTION_PHRASES)
    assert set(EDITION.weathers) <= set(WEATHER_PHRASES) and set(EDITION.cameras) <= set(CAMERA_PHRASES)


def test_the_bundled_edition_is_wide_enough():
    assert len(EDITION.subjects) >= 6 and len(EDITION.colours) >= 6
    assert len(EDITION.settings) >= 4 and len(EDITION.actions) >= 5 and len(EDITION.lights) >= 3


def test_stories_are_pure_functions_of_their_seed():
    assert make_story(EDITION, 7, 9) == make_story(EDITION, 7, 9) != make_story(EDITION, 8, 9)
    once, twice = render_story(make_story(EDITION, 7, 2), EDITION), render_story(make_story(EDITION, 7, 2), EDITION)
    assert torch.equal(once[0], twice[0]) and torch.equal(once[1], twice[1])


def test_frames_and_masks_fit_the_block_grid():
    frames, subject = render_story(make_story(EDITION, 3, 3), EDITION)
    width, height = EDITION.size
    assert frames.shape == (9 + 12 + 12, 3, height, width) and subject.shape == (33, 1, height, width)
    assert frames.min() >= 0 and frames.max() <= 1.001
    assert [len(EDITION.block_frames(n)) for n in range(3)] == [9, 12, 12]
    assert 0.02 < float(subject.mean()) < 0.3


def test_the_subject_is_visible_in_every_frame_of_its_scenes():
    for seed in range(12):
        story = make_story(EDITION, seed, 20)
        _, subject = render_story(story, EDITION)
        present = torch.tensor([still.scene.subject is not None for still in frame_states(story, EDITION)])
        shares = subject.flatten(1).mean(1)
        assert float(shares[present].min()) > 0.015 and not shares[~present].any(), seed


STAGE = EDITION.stage
VOCABULARY = read_vocabulary(packaged_folder("models") / "storybook" / "words.yaml")


def rewrite(captions: list[str], style: str = "") -> list[str]:
    rewriter = CaptionRewriter(EDITION, VOCABULARY, embed)
    return [rewriter(text, style) for text in captions]


@pytest.mark.parametrize(
    ("action", "x", "height"),
    [("left", STAGE.left, 0), ("right", STAGE.right, 0), ("rise", 10, STAGE.high), ("rest", 10, 0)],
)
def test_actions_are_attractors(action, x, height):
    pose = Pose(10)
    for frame in range(240):
        pose = move(pose, action, frame % 12, 12, STAGE)
    assert (pose.x, pose.height, pose.hop) == (x, height, 0)


def test_everything_moves_on_the_latent_lattice():
    """Where a latent frame ends, subjects stand on whole cells, in every story; never faster than a cell each way."""
    for seed in range(20):
        states = frame_states(make_story(EDITION, seed, 16), EDITION)
        ends = [state.pose for state in states[::4]]
        assert all(p.x == int(p.x) and p.height + p.hop == int(p.height + p.hop) for p in ends), seed
        for (a, b), cut in zip(itertools.pairwise(ends), itertools.pairwise(s.scene for s in states[::4]), strict=True):
            steps = abs(b.x - a.x), abs(b.height + b.hop - a.height - a.hop)
            assert max(steps) <= 1 or cut[0] != cut[1], seed


def test_latents_of_a_moving_subject_are_shifted_copies():
    """One latent frame of gliding is the one before, a cell further: on an even backdrop, to the bit."""
    story = next(s for s in (opening_story(EDITION, n, 2) for n in range(99)) if s.chunks[0].action == "left")
    _, subject = render_story(story, EDITION)
    first, second = subject[1:5], subject[5:9]
    assert torch.allclose(first[..., 8:], second[..., :-8], atol=1e-5) and first[0].sum() > 0


def test_hops_keep_time_with_the_blocks():
    story = next(s for s in (make_story(EDITION, n, 4) for n in range(99)) if s.chunks[0].action == "hop")
    hops = [state.pose.hop for state in frame_states(story, EDITION)]
    assert hops[9:21] == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25, 0])
    assert hops[:9] == hops[12:21]


def test_openings_begin_in_the_middle_facing_right():
    for seed in range(8):
        first = frame_states(opening_story(EDITION, seed), EDITION)[0]
        assert abs(first.pose.x - STAGE.middle) <= 1 and first.pose.height + first.pose.hop <= 1


def test_a_scene_is_left_and_comes_back():
    stories = [make_story(EDITION, seed, 24) for seed in range(60)]
    left = [story for story in stories if any(chunk.cut for chunk in story.chunks)]
    assert 15 < len(left) < 45
    for story in left:
        acts = [key for key, _ in itertools.groupby(chunk.scene for chunk in story.chunks)]
        assert len(acts) == 3 and acts[0] == acts[2] != acts[1]
        assert [chunk.cut for chunk in story.chunks].count(True) == 2


def test_a_returns_captions_name_no_colour():
    story = returning_story(EDITION, 4, 8, 30, 6)
    *_, last = (number for number, chunk in enumerate(story.chunks) if chunk.cut)
    scene = story.chunks[0].scene
    assert sum(chunk.blocks for chunk in story.chunks) == 44 and story.chunks[last].scene == scene
    assert all(scene.colour not in chunk.caption for chunk in story.chunks[last:])
    assert all(
        scene.colour in chunk.caption
        for chunk in story.chunks
        if chunk.scene == scene and chunk not in story.chunks[last:]
    )


def test_actions_change_something():
    for seed in range(30):
        story = make_story(EDITION, seed, 20)
        for a, b in itertools.pairwise(story.chunks):
            assert b.cut or a.action != b.action or a.scene.subject is None


@pytest.mark.parametrize("weather", ["rain", "snow"])
def test_weather_is_the_same_in_every_block(weather):
    story = replace(make_story(EDITION, 3, 4), weather=weather)
    dry, _ = render_story(replace(story, weather="clear"), EDITION)
    wet, _ = render_story(story, EDITION)
    marks = (wet - dry).abs().amax(1) > 0.01
    assert 0.005 < float(marks[1:].float().mean()) < 0.2 and torch.equal(wet <= 1.001, torch.ones_like(wet, dtype=bool))
    snowing = replace(EDITION, weathers=("rain", "snow"))
    story = make_story(snowing, 1, 6)
    assert all("rain" in c.caption or "snow" in c.caption for c in story.chunks)


def test_a_panning_camera_eases_to_its_side_and_is_in_the_caption():
    panning = replace(EDITION, cameras=("still", "left", "right"))
    stories = {story.camera: story for story in (make_story(panning, seed, 6) for seed in range(30))}
    assert set(stories) == {"still", "left", "right"}
    assert all(chunk.caption.endswith("as the camera pans left.") for chunk in stories["left"].chunks)
    still, _ = render_story(replace(stories["left"], camera="still"), EDITION)
    frames, subject = render_story(stories["left"], EDITION)
    assert frames.shape == still.shape and float(subject.flatten(1).mean(1).min()) > 0.01
    steps = (frames[1:] - frames[:-1]).abs().mean((1, 2, 3)) - (still[1:] - still[:-1]).abs().mean((1, 2, 3))
    assert steps[:6].mean() > 2 * steps[-6:].mean().abs()


def test_sky_and_land_together_are_the_backdrop():
    for setting, light in itertools.product(EDITION.settings, EDITION.lights):
        sky, land = backdrop_layers(setting, light, EDITION.size)
        whole = sky * (1 - land[3:]) + land[:3]
        error = (whole - backdrop(setting, light, EDITION.size)).abs()
        assert error.mean() < 2e-3 and error.max() < 0.15, (setting, light)


def test_a_panning_camera_leaves_the_far_sky_behind():
    """The sun moves less across the picture than the land does."""
    story = replace(opening_story(EDITION, 0, 6), camera="right")
    scene = replace(story.chunks[0].scene, subject=None, setting="desert", light="day")
    story = replace(story, chunks=tuple(replace(chunk, scene=scene) for chunk in story.chunks))
    frames, _ = render_story(story, EDITION)

    def moved(rows: slice) -> int:
        first, last = (frames[n, :, rows].mean(1) for n in (0, -1))
        return min(range(20), key=lambda d: float((last[:, : 160 - d] - first[:, d:]).abs().mean()))

    assert 0 < moved(slice(8, 24)) < moved(slice(40, 70))


def test_every_choice_looks_different():
    for a, b in itertools.combinations(itertools.product(EDITION.settings, EDITION.lights), 2):
        assert (backdrop(*a, EDITION.size) - backdrop(*b, EDITION.size)).abs().mean() > 0.02, (a, b)
    for a, b in itertools.combinations(itertools.product(EDITION.subjects, EDITION.colours), 2):
        assert (sprite(*a) - sprite(*b)).abs().mean() > 0.01, (a, b)


def test_the_picture_books_own_captions_stay_as_they_are():
    for seed in range(20):
        captions = [chunk.caption for chunk in make_story(EDITION, seed, 24).chunks]
        assert rewrite(captions) == captions


@pytest.mark.parametrize(
    ("captions", "prompts"),
    [
        (
            ["A graceful white swan glides across a misty lake at dusk."],
            ["A white swan moves right on the lake at sunset."],
        ),
        (
            ["An old crimson taxi waits on a rainy street at midnight.", "It drives off to the left."],
            ["A red car rests in the city at night.", "The car moves left in the city at night."],
        ),
        (
            ["A little girl in a yellow coat jumps over puddles in the park.", "The dunes lie empty.", "She runs on."],
            [
                "A yellow person hops in the meadow by day.",
                "Nobody is in the desert by day.",
                "The person moves right in the desert by day.",
            ],
        ),
        (["A purple hot-air balloon is rising over sunlit dunes."], ["A purple balloon rises in the desert by day."]),
        (["The empty harbour under the stars."], ["Nobody is on the lake at night."]),
        (
            [
                "A red boat drifts on the lake under a golden sky.",
                "The camera pulls back as the boat passes a white rock.",
            ],
            ["A red boat moves right on the lake by day.", "The boat rests on the lake by day."],
        ),
        (
            [
                "Four men in red jackets sit in a garage at night.",
                "The man on the left throws his head back.",
                "It is parked.",
            ],
            [
                "A red person rests in the city at night.",
                "The person rests in the city at night.",
                "The person rests in the city at night.",
            ],
        ),
        (
            ["A blue bird flies over the park as the sun rises.", "No one is there.", "It flies to the right."],
            [
                "A blue swan rises in the meadow by day.",
                "Nobody is in the meadow by day.",
                "The swan moves right in the meadow by day.",
            ],
        ),
    ],
)
def test_free_captions_are_rewritten_into_what_can_be_rendered(captions, prompts):
    assert rewrite(captions) == prompts


def test_a_style_decides_setting_and_light_and_nothing_else():
    prompts = rewrite(
        ["A red car waits.", "It drives to the left."], "golden tones, at night, vintage look, in the city, "
    )
    assert prompts == ["A red car rests in the city at night.", "The car moves left in the city at night."]


def test_every_caption_is_rewritten_whatever_it_says():
    for text in ("", "42", "¿Qué?", "a b c", "The quantum flux of inflation", "left right left"):
        (sentence,) = rewrite([text])
        assert any(phrase in sentence for phrase in SETTING_PHRASES.values()) and sentence.endswith(".")


def test_the_vocabulary_has_the_editions_names():
    for names in ("subjects", "colours", "settings", "lights"):
        assert set(getattr(VOCABULARY, names)) == set(getattr(EDITION, names))
    assert set(VOCABULARY.actions) == set(EDITION.actions)


def test_captions():
    assert make_caption("swan", "white", "lake", "sunset", "left") == "A white swan moves left on the lake at sunset."
    assert make_caption("swan", None, "lake", "day", "rest") == "The swan rests on the lake by day."
    assert (
        make_caption(None, None, "city", "night", "rest", "in the rain", "")
        == "Nobody is in the city at night in the rain."
    )
