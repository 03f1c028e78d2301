"""The picture book: deterministic by seed, sane in every frame, told in many words."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

import pytest
import torch

from blockvid_cli.storybook.actions import HIGH, LEFT, RIGHT, Pose, move
from blockvid_cli.storybook.captions import caption
from blockvid_cli.storybook.edition import read_edition
from blockvid_cli.storybook.settings import LIGHTS, SETTINGS, backdrop
from blockvid_cli.storybook.subjects import COLOURS, SUBJECTS, sprite
from blockvid_cli.storybook.world import draw, poses, tell

EDITION = read_edition()


def test_the_edition_names_only_what_can_be_drawn():
    assert set(EDITION.subjects) <= set(SUBJECTS) and set(EDITION.colours) <= set(COLOURS)
    assert set(EDITION.settings) <= set(SETTINGS) and set(EDITION.lights) <= set(LIGHTS)


def test_stories_are_pure_functions_of_their_seed():
    assert tell(EDITION, 7, 9) == tell(EDITION, 7, 9) != tell(EDITION, 8, 9)
    once, twice = draw(tell(EDITION, 7, 2), EDITION), draw(tell(EDITION, 7, 2), EDITION)
    assert torch.equal(once[0], twice[0]) and torch.equal(once[1], twice[1])


def test_frames_and_masks_fit_the_block_grid():
    frames, subject = draw(tell(EDITION, 3, 3), EDITION)
    width, height = EDITION.size
    assert frames.shape == (9 + 12 + 12, 3, height, width) and subject.shape == (33, 1, height, width)
    assert frames.min() >= 0 and frames.max() <= 1.001
    assert [len(EDITION.block_frames(n)) for n in range(3)] == [9, 12, 12]
    assert 0.02 < float(subject.mean()) < 0.3


def test_the_subject_is_in_the_picture_in_every_frame():
    for seed in range(12):
        _, subject = draw(tell(EDITION, seed, 6), EDITION)
        assert float(subject.flatten(1).mean(1).min()) > 0.015, seed


@pytest.mark.parametrize(
    ("action", "x", "height"), [("left", LEFT, 0), ("right", RIGHT, 0), ("rise", 0.5, HIGH), ("rest", 0.5, 0)]
)
def test_actions_are_attractors(action, x, height):
    pose = Pose(0.5)
    for frame in range(240):
        pose = move(pose, action, frame % 12, 12)
    assert pose.x == pytest.approx(x, abs=0.01) and pose.height == pytest.approx(height, abs=0.01)


def test_hops_keep_time_with_the_blocks():
    story = next(s for s in (tell(EDITION, n, 4) for n in range(99)) if s.actions[1:3] == ["hop", "hop"])
    hops = [pose.hop for pose in poses(story, EDITION)][9:33]
    assert hops[:12] == pytest.approx(hops[12:]) and max(hops) > 0.1


def test_a_panning_camera_eases_to_its_side_and_is_told():
    panning = replace(EDITION, cameras=("still", "left", "right"))
    stories = {story.camera: story for story in (tell(panning, seed, 6) for seed in range(30))}
    assert set(stories) == {"still", "left", "right"}
    assert all("left" in c.caption or "camera" in c.caption or "view" in c.caption for c in stories["left"].chunks)
    still, _ = draw(replace(stories["left"], camera="still"), EDITION)
    frames, subject = draw(stories["left"], EDITION)
    assert frames.shape == still.shape and float(subject.flatten(1).mean(1).min()) > 0.01
    steps = (frames[1:] - frames[:-1]).abs().mean((1, 2, 3)) - (still[1:] - still[:-1]).abs().mean((1, 2, 3))
    assert steps[:6].mean() > 2 * steps[-6:].mean().abs()


def test_pictures_tell_every_choice_apart():
    for a, b in itertools.combinations(itertools.product(EDITION.settings, EDITION.lights), 2):
        assert (backdrop(*a, EDITION.size) - backdrop(*b, EDITION.size)).abs().mean() > 0.02, (a, b)
    for a, b in itertools.combinations(itertools.product(EDITION.subjects, EDITION.colours), 2):
        assert (sprite(*a) - sprite(*b)).abs().mean() > 0.01, (a, b)


def test_captions_say_it_all_in_many_ways():
    dice = random.Random(0)
    words = {caption(dice, "swan", "white", "lake", "sunset", "left") for _ in range(200)}
    assert len(words) > 60
    assert all("white" in w and "swan" in w and "lake" in w and "left" in w for w in words)
    assert not any("  " in w or " ," in w or not w.endswith(".") for w in words)
