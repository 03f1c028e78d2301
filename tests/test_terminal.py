"""What reaches the terminal: no control character of a text, in any encoding, and quietly where nobody reads."""

from __future__ import annotations

import ast
import io
import json
import logging
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

import blockvid_cli
from blockvid_cli.commands import terminal
from blockvid_cli.commands.app import RENAMED
from tests.conftest import STORY
from tests.test_manners import commands

PACKAGE = Path(blockvid_cli.__file__).parent
WRITERS = {"print", "Console", "echo", "secho", "confirm", "prompt", "input", "style"}
ESCAPE = "\x1b[31m"
HOSTILE = f"{ESCAPE}red\x07\x9b2J\u202egnp.\u2066[bold]x[/bold]\r"


def calls(tree: ast.Module):
    """The functions that a module calls, as they are written."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func)


def test_one_module_writes_to_the_terminal():
    for file in PACKAGE.rglob("*.py"):
        if file == PACKAGE / "commands" / "terminal.py":
            continue
        for call in calls(ast.parse(file.read_text(encoding="utf-8"))):
            owner, _, name = call.rpartition(".")
            direct = name in WRITERS and owner in ("", "typer", "click", "rich", "rich.console", "builtins")
            direct |= name in ("write", "writelines") and owner.startswith(("sys.stdout", "sys.stderr"))
            assert not direct, f"{file}: {call}"


def is_clean(*texts: str) -> bool:
    return not any(terminal.CONTROLS.search(text) for text in texts)


@pytest.fixture
def hostile_model(model, tmp_path) -> Path:
    """A model whose card writes on the terminal what it likes."""
    folder = tmp_path / "model"
    folder.mkdir()
    for file in model.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    card = (folder / "card.yaml").read_text().replace("summary: ", f"summary: {json.dumps(HOSTILE)} #")
    (folder / "card.yaml").write_text(card.replace("licence: ", f"licence: {json.dumps(HOSTILE)} #"))
    return folder


STORIES = {
    "key": f"{json.dumps(HOSTILE)}: 1\nchunks: [A boat]",
    "value": f"fps: {json.dumps(HOSTILE)}\nchunks: [A boat]",
    "field": f"chunks:\n- {{caption: A boat, {json.dumps(HOSTILE)}: 1}}",
    "model": f"model: {json.dumps(HOSTILE)}\nchunks: [A boat]",
    "image": f"chunks:\n- {{caption: A boat, image: {json.dumps(HOSTILE)}}}",
    "recipe": f"recipe: {{{json.dumps(HOSTILE)}: 1}}\nchunks: [A boat]",
    "not yaml": HOSTILE,
}


@pytest.mark.parametrize("kind", STORIES)
def test_a_storyboard_cannot_steer_the_terminal_by_its_mistakes(tmp_path, blockvid, kind):
    path = tmp_path / "story.yaml"
    path.write_bytes(STORIES[kind].encode())
    for command in (["storyboard", "check"], ["render"], ["takes", "list"]):
        done = blockvid(*command, path)
        assert done.code in (2, 3) and is_clean(done.out, done.err) and done.err.count("\n") <= 2, done


def test_captions_and_titles_are_shown_as_they_are(tmp_path, blockvid, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    path = tmp_path / "story.yaml"
    path.write_text("title: '[red]Boats[/red] [/x]'\nchunks: ['A [bold]boat[/bold] :fox_face: [link=https://x.y]z.']\n")
    for command in (["storyboard", "check"], ["takes", "list"], ["storyboard", "diff"]):
        done = blockvid(*command, path)
        assert done.code == 0 and is_clean(done.out, done.err)
        assert command[-1] == "diff" or "A [bold]boat[/bold] :fox_face: [link=https://x.y]z." in done.out


@pytest.mark.parametrize(
    "arguments",
    [
        [f"{ESCAPE}rendr"],
        ["render", f"{ESCAPE}.yaml"],
        ["render", "story.yaml", f"--{ESCAPE}"],
        ["render", "story.yaml", "--chunk", ESCAPE],
        ["render", "story.yaml", "--model", ESCAPE],
        ["render", "story.yaml", "--set", f"chunks.1.{ESCAPE}=3"],
        ["history", ESCAPE],
        ["eval", f"{ESCAPE}.mp4"],
        ["models", "show", ESCAPE],
        ["models", "convert", ESCAPE, "x.safetensors"],
        ["storyboard", "import", ESCAPE],
    ],
)
def test_names_and_options_cannot_steer_it(tmp_path, blockvid, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "story.yaml").write_text(STORY)
    done = blockvid(*arguments)
    assert is_clean(done.out, done.err) and done.code, done


def test_a_card_and_a_history_cannot_steer_it(story, hostile_model, blockvid, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    for command in (["models", "show"], ["models", "verify"], ["models", "path"]):
        done = blockvid(*command, hostile_model)
        assert done.code == 0 and is_clean(done.out, done.err), done
    assert blockvid("render", story, "--model", hostile_model).code == 0
    file = story.with_suffix(".blockvid") / "history.jsonl"
    record = json.loads(file.read_text()) | {"result": HOSTILE, "options": {HOSTILE: HOSTILE}, "model": HOSTILE}
    file.write_text(json.dumps(record) + "\n")
    done = blockvid("history", story)
    assert done.code == 0 and is_clean(done.out, done.err) and "\\x1b[31mred" in done.out


def test_logs_and_warnings_of_libraries_cannot_steer_it(capsys):
    terminal.prepare_streams()
    handler = logging.StreamHandler(sys.stderr)
    logger = logging.getLogger("a library")
    logger.addHandler(handler)
    logger.warning("loading %s", HOSTILE)
    sys.stderr.write(warnings.formatwarning(HOSTILE, UserWarning, "file", 1))
    said = capsys.readouterr().err
    assert is_clean(said) and said.count("\\x1b[31mred") == 2


def test_answers_of_people_are_asked_for_in_clean_words(capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    assert terminal.confirm(f"Delete {HOSTILE}?") and is_clean(capsys.readouterr().err)
    with pytest.raises(terminal.UsageError, match="--yes"):
        terminal.confirm("Delete it?")


def streams(encoding: str, monkeypatch) -> tuple[io.BytesIO, io.BytesIO]:
    """Bytes that stdout and stderr write in an encoding."""
    written = io.BytesIO(), io.BytesIO()
    for name, stream in zip(("stdout", "stderr"), written, strict=True):
        monkeypatch.setattr(sys, name, io.TextIOWrapper(stream, encoding=encoding, write_through=True))
    return written


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_every_encoding_can_be_written(tmp_path, monkeypatch, encoding, model):
    from blockvid_cli.__main__ import main

    story, captions = tmp_path / "Füchse🦊.yaml", tmp_path / "Füchse🦊.srt"
    story.write_text("title: Füchse 🦊\nchunks: ['A fox 🦊 → the “lake”.']\n", encoding="utf-8")
    captions.write_text("1\n00:00:00,000 --> 00:00:02,000\nA fox 🦊 → the lake.\n", encoding="utf-8")
    lines = [["--help"], *([*path, "--help"] for path, _ in commands() if path)]
    lines += [["storyboard", "check", story], ["storyboard", "check", story, "--json"], ["takes", "list", story]]
    lines += [["storyboard", "import", captions], ["storyboard", "diff", story], ["storyboard", "schema", "--markdown"]]
    lines += [["render", "ü🦊.yaml"], ["eval", "ü🦊.mp4"], ["history", "ü🦊"], ["models", "show", "ü🦊"]]
    lines += [["models", "list"], ["models", "show", "longlive"], ["models", "show", model, "--json"]]
    for line in lines:
        out, _ = streams(encoding, monkeypatch)
        monkeypatch.setattr(sys, "argv", ["blockvid", *map(str, line)])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code in (0, 1, 2, 3), line
        if "--json" in line:
            json.loads(out.getvalue().decode(encoding))
        if line == ["storyboard", "import", captions]:
            imported = tmp_path / "imported.yaml"
            imported.write_bytes(out.getvalue())
            assert read_caption(imported) == "A fox 🦊 → the lake."


def read_caption(path: Path) -> str:
    from blockvid_cli.storyboard.storyboard import read_storyboard

    return read_storyboard(path).chunks[0].caption


@pytest.mark.parametrize("closed", ["stdout", "stderr"])
def test_a_pipe_that_nobody_reads_ends_a_command_quietly(tmp_path, closed):
    command = [sys.executable, "-m", "blockvid_cli", "storyboard", "schema" if closed == "stdout" else "chek"]
    reading, writing = os.pipe()
    os.close(reading)
    other = "stderr" if closed == "stdout" else "stdout"
    done = subprocess.run(command, **{closed: writing, other: subprocess.PIPE}, text=True)
    os.close(writing)
    assert not getattr(done, other) and done.returncode == (1 if closed == "stdout" else 2)


def test_streams_that_are_closed_from_the_start_are_no_error():
    code = "from blockvid_cli.__main__ import main; main()"
    for closed in ("1>&-", "2>&-", "1>&- 2>&-"):
        line = f"exec {sys.executable} -c '{code}' --version {closed}"
        assert subprocess.run(["sh", "-c", line], capture_output=True).returncode == 0


def test_options_that_had_other_names_say_the_new_one(blockvid):
    now = {option for _, command in commands() for parameter in command.params for option in parameter.opts}
    for old, new in RENAMED.items():
        assert new in now and old not in now
        done = blockvid("render", "story.yaml", old, "3")
        assert done.code == 2 and f"No such option: {old}; it is now {new}." in done.err and done.err.count("\n") == 1


def test_a_plan_fits_a_narrow_terminal(tmp_path, blockvid, monkeypatch):
    caption = "A red boat glides to the right across the quiet lake at sunset, past the reeds."
    path = tmp_path / "story.yaml"
    path.write_text(f"chunk: 4.9\nchunks:\n- {caption}\n- {caption}\n")
    for columns in (60, 100):
        monkeypatch.setenv("COLUMNS", str(columns))
        for command in (["storyboard", "check"], ["takes", "list"]):
            lines = blockvid(*command, path).out.splitlines()
            captions = [line for line in lines if "glides" in line or "quiet lake" in line]
            assert len(captions) <= 4 and all(len(line) <= columns for line in lines), "at most two lines a caption"


def test_a_card_is_shown_in_words(blockvid):
    shown = blockvid("models", "show", "longlive").out
    assert "1,419 million" in shown and "window (window 12, sink 3)" in shown and "this downloads it: blockvid" in shown
    assert "0.8333333333333334" not in shown and "cda9138d93872ef1" not in shown and "none" not in shown
