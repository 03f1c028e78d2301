"""Damaged files of every kind that blockvid reads: no crash, no hang, no gigabytes.

``python -m tests.test_fuzz yaml 5000`` reads five thousand damaged storyboards; without arguments 50,000 files of all
targets. To add a target, add a row to ``TARGETS``, or to the table of its kind in ``fuzz_state`` or ``fuzz_models``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, fields
from itertools import pairwise
from pathlib import Path

import pytest

from blockvid_cli.job import RenderRequest
from blockvid_cli.models.card import find_card, packaged_folder
from blockvid_cli.storyboard.exports import dump_storyboard
from blockvid_cli.storyboard.plan import make_plan
from blockvid_cli.storyboard.storyboard import read_storyboard
from tests import fuzzing
from tests.fuzz_models import MODEL_TARGETS
from tests.fuzz_state import RECORD, STATE_TARGETS, history
from tests.fuzzing import Target, fuzz
from tests.test_bad_storyboards import GOOD
from tests.test_timed_captions import SLOTS, SRT, VTT

CASES = 50_000  # of all targets together, in the slow test
FAST_CASES = 60  # of each target, in every run

FULL = """\
title: "Two boats"
model: storybook
size: 160x96
fps: 24
style: ink drawing
negative: blurry
audio: {file: wind.ogg, start: film, fade_in: 1, fade_out: 2s, volume: 0.5, loudness: -16}
subtitles: soft
title_card: {text: Two boats, seconds: 2, colour: white, background: '#102030'}
end_card: The end
recipe: {steps: [1.0, 0.5], kv_cache: {name: semantic, top: 2, tau: 0.98}, solver: unipc}
chunks:
- {caption: A red boat, at: 0-4s, image: first.png}
- caption: "A \\"blue\\" boat"
  at: 4s - 00:08.5
  seed: 0
  cut: true
  transition: dissolve
  transition_seconds: 0.5
  audio: {file: wind.ogg, at: 1, duration: 2, loop: true}
- caption: >
    Both boats
    glide away
  duration: 48 frames
  subtitle: |
    Home
    at last
"""
JSON = json.dumps(
    {"title": "🦢", "seed": 7, "fps": 12.5, "chunks": [{"caption": "A swan", "duration": 3}, "It rests"]}, indent="\t"
)
LISTED = '{"video": "fox.mp4", "captions": [\n"' + '",\n"'.join(SLOTS) + '"\n]}\n'
CURLY = "{“captions”: [“A fox wakes (00s - 03s).”,\n“It stretches (04s–07s).”,\n]}\n"
LINES = "# a fox\n\n[0s-3s] A fox wakes\nIt runs off (3s - 5s).\n[00:05 – 00:09] It is gone\n"
EXAMPLES = tuple(file.read_bytes() for file in sorted(packaged_folder("storyboards").glob("*.yaml")))


def storyboard(name: str) -> Callable[[bytes, Path], None]:
    """Returns a function that reads a storyboard, plans its film and writes it as YAML."""

    def read(content: bytes, folder: Path) -> None:
        for file in ("wind.ogg", "first.png"):
            (folder / file).touch()
        if not (folder / "pipe").exists():
            os.mkfifo(folder / "pipe")
        (folder / name).write_bytes(content)
        story = read_storyboard(folder / name)
        assert [chunk.start for chunk in story.chunks] == [0, *(chunk.end for chunk in story.chunks[:-1])]
        (folder / "again.yaml").write_text(dump_storyboard(story), encoding="utf-8")
        assert len(story.chunks) > 500 or read_storyboard(folder / "again.yaml") == story
        make_plan(story, find_card("storybook"), seed=story.seed)

    return read


def override(content: bytes, folder: Path) -> None:
    """Reads one ``--set``."""
    (folder / "story.yaml").write_text(GOOD, encoding="utf-8")
    read_storyboard(folder / "story.yaml", [content[:5000].decode("utf-8", "replace")])


TARGETS: dict[str, Target] = {
    "yaml": Target((GOOD.encode(), FULL.encode(), *EXAMPLES), storyboard("story.yaml")),
    "json": Target((JSON.encode(),), storyboard("story.json")),
    "srt": Target((SRT.encode(),), storyboard("fox.srt")),
    "vtt": Target((VTT.encode(),), storyboard("fox.vtt")),
    "txt": Target((LINES.encode(), LISTED.encode()), storyboard("fox.txt")),
    "lv-bench": Target((LISTED.encode(), CURLY.encode()), storyboard("fox.json")),
    "set": Target((b"chunks.2.seed=7", b"recipe.kv_cache={name: window, sink: 3}", b"audio.at=2 min"), override),
    **STATE_TARGETS,
    **MODEL_TARGETS,
}

MANY = fuzzing.LARGEST // 10
TIMES = [f"00:{at // 60:02}:{at % 60:02}" for at in range(3600)]
HOSTILE = {  # name of a file: what once took minutes or gigabytes
    "brackets.txt": "A (" + "0-" * 2500,
    "empty-cues.srt": "0-->1\n" * MANY,
    "arrows.srt": "0-->1" * MANY,
    "many-cues.srt": "".join(f"{at} --> {end}\na\n\n" for at, end in pairwise(TIMES)) * 9,
    "many-lines.txt": "a\n" * MANY,
    "many-times.txt": "".join(f"[{at}s-{at + 1}s] a\n" for at in range(MANY // 2)),
    "many.json": '{"captions": [' + '"a",\n' * MANY + "]}",
    "open.json": '{"captions": ["' + "a" * 9 * MANY,
    "escapes.json": '{"captions": ["' + "\\a" * 4 * MANY,
    "quotes.json": '{"captions": [“' + '"  ' * 3 * MANY,
    "character.srt": "0-->1\n&#" + "9" * 5000 + ";",
    "sixties.yaml": "chunks: [a]\nseed: 1" + ":1" * 9000,
    "sixties-float.yaml": "chunks: [a]\nseed: 1" + ":1" * 500 + ".5",
    "sixties-tag.yaml": "chunks: [a]\nseed: !!int 1" + ":1" * 9000,
    "many-fields.yaml": "chunks: [a]\n" + "".join(f"titel{at}: b\n" for at in range(19_000)),
    "many-chunks.yaml": "chunks:\n" + "- a\n" * 2 * MANY,
    "wrong-chunks.yaml": "chunks:\n" + "- {titel: a}\n" * 5000,
    "long-alias.yaml": "title: &a '" + "a " * 4 * MANY + "'\nchunks:\n" + "- *a\n" * 99,
    "long-name.yaml": "? " + "a" * 9 * MANY + "\n: b",
    "blank.yaml": "chunks:\n- a" + "\n" * 9 * MANY,
    "text.yaml": "chunks:\n- " + "a " * 4 * MANY,
    "deep.json": '{"captions": ' + "[" * 4 * MANY,
    "deep.yaml": "chunks: " + '{"a":' * MANY,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_read_in_time(tmp_path, name):
    with fuzzing.time_limit(cpu=4):
        try:
            storyboard(name)(HOSTILE[name].encode(), tmp_path)
        except fuzzing.BlockvidError as error:
            assert error.exit_code == 2
            assert len(str(error)) < 3000


@pytest.mark.parametrize("name", TARGETS)
def test_damaged_files_end_in_a_sentence(name):
    assert fuzz(name, TARGETS[name], range(FAST_CASES)) == []


@pytest.mark.parametrize("name", [*asdict(RECORD), *(f"options.{field.name}" for field in fields(RenderRequest))])
def test_any_value_may_stand_in_a_history(tmp_path, name):
    for value in ([], {"a": {"b": []}}, 7, "\udc80", None, 10**25, "\0", ["a=b"], {"2": {"take": 10**20}}):
        outer, _, inner = name.partition(".")
        record = asdict(RECORD) | {outer: {inner: value} if inner else value}
        with suppress(fuzzing.BlockvidError):
            history(json.dumps(record).encode(), tmp_path)


def test_a_hang_and_a_crash_are_seen():
    def read(content: bytes, folder: Path) -> None:
        del folder
        if content.startswith(b"a"):
            raise ValueError("a crash")
        with fuzzing.time_limit(cpu=0.05):
            while True:
                pass

    failures = fuzz("trial", Target((b"abc\nb", b"bcd\nb"), read), range(8))
    assert len(failures) == 8
    assert any("ValueError: a crash" in line for line in failures)
    assert any("Hang" in line for line in failures)


@pytest.mark.slow
def test_fifty_thousand_damaged_files():
    ended = subprocess.run([sys.executable, "-m", "tests.test_fuzz"], cwd=Path(__file__).parents[1], check=False)
    assert ended.returncode == 0


def main(names: list[str], cases: int) -> int:
    """Reads ``cases`` files of each target; prints what went wrong, and how much time and memory it took."""
    failures = []
    for name in names:
        start = time.process_time()
        failures += fuzz(name, TARGETS[name], range(cases))
        print(f"{name}: {cases} files, {time.process_time() - start:.0f} s", flush=True)
    peak = fuzzing.resource.getrusage(fuzzing.resource.RUSAGE_SELF).ru_maxrss // 1024
    print(*failures, f"{len(failures)} failures, {peak} MiB at most", sep="\n", flush=True)
    return 1 if failures else 0


if __name__ == "__main__":
    arguments = sys.argv[1:]
    chosen = arguments[:1] or list(TARGETS)
    sys.exit(main(chosen, int(arguments[1]) if len(arguments) > 1 else -(-CASES // len(TARGETS))))
