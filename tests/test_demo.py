"""The bench of known drifts: clean where nothing drifts, worse from level to level, the same whenever it is made."""

from __future__ import annotations

import colorsys
import json
from functools import lru_cache
from itertools import pairwise

import av
import numpy as np
import pytest
from typer.testing import CliRunner

from blockvid_cli.commands import data
from blockvid_cli.errors import BlockvidError, UsageError
from blockvid_cli.evaluation import demo as bench
from blockvid_cli.evaluation.demo import plan_demo, story_frames, write_bench
from blockvid_cli.models.vae import to_uint8
from blockvid_cli.storyboard.storyboard import read_storyboard
from blockvid_cli.storybook.drifts import DRIFTS, Drift, blur, severity_ramp, steady_story
from blockvid_cli.storybook.edition import read_edition
from blockvid_cli.storybook.rendering import render_story
from blockvid_cli.storybook.stories import HELD_OUT, frame_states

EDITION = read_edition()
BLOCKS, FRAMES = 20, 240
STORY = steady_story(EDITION, HELD_OUT + 1, BLOCKS)
KINDS = list(DRIFTS)
draw_block = lru_cache(maxsize=80)(bench.second_block)


def drifted(kind: str, severity: float, seed: int = 3) -> np.ndarray:
    """All pictures (F, H, W, 3) of the story with a drift."""
    drift = DRIFTS[kind]
    told = drift.story(STORY, EDITION, severity)
    return np.stack(list(drift.frames(story_frames(told, EDITION, draw_block), FRAMES, severity, seed)))


@pytest.fixture(scope="module")
def films() -> dict[str, list[np.ndarray]]:
    """For each drift the story without it, then with each of its severities."""
    return {kind: [drifted(kind, severity) for severity in (0, *drift.severities)] for kind, drift in DRIFTS.items()}


@pytest.fixture(scope="module")
def clean() -> np.ndarray:
    return np.stack(list(story_frames(STORY, EDITION)))


def steps(film: np.ndarray) -> np.ndarray:
    """How much changes from each frame to the next (F - 1,), in grey levels."""
    grey = film.astype(np.float32).mean(-1)
    return np.abs(np.diff(grey, axis=0)).mean((1, 2))


def sharpness(film: np.ndarray) -> float:
    grey = film.astype(np.float32).mean(-1)
    return float(np.diff(grey, 2, axis=1).var() + np.diff(grey, 2, axis=2).var())


def rising(values: list[float]) -> bool:
    return all(a < b for a, b in pairwise(values))


def test_a_steady_story_moves_alike_in_every_six_seconds():
    story = steady_story(EDITION, HELD_OUT, 60)
    assert len({chunk.scene for chunk in story.chunks}) == 1 and not any(chunk.cut for chunk in story.chunks)
    period = 6 * EDITION.period
    poses = [still.pose for still in frame_states(story, EDITION)]
    assert all(poses[n] == poses[n + period] for n in range(len(poses) - period))
    assert all(a != b for a, b in pairwise(poses[:-12]) if a.hop < 1)
    assert (
        steady_story(EDITION, 4, 7) == steady_story(EDITION, 4, 7)
        and sum(c.blocks for c in steady_story(EDITION, 4, 7).chunks) == 7
    )


def test_stories_of_one_bench_show_several_subjects_and_settings():
    scenes = [steady_story(EDITION, HELD_OUT + n, 20).chunks[0].scene for n in range(3)]
    assert len({scene.subject for scene in scenes}) == len({scene.setting for scene in scenes}) == 3


def test_drawn_a_block_at_a_time_is_drawn_at_once(clean):
    whole = to_uint8(render_story(STORY, EDITION)[0])
    assert clean.shape == (FRAMES, *reversed(EDITION.size), 3) and clean.dtype == np.uint8
    away = np.abs(clean[3:].astype(int) - whole)
    assert away.max() <= 1 and away.mean() < 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_no_severity_is_no_drift_and_the_first_tenth_is_spared(films, clean, kind):
    assert len(DRIFTS[kind].severities) >= 4 and rising([0, *DRIFTS[kind].severities])
    assert np.array_equal(films[kind][0], clean)
    for film in films[kind][1:]:
        assert film.shape == clean.shape and film.dtype == np.uint8
        assert np.array_equal(film[: FRAMES // 10], clean[: FRAMES // 10])


@pytest.mark.parametrize("kind", KINDS)
def test_drifts_are_pure_functions_of_seed_and_severity(films, kind):
    assert np.array_equal(drifted(kind, DRIFTS[kind].severities[1]), films[kind][2])


@pytest.mark.parametrize("kind", KINDS)
def test_every_severity_is_further_from_the_clean_film(films, clean, kind):
    if kind != "freeze":  # a still that is like the moment it hides is no nearer to it for that
        away = [float(np.abs(film.astype(int) - clean).mean()) for film in films[kind]]
        assert rising(away) and away[0] == 0


def test_growth_spares_a_tenth_and_ends_at_one():
    shares = list(severity_ramp(100))
    assert shares[:10] == [0] * 10 and shares[-1] == 1 and rising(shares[9:])


def test_blur_takes_sharpness_away_in_time_and_by_severity(films):
    ends = [sharpness(film[-24:]) for film in films["blur"]]
    assert rising(ends[::-1])
    tenths = [sharpness(films["blur"][3][n : n + 24]) for n in range(0, FRAMES, 24)]
    assert rising(tenths[::-1][:-1])


def test_hue_turns_by_the_degrees_it_says(films, clean):
    def hues(film: np.ndarray) -> list[float]:
        """Of the purple subject's or the sky's pixels, wherever a colour is plain: (n,) in turns."""
        pixels = film[-1, 4, :160:8].astype(float) / 255
        return [colorsys.rgb_to_hsv(*pixel)[0] for pixel in pixels]

    turned = []
    for film in films["hue"]:
        turns = [(a - b) % 1 for a, b in zip(hues(film), hues(clean), strict=True)]
        turned.append(360 * float(np.median(turns)))
    assert rising(turned) and turned == pytest.approx([0, *DRIFTS["hue"].severities], abs=12)


def test_identity_changes_the_subject_and_nothing_else(films, clean):
    somebody = render_story(STORY, EDITION)[1].numpy()[:, 0] > 0
    for film, share in zip(films["identity"][1:], DRIFTS["identity"].severities, strict=True):
        differs = (film != clean).any(-1)
        first = round(FRAMES * (1 - share))
        assert not differs[:first].any() and differs[first:].any((1, 2)).all()
        either = somebody | (
            render_story(DRIFTS["identity"].story(STORY, EDITION, share), EDITION)[1].numpy()[:, 0] > 0
        )
        assert not differs[3:][~either].any() and differs[-1].mean() > 0.02
        assert abs(sharpness(film[-12:]) / sharpness(clean[-12:]) - 1) < 0.5


def test_freeze_stands_still_for_its_share(films):
    for film, share in zip(films["freeze"], (0, *DRIFTS["freeze"].severities), strict=True):
        still = steps(film)[FRAMES - round(FRAMES * share) :]
        assert not still.any() and (share == 0 or len(still) == FRAMES * share - 1)


def test_jitter_shakes_as_far_as_it_says(clean):
    picture = clean[0]
    marked = np.zeros_like(picture)
    marked[40, 80] = 255
    far = []
    for pixels in (0, *DRIFTS["jitter"].severities):
        shaken = DRIFTS["jitter"].frames([marked] * FRAMES, FRAMES, pixels, 5)
        places = np.array([np.argwhere(frame[..., 0])[0] for frame in shaken]) - (40, 80)
        assert np.abs(places).max() <= pixels and (not pixels or np.abs(places).max() >= pixels - 1)
        far.append(float(np.abs(places).mean()))
        assert not pixels or np.abs(places[-80:]).mean() > np.abs(places[:80]).mean()
    assert rising(far)
    edge = next(iter(DRIFTS["jitter"].frames([picture], 1, 8, 5)))
    assert set(map(tuple, edge[:, 0])) <= set(map(tuple, picture.reshape(-1, 3)))


def test_cuts_are_as_many_as_told_and_nest(films, clean):
    away = []
    for film, cuts in zip(films["cut"], (0, *DRIFTS["cut"].severities), strict=True):
        assert int((steps(film) > 8 * np.median(steps(film))).sum()) == cuts
        away.append({n for n in range(FRAMES) if not np.array_equal(film[n], clean[n])})
    assert all(fewer < more for fewer, more in pairwise(away))
    assert len(away[1]) == FRAMES / 10


@pytest.fixture
def few(monkeypatch):
    """A bench of three short films."""
    monkeypatch.setattr(bench, "DRIFTS", {"blur": Drift("pixels of sigma", (1, 3), frames=blur)})
    return plan_demo(1, 20, "160x96", 0)


def test_a_bench_is_films_storyboards_and_a_list(few, tmp_path):
    said: list[str] = []
    values = write_bench(few, tmp_path / "bench", False, said.append)
    assert values["films"] == values["rendered"] == len(said) == 3
    listed = json.loads((tmp_path / "bench" / "bench.json").read_text())
    assert listed["version"] == 1 and listed["settings"]["size"] == "160x96"
    told = [(film["id"], film["story"], film["drift"], film["severity"], film["level"]) for film in listed["films"]]
    assert told == [
        ("cat-1", "cat-1", "none", 0, 0),
        ("cat-1--blur-1", "cat-1", "blur", 1, 1),
        ("cat-1--blur-2", "cat-1", "blur", 3, 2),
    ]
    boards = [read_storyboard(tmp_path / "bench" / film["storyboard"]) for film in listed["films"]]
    assert boards[0] == boards[1] == boards[2] and boards[0].seconds == 20 and "cat" in boards[0].chunks[0].caption
    ends = []
    for film in listed["films"]:
        with av.open(str(tmp_path / "bench" / film["video"])) as container:
            pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert len(pictures) == FRAMES and pictures[0].shape == (96, 160, 3)
        ends.append(sharpness(np.stack(pictures[-12:])))
    assert rising(ends[::-1])
    assert not list(tmp_path.rglob("*.part.mp4")) and not list(tmp_path.rglob("*.tmp"))


def test_only_what_is_missing_is_drawn(few, tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(bench, "write_film", lambda shown, path, **_: (written.append(path.stem), path.touch()))
    (tmp_path / "videos").mkdir()
    for fresh, lost, drawn in ((False, None, 3), (False, None, 0), (False, "cat-1--blur-1", 1), (True, None, 3)):
        written.clear()
        if lost:
            (tmp_path / "videos" / f"{lost}.mp4").unlink()
        values = write_bench(few, tmp_path, fresh, lambda line: None)
        assert values["rendered"] == len(written) == drawn and (not lost or written == [lost])
        assert len(json.loads((tmp_path / "bench.json").read_text())["films"]) == 3
    other = plan_demo(1, 20, "160x96", 1)
    with pytest.raises(UsageError, match=r"other settings.*--fresh"):
        write_bench(other, tmp_path, False, lambda line: None)
    (tmp_path / "bench.json").write_text("[]")
    with pytest.raises(UsageError, match="cannot be read as a bench"):
        write_bench(few, tmp_path, False, lambda line: None)


def test_a_film_that_cannot_be_finished_leaves_nothing(few, tmp_path, monkeypatch):
    def breaking(pictures, total, severity, seed):
        yield next(iter(pictures))
        raise KeyboardInterrupt

    monkeypatch.setattr(bench, "DRIFTS", {"blur": Drift("", (1,), frames=breaking)})
    with pytest.raises(KeyboardInterrupt):
        write_bench(few, tmp_path, False, lambda line: None)
    assert [path.name for path in (tmp_path / "videos").glob("*.mp4")] == ["cat-1.mp4"]
    assert [film["id"] for film in json.loads((tmp_path / "bench.json").read_text())["films"]] == ["cat-1"]


@pytest.mark.parametrize(
    ("seconds", "size", "said"),
    [
        (19, "320x192", "at least 20 s"),
        (60, "large", "WIDTHxHEIGHT"),
        (60, "324x192", "multiples of 8"),
        (60, "64x32", "160x96"),
        (60, "1280x720", "640x384"),
    ],
)
def test_what_cannot_be_drawn_is_said(seconds, size, said):
    with pytest.raises(UsageError, match=said):
        plan_demo(3, seconds, size, 0)


def test_a_folder_that_is_none_is_said(few, tmp_path):
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(UsageError, match="name a folder"):
        write_bench(few, file, False, print)
    with pytest.raises(BlockvidError, match="cannot be written"):
        write_bench(few, file / "bench", False, print)


def test_the_command_says_what_it_makes(few, tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "write_film", lambda shown, path, **_: (path.parent.mkdir(exist_ok=True), path.touch()))
    run = CliRunner().invoke
    ask = ["demo", "--bench", str(tmp_path), "--stories", "1", "--seconds", "20", "--size", "160x96"]
    done = run(data.app, ask)
    assert done.exit_code == 0 and "3 films of 20 s, 3 of them made now" in done.stdout, done.output
    assert done.stderr.splitlines()[-1] == "cat-1--blur-2: film 3 of 3"
    assert json.loads(run(data.app, [*ask, "--json"]).stdout)["rendered"] == 0
    missing = run(data.app, ["demo"])
    assert isinstance(missing.exception, UsageError) and "needs one folder" in str(missing.exception)
    assert "Example: blockvid data demo" in run(data.app, ["demo", "--help"]).output
