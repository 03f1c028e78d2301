"""Captions with times from elsewhere, made into a storyboard: LV-Bench's JSON, SubRip, WebVTT, plain text.

LV-Bench prints the seconds that a slot covers, first and last: ``(00s - 03s)`` and ``(04s - 07s)`` are four
seconds each. So a slot lasts until the next one begins, and the last one a second longer than printed. Slots
that already meet, ``(0s - 3s)`` and ``(3s - 6s)``, are taken as they are.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from blockvid_cli.errors import StoryboardError
from blockvid_cli.storyboard.faults import Field, Reading
from blockvid_cli.storyboard.seconds import clock, decimal, parse_span, shorten
from blockvid_cli.storyboard.subtitles import read_cues

CAPTIONS = re.compile(r"""["“”]captions["“”]\s*:\s*\[""")
STRING = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
CURLY = re.compile(r'[“”](.*?)[“”"](?=\s*(?:,|\]|\Z))', re.DOTALL)
TIME_AFTER = re.compile(r"[(\[]([^()\[\]]*[0-9][^()\[\]]*[-–—][^()\[\]]*)[)\]]\s*\.?\s*\Z")
TIME_BEFORE = re.compile(r"\[([^()\[\]]*[0-9][^()\[\]]*[-–—][^()\[\]]*)\]\s*")


@dataclass(frozen=True)
class Timed:
    """A caption, the line it stands on, and its time in seconds if it has one."""

    caption: str
    line: int
    span: tuple[Fraction, Fraction] | None = None


def holds_captions(text: str, path: Path) -> bool:
    """Whether a file is captions to import rather than a storyboard."""
    suffix = path.suffix.lower()
    return suffix in (".srt", ".vtt", ".txt") or (suffix == ".json" and bool(CAPTIONS.search(text)))


def read_captions(text: str, path: Path) -> Reading:
    """The fields of a storyboard that tells these captions; what had to be decided is in its notes.

    Raises:
        StoryboardError: there are no captions, or their times cannot be understood; with file and line.
    """
    suffix = path.suffix.lower()
    if suffix in (".srt", ".vtt"):
        timed = [Timed(cue.text, cue.line, (cue.start, cue.end)) for cue in read_cues(text, path)]
    elif CAPTIONS.search(text):
        timed = _listed(text, path)
    else:
        timed = _lines(text, path)
    if not timed:
        raise StoryboardError(f"{path}:1: there is no caption in this file; write one a line")
    lines: dict[Field, int] = {(): 1, ("chunks",): timed[0].line}
    lines |= {("chunks", index): each.line for index, each in enumerate(timed)}
    reading = Reading(path, {}, lines)
    chunks: list[dict[str, object]] = [{"caption": each.caption} for each in timed]
    if any(each.span for each in timed):
        spans = _spans(timed, reading)
        for chunk, (start, end) in zip(chunks, spans, strict=True):
            chunk["at"] = f"{decimal(start)}s-{decimal(end)}s"
    reading.data = {"chunks": chunks}
    return reading


def _listed(text: str, path: Path) -> list[Timed]:
    """The captions of ``"captions": ["...", ...]``, in straight or curly quotes, with or without braces."""
    found = CAPTIONS.search(text)
    place = found.end() if found else 0
    captions = []
    while True:
        place = re.compile(r"[\s,]*").match(text, place).end()
        line = text.count("\n", 0, place) + 1
        if text[place : place + 1] == "]":
            return captions
        match = STRING.match(text, place) or CURLY.match(text, place)
        if not match:
            rest = shorten(text[place:], 20)
            wrong = f"'{rest}' is no caption in quotes" if rest else "the list does not end"
            raise StoryboardError(f'{path}:{line}: captions[{len(captions) + 1}]: {wrong}; write "...", or ]')
        captions.append(_timed(_unquoted(match), line, path))
        place = match.end()


def _unquoted(match: re.Match[str]) -> str:
    if match.re is CURLY:
        return match[1]
    try:
        return json.loads(match[0], strict=False)
    except json.JSONDecodeError:  # a backslash that escapes nothing
        return match[0][1:-1]


def _lines(text: str, path: Path) -> list[Timed]:
    """One caption a line; blank lines and lines that begin with # are left out."""
    numbered = [(number, line.strip()) for number, line in enumerate(text.split("\n"), start=1)]
    return [_timed(line, number, path) for number, line in numbered if line and not line.startswith("#")]


def _timed(text: str, line: int, path: Path) -> Timed:
    """Takes the time out of ``text (00s - 03s).`` or ``[0s-3s] text``."""
    text = text.strip()
    match = TIME_AFTER.search(text) or TIME_BEFORE.match(text)
    if not match:
        return Timed(text, line)
    try:
        span = parse_span(match[1])
    except ValueError as error:
        raise StoryboardError(f"{path}:{line}: {error}") from error
    caption = (text[: match.start()] + text[match.end() :]).strip()
    if not caption:
        raise StoryboardError(f"{path}:{line}: a time without a caption; write what is seen then")
    return Timed(caption, line, span)


def _spans(timed: list[Timed], reading: Reading) -> list[tuple[Fraction, Fraction]]:
    """Every chunk lasts until the next begins; the first begins at 0."""
    path = reading.source
    for before, each in zip([None, *timed], timed, strict=False):
        if each.span is None:
            raise StoryboardError(f"{path}:{each.line}: this caption has no time, but others do; give it one")
        if before and before.span and each.span[0] <= before.span[0]:
            first, second = clock(before.span[0]), clock(each.span[0])
            raise StoryboardError(
                f"{path}:{each.line}: this begins at {second}, but the caption before it at {first}; "
                "put them in order, one at a time"
            )
    printed = [each.span for each in timed if each.span]
    starts = [start for start, _ in printed]
    lasts = any(after - end == 1 for (_, end), after in zip(printed, starts[1:], strict=False))
    closing = printed[-1][1] + (1 if lasts and path.suffix.lower() not in (".srt", ".vtt") else 0)
    if starts[0]:
        reading.notes.append(f"chunk 1 begins at 00:00 instead of {clock(starts[0])}")
        starts[0] = Fraction(0)
    ends = [*starts[1:], closing]
    for number, (end, (_, asked)) in enumerate(zip(ends, printed, strict=True), start=1):
        if end != asked + (1 if closing != printed[-1][1] else 0):
            reading.notes.append(f"chunk {number} lasts until {clock(end)} instead of {clock(asked)}")
    return list(zip(starts, ends, strict=True))
