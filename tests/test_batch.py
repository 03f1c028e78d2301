"""Many films in one go: what they are called, what is said of them, and that nothing stops the rest but Ctrl-C."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from blockvid_cli.commands.render import parse_seeds
from blockvid_cli.errors import OutOfMemoryError, UsageError
from blockvid_cli.models.wan.denoiser import WanDenoiser
from blockvid_cli.project.history import read_history


@pytest.fixture
def other(story) -> Path:
    """A shorter storyboard beside the first."""
    file = story.with_name("other.yaml")
    file.write_text("version: 1\nseed: 8\nchunks: [{caption: A blue cat rests., duration: 1s}]\n")
    return file


@pytest.mark.parametrize(
    ("text", "seeds"),
    [("3", [3]), ("1..4", [1, 2, 3, 4]), ("9,3, 5", [9, 3, 5]), ("1..3,2,7", [1, 2, 3, 7]), ("0 .. 1", [0, 1])],
)
def test_seeds_are_a_span_a_list_or_both(text, seeds):
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", "a", "1..", "4..1", "-1", "1.5", "1,,2", "1..2..3", "0..1000", "1...3", "٣"])
def test_what_is_no_seeds_gets_a_sentence(text):
    with pytest.raises(UsageError, match="--seeds"):
        parse_seeds(text)


def test_every_storyboard_is_rendered_with_every_seed(story, other, model, blockvid):
    done = blockvid("render", story, other, "--model", model, "--seeds", "1..2", "--json", "--progress", "json")
    assert done.code == 0, done.err
    films = json.loads(done.out)["films"]
    names = ["story-seed-1.mp4", "story-seed-2.mp4", "other-seed-1.mp4", "other-seed-2.mp4"]
    assert [Path(film["film"]).name for film in films] == names
    assert [(film["seed"], film["result"], film["exit_code"]) for film in films] == [(1, "done", 0), (2, "done", 0)] * 2
    assert films[0]["seconds"] == 5.0 and films[2]["seconds"] == 1.0
    folders = [story.with_name(name).with_suffix(".blockvid") for name in names]
    assert [json.loads((folder / "manifest.json").read_text())["seed"] for folder in folders] == [1, 2, 1, 2]
    events = [json.loads(line) for line in done.err.splitlines()]
    assert [(e["number"], e["films"], Path(e["film"]).name) for e in events if e["event"] == "film"] == [
        (number, 4, name) for number, name in enumerate(names, 1)
    ]


def test_several_storyboards_keep_their_own_names_and_seeds(story, other, model, blockvid, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    done = blockvid("render", story, other, "--model", model)
    assert done.code == 0 and story.with_suffix(".mp4").exists() and other.with_suffix(".mp4").exists()
    rows = [line.split() for line in done.out.splitlines() if ".mp4" in line]
    assert [(row[0], row[1], row[-1]) for row in rows] == [
        (str(story.with_suffix(".mp4")), "3", "done"),
        (str(other.with_suffix(".mp4")), "8", "done"),
    ]
    assert f"film 2 of 2: {other.with_suffix('.mp4')}" in done.err


def test_what_fails_does_not_stop_the_rest_and_gives_the_exit_code(story, other, model, blockvid, monkeypatch):
    import blockvid_cli.render as pipeline

    wrong = story.with_name("wrong.yaml")
    wrong.write_text("version: 1\nsed: 1\nchunks: [x]\n")
    real, films = pipeline.render, []

    def sometimes(job, *rest):
        films.append(job.output.name)
        if job.output.name == "story-seed-2.mp4":
            raise OutOfMemoryError("not enough memory to denoise.")
        return real(job, *rest)

    monkeypatch.setattr(pipeline, "render", sometimes)
    arguments = ("--model", model, "--seeds", "1,2", "--json", "-q")
    done = blockvid("render", other, story, wrong, *arguments)
    results = {Path(f["film"]).name: (f["result"].split(":")[0], f["exit_code"]) for f in json.loads(done.out)["films"]}
    assert results == {
        "other-seed-1.mp4": ("done", 0),
        "other-seed-2.mp4": ("done", 0),
        "story-seed-1.mp4": ("done", 0),
        "story-seed-2.mp4": ("failed", 4),
        "wrong-seed-1.mp4": ("failed", 2),
        "wrong-seed-2.mp4": ("failed", 2),
    }
    assert done.code == 4  # of the first in the table
    assert films == ["other-seed-1.mp4", "other-seed-2.mp4", "story-seed-1.mp4", "story-seed-2.mp4"]
    lines = done.err.splitlines()
    assert "wrong.yaml:2: sed" in lines[0] and len(lines) == 2  # once, and before an hour has gone
    assert not story.with_name("wrong-seed-1.blockvid").exists()


def test_several_films_go_into_a_folder(story, other, model, blockvid, tmp_path):
    done = blockvid("render", story, other, "--model", model, "-o", tmp_path / "films" / "today", "--seeds", "4")
    assert done.code == 0, done.err
    films = sorted(path.name for path in (tmp_path / "films" / "today").glob("*.mp4"))
    assert films == ["other-seed-4.mp4", "story-seed-4.mp4"] and not story.with_suffix(".mp4").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["{story}", "{other}", "-o", "film.mp4"], "these are several films; name a folder"),
        (["{story}", "--seeds", "1..2", "-o", "film.mp4"], "these are several films"),
        (["{story}", "--seeds", "1..2", "--seed", "3"], "--seed and --seeds"),
        (["{story}", "--seeds", "two"], "give 1..4, or 3,5,9; not 'two'"),
        (["{story}", "{story}"], "would both become"),
        (["{story}", "{twin}", "-o", "films"], "would both become"),
    ],
)
def test_what_does_not_go_together_is_refused_before_anything_is_rendered(
    story, other, model, blockvid, tmp_path, arguments, said
):
    (tmp_path / "deep").mkdir()
    twin = tmp_path / "deep" / "story.yaml"
    twin.write_text(story.read_text())
    named = {"{story}": story, "{other}": other, "{twin}": twin}
    done = blockvid("render", *(named.get(a, a) for a in arguments), "--model", model)
    assert done.code == 2 and said in " ".join(done.err.split()) and not list(tmp_path.rglob("*.blockvid"))


def test_interrupting_keeps_what_is_finished_and_ends_with_130(story, other, model, blockvid, monkeypatch):
    third = story.with_name("third.yaml")
    third.write_text(other.read_text())
    real, blocks = WanDenoiser.__call__, []

    def stopped(self, x, *rest):
        if len(blocks) == 20:  # in the second film, after its first blocks
            raise KeyboardInterrupt
        blocks.append(x)
        return real(self, x, *rest)

    monkeypatch.setattr(WanDenoiser, "__call__", stopped)
    done = blockvid("render", other, story, third, "--model", model, "--json")
    assert done.code == 130 and "interrupted; " in done.err and "This goes on from there: blockvid render" in done.err
    assert [film["result"] for film in json.loads(done.out)["films"]] == ["done", "interrupted", "not begun"]
    assert other.with_suffix(".mp4").exists() and not story.with_suffix(".mp4").exists()
    (last,) = read_history(story.with_suffix(".blockvid")).renders.values()
    assert last.result == "interrupted" and last.rendered > 0
