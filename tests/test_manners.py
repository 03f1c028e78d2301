"""Manners: what TAB offers, examples that work, one hint, nothing left lying about."""

from __future__ import annotations

import inspect
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer.main

from blockvid_cli.commands import display, film, options
from blockvid_cli.commands import terminal as terminal_module
from blockvid_cli.commands.app import app
from blockvid_cli.models.card import bundled_models, packaged_folder
from blockvid_cli.storyboard.seconds import format_duration
from blockvid_cli.timing import PhaseTimer
from blockvid_cli.video.mux import Film

ROOT = typer.main.get_command(app)


def commands(command=ROOT, path=()):
    """Every command and group with its path."""
    yield path, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, (*path, name))


def resolved(words: list[str]) -> tuple[object, list[str], str]:
    """The command that words call, what is left of them, and its path."""
    command, path = ROOT, "blockvid"
    while words and words[0] in getattr(command, "commands", {}):
        command, path, words = command.commands[words[0]], f"{path} {words[0]}", words[1:]
    return command, words, path


@pytest.mark.parametrize(("path", "command"), [pytest.param(*each, id=" ".join(each[0]) or "-") for each in commands()])
def test_every_help_has_an_example_that_calls_it_and_parses(path, command):
    text = inspect.cleandoc(command.help or "")
    assert "\n" not in text.replace("\n\n", ""), "a terminal would break a paragraph where the source does"
    examples = re.findall(r"Example: blockvid ([^\n]+)", text)
    assert examples
    for example in examples:
        words = shlex.split(example.split(" > ")[0])
        assert tuple(words[: len(path)]) == path, example
        called, rest, name = resolved(words)
        assert not getattr(called, "commands", None), example
        called.make_context(name, rest)  # a mistake raises
        for storyboard in re.findall(r"storyboards/(\S+\.yaml)", example):
            assert (packaged_folder("storyboards") / storyboard).is_file()


def test_blockvid_alone_says_what_to_try_first(blockvid):
    done = blockvid()
    said = " ".join((done.out + done.err).split())
    assert "Try first: blockvid storyboard new my.yaml" in said and "render" in said and "[bold]" not in said


def offered(line: str, folder: Path) -> list[str]:
    """What bash is offered at the end of a line."""
    words = shlex.split(line) + ([""] if line.endswith(" ") else [])
    asked = {"_BLOCKVID_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    code = "import sys; sys.argv = ['blockvid']; from blockvid_cli.__main__ import main; main()"
    environment = {**os.environ, **asked, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder, env=environment)
    assert done.stderr == "", done.stderr
    return done.stdout.split()


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("blockvid rend", ["render"]),
        ("blockvid storyboard ", ["check", "diff", "import", "new", "schema"]),
        ("blockvid render --model story", ["storybook"]),
        ("blockvid render ", ["my.yaml"]),
        ("blockvid history deep/", ["deep/a.yaml", "deep/a.blockvid"]),
    ],
)
def test_a_shell_is_offered_commands_models_and_storyboards(tmp_path, line, wanted):
    (tmp_path / "deep" / "a.blockvid").mkdir(parents=True)
    for name in ("my.yaml", "film.mp4", ".hidden.yaml", "deep/a.yaml"):
        (tmp_path / name).touch()
    assert sorted(offered(line, tmp_path)) == sorted(wanted)


def called(offer, incomplete: str = "") -> list[str]:
    return sorted(offer(incomplete))


def test_the_words_offered_are_those_of_the_tables():
    from blockvid_cli.models import checkpoint
    from blockvid_cli.models.devices import PRECISIONS
    from blockvid_cli.rollout.kv_cache.storage import DTYPES, LOCATIONS
    from blockvid_cli.rollout.recipe import KV_CACHES
    from blockvid_cli.runtime.presets import OFFLOADS, PRESETS
    from blockvid_cli.training.storybook import OBJECTIVES

    for offer, table in (
        (options.complete_kv_cache, KV_CACHES),
        (options.complete_precision, PRECISIONS),
        (options.complete_preset, ["auto", *PRESETS]),
        (options.complete_offload, OFFLOADS),
        (options.complete_kv_storage, LOCATIONS),
        (options.complete_kv_dtype, DTYPES),
        (options.complete_objective, OBJECTIVES),
        (options.complete_key_layout, checkpoint.LAYOUTS),
        (options.complete_weight_dtype, checkpoint.DTYPES),
        (options.complete_model, bundled_models()),
    ):
        assert called(offer) == sorted(table)
    assert called(options.complete_preset, "8") == ["8gb"] and called(options.complete_model, "nowhere") == []


def test_offers_are_made_at_once(tmp_path):
    for number in range(1000):
        (tmp_path / f"{number}.yaml").touch()
    began = time.process_time()
    assert len(options.complete_storyboard(f"{tmp_path}/")) == 1000 and options.complete_storyboard("/nowhere/") == []
    assert options.complete_model("") and time.process_time() - began < 0.3


def test_completion_can_be_installed():
    names = {option for parameter in ROOT.params for option in parameter.opts}
    assert {"--install-completion", "--show-completion"} <= names


@pytest.fixture
def terminal(monkeypatch, tmp_path):
    """A person at a terminal, on a machine where nothing was ever drawn, and where drawing takes no time."""
    rendered = Film(Path("story.mp4"), 60, 5.0, 9)
    monkeypatch.setattr(film, "render_film", lambda job, *_: film.RenderResult(rendered, job, PhaseTimer(), 1.0))
    monkeypatch.setenv("BLOCKVID_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(terminal_module, "is_interactive", lambda: True)


def test_the_first_film_on_a_machine_ends_with_a_hint_and_the_second_does_not(story, model, blockvid, terminal):
    for quiet in (["--quiet"], ["--json"], ["--progress", "json"]):
        assert "next:" not in blockvid("render", story, "--model", model, *quiet).err
    first = blockvid("render", story, "--model", model)
    assert first.err.count("next: ") == 1 and str(story) in first.err and "next:" not in first.out
    assert "next:" not in blockvid("render", story, "--model", model).err


def test_no_hint_where_nobody_looks(story, model, blockvid, terminal, monkeypatch):
    monkeypatch.setattr(terminal_module, "is_interactive", lambda: False)
    assert "next:" not in blockvid("render", story, "--model", model).err
    assert not (Path(os.environ["BLOCKVID_HOME"]) / display.HINT_MARKER).exists()


def test_the_hint_names_commands_that_parse():
    for line in display.HINTS:
        command, rest, name = resolved(shlex.split(line.format(story="a.yaml", film="a.mp4"))[1:])
        command.make_context(name, rest)


@pytest.mark.parametrize("storage", ["disk", "device"])
def test_nothing_is_left_lying_about(story, model, blockvid, storage):
    recipe = ("--kv-cache", "full", "--kv-storage", storage)
    assert blockvid("render", story, "--model", model, *recipe).code == 0
    left = {path.name for path in story.parent.rglob("*") if path.is_file()} - {"card.yaml"}
    texts = {path.name for path in story.parent.rglob("history/*")}
    beside = {"story.yaml", "story.mp4", "story.srt", "story.report.html"}
    kept = {
        "manifest.json",
        "history.jsonl",
        "sheet.png",
        ".lock",
        "take-1.safetensors",
        "pictures.mp4",
        "pictures.json",
        "subtitles.sha256",
    }
    assert left == beside | texts | kept
    folders = {path.name for path in story.with_suffix(".blockvid").iterdir() if path.is_dir()}
    assert folders == {"chunks", "history"}


def test_what_a_killed_render_left_is_removed(story, model, blockvid):
    folder = story.with_suffix(".blockvid") / ".memory"
    folder.mkdir(parents=True)
    (folder / "1-00000-00000.safetensors").touch()
    assert blockvid("render", story, "--model", model).code == 0 and not folder.exists()


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.2, "1 s"), (75, "75 s"), (720, "12 minutes"), (5400, "1.5 hours"), (89.4, "89 s")]
)
def test_durations_are_said_with_their_unit(seconds, said):
    assert format_duration(seconds) == said
