"""``blockvid eval``: whole films through the command; scores beside the same worked out with the film in memory."""

from __future__ import annotations

import csv
import io
import itertools
import json
import os
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from blockvid_cli.__main__ import main
from blockvid_cli.evaluation import films as many
from blockvid_cli.evaluation.backends.builtin import InverseSearchFlow, SubjectAppearance
from blockvid_cli.evaluation.scores import EvalConfig, score_film
from blockvid_cli.evaluation.segments import Protocol
from blockvid_cli.storyboard.presentation import TitleCard
from blockvid_cli.video.ffmpeg import encode_video, run_ffmpeg
from blockvid_cli.video.metadata import Chapter, read_tags
from blockvid_cli.video.mux import mux_film, write_video
from blockvid_cli.video.reader import Frame, decode_frames, scan_video
from blockvid_cli.video.spec import Timeline, VideoSpec

GOLD = os.environ.get("BLOCKVID_LTX2")  # FastVideo's fastvideo/tests/eval/asset/ltx2.mp4, 832x480, 120 frames


def write(path: Path, pictures, fps: int = 12) -> Path:
    pictures = list(pictures)
    height, width = pictures[0].shape[:2]
    encode_video(pictures, path, rate=Fraction(fps), size=(width, height), total=len(pictures), crf=12)
    return path


def pan(frames: int, blur: float = 0.0, speed: float = 2.0):
    """A texture that passes by, ever more blurred."""
    noise = np.random.default_rng(5).integers(0, 255, (96, 400, 3), dtype=np.uint8)
    wide = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 2), None, 0, 255, cv2.NORM_MINMAX)
    for number in range(frames):
        at = int(number * speed)
        sigma = blur * number / frames
        picture = wide[:, at : at + 128]
        yield cv2.GaussianBlur(picture, (0, 0), sigma) if sigma > 0.1 else np.ascontiguousarray(picture)


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> tuple[Path, Path]:
    """A film, and the same with growing blur."""
    folder = tmp_path_factory.mktemp("films")
    return write(folder / "sharp.mp4", pan(47)), write(folder / "blurred.mp4", pan(47, blur=5.0))


def run(*arguments: object) -> int:
    """The command, in this process; its exit code."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as end:
        patch.setattr(sys, "argv", ["blockvid", *map(str, arguments)])
        main()
    return end.value.code


def out_of(capsys, *arguments: object) -> str:
    assert run("eval", *arguments) == 0
    return capsys.readouterr().out


# One film


def test_scores_are_those_of_the_whole_film_in_memory(pair):
    result = score_film(pair[0], EvalConfig())
    film = [frame.rgb.astype(np.float64) for frame in decode_frames(scan_video(pair[0]))]
    assert result["frames"] == len(film) == 47 and result["size"] == [128, 96] and result["fps"] == 12
    still = [1 - np.abs(a - b).mean() / 255 for a, b in itertools.pairwise(film)]
    measures = result["metrics"]
    assert measures["temporal_flickering"]["value"] == pytest.approx(np.mean(still), abs=1e-6)
    inside = [np.mean(still[4 * n : 4 * n + 3]) for n in range(10)]  # 47 // 10 frames a segment, pairs inside it
    assert measures["temporal_flickering"]["segments"] == pytest.approx(inside, abs=1e-6)
    looks = SubjectAppearance().encode([Frame(n, rgb.astype(np.uint8)) for n, rgb in enumerate(film)])
    looks /= np.linalg.norm(looks, axis=1, keepdims=True)
    near, far = (looks[1:] * looks[:-1]).sum(1), looks[1:] @ looks[0]
    assert measures["subject_consistency_builtin"]["value"] == pytest.approx(((near + far) / 2).mean(), abs=1e-5)
    frames = [Frame(n, rgb.astype(np.uint8)) for n, rgb in enumerate(film)]
    smooth = [
        1 - np.abs(InverseSearchFlow().interpolate(frames[n - 1], frames[n + 1]).astype(float) - film[n]).mean() / 255
        for n in range(1, 46, 2)
    ]
    assert measures["motion_smoothness_builtin"]["value"] == pytest.approx(np.mean(smooth), abs=1e-6)
    likeness = result["vde"]["paper"]["subject"]["segments"]
    first = looks[:4].mean(0)
    assert likeness[3] == pytest.approx((looks[12:16] @ first).mean() / np.linalg.norm(first), abs=1e-5)


def test_drift_errors_are_those_of_the_segments(pair):
    result = score_film(pair[1], EvalConfig())
    for errors in result["vde"].values():
        for error in errors.values():
            m = error["segments"]
            if not m[0]:  # everything moves, nothing of the background stays in place
                assert error["metric"] == "background_staticness_builtin" and error["reason"] == "zero_reference"
                continue
            by_hand = sum((10 - i) * abs(m[i] - m[0]) / m[0] for i in range(1, 10))
            assert error["value"] == pytest.approx(by_hand)
            assert error["normalised"] == pytest.approx(by_hand / 45)
    assert result["vde"]["reference"]["clarity"]["metric"] == "imaging_quality_builtin"
    assert result["vde"]["paper"]["clarity"]["metric"] == "laplacian_variance"


def test_blur_is_drift_of_clarity(pair):
    sharp, blurred = (score_film(path, EvalConfig())["vde"] for path in pair)
    for profile in ("reference", "paper"):
        assert blurred[profile]["clarity"]["value"] > 3 * sharp[profile]["clarity"]["value"]


def test_a_film_too_short_has_reasons_and_no_numbers(tmp_path):
    result = score_film(write(tmp_path / "one.mp4", pan(1)), EvalConfig())
    reasons = {name: measure["reason"] for name, measure in result["metrics"].items()}
    assert reasons["temporal_flickering"] == reasons["motion_smoothness_builtin"] == "too_few_frames"
    assert result["metrics"]["imaging_quality_builtin"]["value"] > 0
    assert all(
        (error["value"], error["reason"]) == (None, "too_short")
        for errors in result["vde"].values()
        for error in errors.values()
    )
    short = score_film(write(tmp_path / "short.mp4", pan(12)), EvalConfig())["vde"]["reference"]
    assert short["motion"] == {**short["motion"], "value": None, "reason": "unscored_segment"}


def test_a_black_film_has_no_drift_to_speak_of(tmp_path):
    result = score_film(write(tmp_path / "black.mp4", np.zeros((30, 48, 64, 3), np.uint8)), EvalConfig())
    assert result["vde"]["paper"]["clarity"]["reason"] == "zero_reference"
    assert result["vde"]["reference"]["motion"]["value"] == 0


def test_every_second_frame_is_said_so(pair):
    whole, thinned = score_film(pair[0], EvalConfig()), score_film(pair[0], EvalConfig(sample_fps=6))
    assert (thinned["frames"], thinned["fps"], thinned["settings"]["stride"]) == (24, 6, 2)
    assert thinned["seconds"] == whole["seconds"]
    assert thinned["metrics"]["temporal_flickering"]["value"] < whole["metrics"]["temporal_flickering"]["value"]


def test_the_long_protocol_scores_clips_of_two_seconds(pair):
    result = score_film(pair[0], EvalConfig(protocol=Protocol.LONG))
    film = [frame.rgb.astype(np.float64) for frame in decode_frames(scan_video(pair[0]))]
    still = [1 - np.abs(a - b).mean() / 255 for a, b in itertools.pairwise(film)]
    by_hand = (np.mean(still[0:23]) + np.mean(still[23:46])) / 2  # frames 0-23, and 23-46: the last reaches back
    assert result["metrics"]["temporal_flickering"]["value"] == pytest.approx(by_hand, abs=1e-6)
    subject = result["metrics"]["subject_consistency_builtin"]
    assert subject["value"] == subject["within_clips"] and 0 < subject["between_clips"] <= 1


# The command


def test_films_are_compared_and_the_best_is_marked(pair, capsys):
    said = out_of(capsys, *pair)
    (line,) = [line for line in said.splitlines() if "imaging quality" in line]
    sharp, blurred = line.split("↑")[1].split(" * ")
    assert float(sharp) > float(blurred)
    assert said.count("VDE, reference profile") == said.count("VDE, paper profile") == 1


def test_a_film_alone_shows_its_course(pair, capsys):
    said = out_of(capsys, pair[1])
    (line,) = [line for line in said.splitlines() if "imaging quality" in line]
    assert line.rstrip()[-10] == "█" and line.rstrip()[-1] in "▁▂"


def test_csv_json_and_markdown_say_the_same(pair, capsys):
    films = json.loads(out_of(capsys, *pair, "--json"))["films"]
    rows = list(csv.DictReader(io.StringIO(out_of(capsys, *pair, "--csv"))))
    page = out_of(capsys, *pair, "--markdown")
    for film, row in zip(films, rows, strict=True):
        value = film["vde"]["paper"]["clarity"]["value"]
        assert float(row["vde.paper.clarity"]) == pytest.approx(value, rel=1e-4)
        assert row["film"] == film["film"] and not row["error"]
        assert f"{value:.4f}" in page or f"{value:.2f}" in page
    assert page.splitlines()[0] == "| | sharp | blurred |"


def test_one_bad_film_costs_the_others_nothing(pair, tmp_path, capsys):
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"no film")
    assert run("eval", pair[0], bad, tmp_path / "absent.mp4", "--csv") == 1
    out, err = capsys.readouterr()
    rows = list(csv.DictReader(io.StringIO(out)))
    assert rows[0]["temporal_flickering"] and not rows[0]["error"]
    assert "bad.mp4" in rows[1]["error"] and "there is no such file" in rows[2]["error"]
    assert err.count("blockvid: ") == 2


def test_a_film_that_is_not_there_is_a_mistake_of_the_command_like_a_storyboard(pair, tmp_path, capsys):
    assert run("eval", tmp_path / "absent.mp4") == 2
    assert run("eval", pair[0], "--storyboard", tmp_path / "absent.yaml") == 2
    assert "absent.mp4" in capsys.readouterr().err


def test_a_film_is_scored_once(pair, tmp_path, monkeypatch):
    story = tmp_path / "story.yaml"
    story.write_text("version: 1\nchunks: [{caption: A swan., duration: 2}, {caption: A boat., duration: 2}]\n")
    asked = []
    monkeypatch.setattr(
        many, "score_film", lambda film, config, progress: asked.append(config) or score_film(film, config)
    )

    def ask(**changes):
        before = len(asked)
        (result,) = many.score_films([(pair[0], None)], EvalConfig(**changes), fresh=False)
        return result, len(asked) - before

    first, times = ask(stride=3)
    assert times == 1 and first["sha256"]
    assert ask(stride=3) == (first, 0)
    assert ask(stride=4)[1] == 1
    assert ask(stride=3, storyboard=story)[1] == 1
    story.write_text(story.read_text().replace("swan", "cat"))
    assert ask(stride=3, storyboard=story)[1] == 1
    (again,) = many.score_films([(pair[0], None)], EvalConfig(stride=3), fresh=True)
    assert again == first and len(asked) == 5


def test_films_are_scored_side_by_side(pair):
    alone = [score_film(path, EvalConfig(stride=2))["metrics"] for path in pair]
    told = []
    films = [(path, None) for path in pair]
    both = many.score_films(films, EvalConfig(stride=2), 2, True, lambda number, done: told.append((number, done)))
    assert [result["metrics"] for result in both] == alone
    assert sorted(told) == [(0, 1.0), (1, 1.0)]


def test_the_plot_is_a_picture(pair, tmp_path):
    assert run("eval", *pair, "--plot", tmp_path / "drift.png") == 0
    with Image.open(tmp_path / "drift.png") as picture:
        assert picture.format == "PNG" and min(picture.size) > 400
        assert len(picture.convert("RGB").getcolors(1 << 20)) > 50


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "name a film"),
        (("FILM", "--json", "--csv"), "do not go together"),
        (("FILM", "--stride", "2", "--sample-fps", "4"), "do not go together"),
        (("FILM", "--tier", "vbnech"), "Did you mean 'vbench'"),
        (("FILM", "--segments", "one"), "--segments one"),
        (("FILM", "--segments", "storyboard"), "--storyboard"),
        (("FILM", "--use", "imaging"), "METRIC=BACKEND"),
        (("FILM", "--use", "image_quality=pyiqa:musiq"), "imaging_quality"),
        (("--suite", "FILM"), "xpected"),
        (("--import-vbench", "absent.json"), "absent.json"),
    ],
)
def test_what_is_wrong_is_told_in_a_sentence(pair, capsys, arguments, sentence):
    code = run("eval", *(pair[0] if part == "FILM" else part for part in arguments))
    said = capsys.readouterr().err
    assert code in (1, 2) and sentence in said and "Traceback" not in said


# Captions


def test_the_probe_reads_whether_a_picture_book_film_shows_its_captions(tmp_path):
    from blockvid_cli.models.find import find_model
    from blockvid_cli.storybook.edition import read_edition
    from blockvid_cli.storybook.rendering import render_story
    from blockvid_cli.storybook.stories import HELD_OUT, opening_story

    card = find_model("storybook")
    edition = read_edition(card.folder / card.edition)
    story = opening_story(edition, HELD_OUT + 3, 24)
    drawn = (render_story(story, edition)[0].permute(0, 2, 3, 1) * 255).round().byte().numpy()
    film = write(tmp_path / "world.mp4", drawn, edition.fps)
    second = edition.period / edition.fps
    right, wrong = tmp_path / "right.yaml", tmp_path / "wrong.yaml"
    lines = [f"  - {{caption: {c.caption!r}, duration: {c.blocks * second:g}s}}" for c in story.chunks]
    right.write_text("\n".join(["version: 1", "chunks:", *lines]))
    other = "A purple car rests in the city at night."
    wrongs = [f"  - {{caption: {other}, duration: {c.blocks * second:g}s}}" for c in story.chunks]
    wrong.write_text("\n".join(["version: 1", "chunks:", *wrongs]))
    good, bad = (score_film(film, EvalConfig(storyboard=path))["adherence"] for path in (right, wrong))
    assert good["value"] > 0.9 and bad["value"] < 0.5
    assert [chunk["caption"] for chunk in good["chunks"]] == [c.caption for c in story.chunks]
    assert set(good["chunks"][0]["right"]) <= {"subject", "colour", "setting", "light", "action"}
    assert good["backend"] == "probe of storybook"


def test_other_films_need_clip_to_be_read(pair, tmp_path):
    story = tmp_path / "story.yaml"
    story.write_text("version: 1\nchunks: [{caption: A swan., duration: 4}]\n")
    assert score_film(pair[0], EvalConfig(storyboard=story))["adherence"]["reason"] == "only_picture_books_without_clip"


# Cards


TITLE, END = TitleCard("A pan", 1.5), TitleCard("The end", 1)


@pytest.fixture
def carded(tmp_path) -> tuple[Path, Path, Timeline]:
    """A film of three chunks, the same between two cards, and its timeline."""
    frames, size = list(pan(48)), (128, 96)
    chapters = tuple(Chapter(start, start + 4 / 3, f"a texture {start}") for start in (0, 4 / 3, 8 / 3))
    video = tmp_path / "pictures.mp4"
    write_video(frames, video, fps=12, size=size, frames_total=48, crf=4)
    plain, cards = tmp_path / "plain.mp4", tmp_path / "cards.mp4"
    mux_film(video, plain, VideoSpec(12, size, 48, chapters))
    spec = VideoSpec(12, size, 48, chapters, title_card=TITLE, end_card=END)
    mux_film(video, cards, replace(spec, metadata={"timeline": spec.timeline.as_values()}))
    (tmp_path / "bare").mkdir()
    mux_film(video, tmp_path / "bare" / "cards.mp4", spec)
    return plain, cards, spec.timeline


def assert_same_scores(result: dict, expected: dict) -> None:
    """Drift errors are shares of scores, and follow what encoding changed."""
    assert (result["frames"], result["seconds"]) == (expected["frames"], expected["seconds"])
    for name, metric in expected["metrics"].items():
        assert result["metrics"][name]["value"] == pytest.approx(metric["value"], rel=0.05, abs=0.01), name
        assert result["metrics"][name]["segments"] == pytest.approx(metric["segments"], rel=0.1, abs=0.02), name
    for name, error in expected["vde"]["paper"].items():
        same = error["normalised"] and pytest.approx(error["normalised"], rel=0.2, abs=0.02)
        assert result["vde"]["paper"][name]["normalised"] == same, name


def test_a_film_with_cards_scores_like_the_same_film_without(carded):
    plain, cards, _ = carded
    expected, result = score_film(plain, EvalConfig()), score_film(cards, EvalConfig())
    assert_same_scores(result, expected)
    assert result["notes"] == ["title card (1.5 s) and end card (1 s) are not scored"] and not expected["notes"]
    sampled = score_film(cards, EvalConfig(stride=3))
    assert sampled["frames"] == 16 and sampled["seconds"] == 4


def test_cards_of_a_film_without_metadata_are_known_by_its_project_its_storyboard_or_an_option(carded):
    plain, cards, timeline = carded
    expected, film = score_film(plain, EvalConfig()), cards.parent / "bare" / "cards.mp4"
    assert score_film(film, EvalConfig())["frames"] == 78  # nothing tells
    assert_same_scores(score_film(film, EvalConfig(title_seconds=1.5, end_seconds=1)), expected)
    story = film.with_suffix(".yaml")
    story.write_text("title_card: {text: A, seconds: 1.5}\nend_card: {text: B, seconds: 1}\nchunks:\n" + CHUNKS)
    assert_same_scores(score_film(film, EvalConfig(storyboard=story)), expected)
    assert_same_scores(score_film(plain, EvalConfig(storyboard=story)), expected)  # too short to have the cards
    project = film.with_suffix(".blockvid")
    project.mkdir()
    (project / "manifest.json").write_text(json.dumps({"timeline": timeline.as_values()}))
    (result,) = many.score_films([(film, None)], EvalConfig(), jobs=1)
    assert_same_scores(result, expected)
    (project / "manifest.json").write_text(json.dumps({"timeline": {"title": 18, "chunks": [47], "end": 12}}))
    (result,) = many.score_films([(film, None)], EvalConfig(), jobs=1)  # of another film
    assert result["frames"] == 78


CHUNKS = "".join(f"  - {{caption: a texture {n}, duration: 16f}}\n" for n in range(3)) + "fps: 12\n"


@pytest.mark.parametrize(
    "values",
    [7, {}, {"title": -18, "chunks": [84], "end": 12}, {"title": 1e400, "chunks": [0], "end": "x"}, {"chunks": [[]]}],
)
def test_a_timeline_that_makes_no_sense_is_ignored(carded, values):
    cards = carded[1].parent / "bare" / "cards.mp4"
    project = cards.with_suffix(".blockvid")
    project.mkdir()
    (project / "manifest.json").write_text(json.dumps({"timeline": values}))
    assert score_film(cards, EvalConfig())["frames"] == 78


def test_a_film_of_another_program_may_have_chapters_without_titles(pair, tmp_path):
    tags = ";FFMETADATA1\ncomment=[[[\n[CHAPTER]\nTIMEBASE=1/1000\nSTART=0\nEND=1000\n"
    film = tmp_path / "film.mkv"
    arguments = ["-i", str(pair[0]), "-f", "ffmetadata", "-i", "pipe:0", "-map_metadata", "1", "-c", "copy", str(film)]
    assert run_ffmpeg(arguments, tags.encode()).returncode == 0
    assert score_film(film, EvalConfig())["frames"] == 47
    assert [chapter.text for chapter in read_tags(film)[1]] == [""]


def test_chunks_begin_where_the_film_says_so(tmp_path):
    """Borders are rounded to blocks; a storyboard alone does not know that."""
    size, frames = (64, 48), [np.full((48, 64, 3), 20 + 40 * (n >= 18) + 60 * (n >= 41), np.uint8) for n in range(60)]
    video, story = tmp_path / "pictures.mp4", tmp_path / "story.yaml"
    write_video(frames, video, fps=12, size=size, frames_total=60, crf=4)
    chapters = (Chapter(0, 1.5, "a"), Chapter(1.5, 41 / 12, "b"), Chapter(41 / 12, 5, "c"))
    spec = VideoSpec(12, size, 60, chapters, title_card=TITLE)
    mux_film(video, tmp_path / "film.mp4", replace(spec, metadata={"timeline": spec.timeline.as_values()}))
    story.write_text("chunk: 5s\nchunks:\n  - {caption: a, duration: 1}\n  - {caption: b, duration: 2}\n  - c\n")
    config = EvalConfig(segments="storyboard", storyboard=story)
    result = score_film(tmp_path / "film.mp4", config)
    still = result["metrics"]["temporal_flickering"]["segments"]
    assert still == pytest.approx([1, 1, 1], abs=1e-3)  # nothing changes inside a chunk


@pytest.mark.parametrize("option", ["--title-seconds", "--end-seconds"])
def test_cards_that_are_longer_than_the_film_are_refused(pair, capsys, option):
    assert run("eval", pair[0], option, 60) == 1
    assert f"{option} 60" in capsys.readouterr().err


def test_worker_processes_import_nothing_from_the_working_folder(pair, tmp_path):
    for name in ("random.py", "multiprocessing.py", "numpy.py"):
        (tmp_path / name).write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nraise SystemExit\n")
    script = tmp_path / "bin" / "blockvid.py"  # as pip installs one
    script.parent.mkdir()
    script.write_text("from blockvid_cli.__main__ import main\nif __name__ == '__main__':\n    main()\n")
    arguments = ["eval", *map(str, pair), "--jobs", "2", "--fresh", "--sample-fps", "2", "--csv"]
    done = subprocess.run([sys.executable, str(script), *arguments], cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert not (tmp_path / "ran").exists() and done.stdout.count(b"\n") == 3


# Real footage


@pytest.mark.skipif(not GOLD, reason="BLOCKVID_LTX2 names no file: FastVideo's tests/eval/asset/ltx2.mp4")
def test_real_footage_scores_what_vbench_scores():
    """VBench's own figures of the clip, as FastVideo records them (tests/eval/reference_scores/vbench.*.json)."""
    measures = score_film(Path(GOLD), EvalConfig())["metrics"]
    assert measures["temporal_flickering"]["value"] == pytest.approx(0.979452, abs=1e-3)
    assert measures["motion_smoothness_builtin"]["value"] == pytest.approx(0.989725, abs=2e-3)
    assert measures["dynamic_degree_builtin"]["value"] == 1


# Drift that was put there


@pytest.mark.slow
def test_drifts_are_ranked_by_the_scores_that_are_meant_for_them(tmp_path, capsys):
    assert run("data", "demo", "--bench", tmp_path / "drifts", "--stories", 1) == 0
    capsys.readouterr()
    drifts = json.loads(out_of(capsys, "--suite", tmp_path / "drifts", "--json"))["drifts"]
    assert set(drifts) == {"blur", "hue", "identity", "freeze", "jitter", "cut"}
    for kind, found in drifts.items():
        meant = {name: score for name, score in found.items() if score["meant"]}
        assert meant and all(score["ordered"] == score["stories"] == 1 for score in meant.values()), kind
    change = {kind: {name: abs(score["change"]) for name, score in found.items()} for kind, found in drifts.items()}
    for name, kind, times in (
        ("vde.reference.clarity", "blur", 5),
        ("vde.paper.clarity", "blur", 2),
        ("vde.paper.subject", "identity", 1.5),
        ("vde.reference.motion", "jitter", 5),
        ("vde.reference.background", "cut", 5),
        ("imaging_quality_builtin", "blur", 5),
        ("motion_smoothness_builtin", "jitter", 5),
    ):
        others = [changes[name] for other, changes in change.items() if other != kind]
        assert change[kind][name] > times * max(others), (name, kind)
