"""Imports timed captions as a storyboard: LV-Bench's JSON, SubRip (.srt), WebVTT (.vtt), plain text.

LV-Bench prints the seconds that a slot covers, first and last: ``(00s - 03s)`` and ``(04s - 07s)`` are four
seconds each. So a slot lasts until the next one begins, and the last one a second longer than printed. Slots
that already meet, ``(0s - 3s)`` and ``(3s - 6s)``, are taken as they are.
"""

from __future__ import annotations

import html
import json
import re
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from blockvid_cli.errors import StoryboardError
from blockvid_cli.storyboard.parse import Document, FieldPath
from blockvid_cli.storyboard.seconds import exact_decimal, format_clock, parse_clock, parse_span, shorten

CAPTIONS = re.compile(r"""["“”]captions["“”]\s*:\s*\[""")
STRING = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
CURLY = re.compile(r'[“”](.*?)[“”"](?=\s*(?:,|\]|\Z))', re.DOTALL)
TAGS = re.compile(r"<[^<>]*>|\{\\[^{}]*\}")  # <i>, <c.yellow>, <00:01.000>, {\an8}
TIME_AFTER = re.compile(r"[(\[]([^()\[\]]*[0-9][^()\[\]]*[-–—][^()\[\]]*)[)\]]\s*\.?\s*\Z")
TIME_BEFORE = re.compile(r"\[([^()\[\]]*[0-9][^()\[\]]*[-–—][^()\[\]]*)\]\s*")


@dataclass(frozen=True)
class TimedCaption:
    """A caption, the line it stands on, and its time in seconds if it has one."""

    caption: str
    line: int
    span: tuple[Fraction, Fraction] | None = None


def is_caption_file(text: str, path: Path) -> bool:
    """Whether a file is captions to import rather than a storyboard."""
    suffix = path.suffix.lower()
    return suffix in (".srt", ".vtt", ".txt") or (suffix == ".json" and bool(CAPTIONS.search(text)))


def read_captions(text: str, path: Path) -> Document:
    """Returns the fields of a storyboard with these captions; the document's notes say what had to be decided.

    Raises:
        StoryboardError: there are no captions, or their times cannot be understood; with file and line.
    """
    suffix = path.suffix.lower()
    if suffix in (".srt", ".vtt"):
        timed = [TimedCaption(cue.text, cue.line, (cue.start, cue.end)) for cue in read_cues(text, path)]
    elif CAPTIONS.search(text):
        timed = _listed(text, path)
    else:
        timed = _lines(text, path)
    if not timed:
        raise StoryboardError(f"{path}:1: there is no caption in this file; write one a line")
    lines: dict[FieldPath, int] = {(): 1, ("chunks",): timed[0].line}
    lines |= {("chunks", index): each.line for index, each in enumerate(timed)}
    document = Document(path, {}, lines)
    chunks: list[dict[str, object]] = [{"caption": each.caption} for each in timed]
    if any(each.span for each in timed):
        spans = _spans(timed, document)
        for chunk, (start, end) in zip(chunks, spans, strict=True):
            chunk["at"] = f"{exact_decimal(start)}s-{exact_decimal(end)}s"
    document.data = {"chunks": chunks}
    return document


def _listed(text: str, path: Path) -> list[TimedCaption]:
    """Returns the captions of ``"captions": ["...", ...]``, in straight or curly quotes, with or without braces."""
    start = CAPTIONS.search(text)
    position = start.end() if start else 0
    captions = []
    while True:
        while text[position : position + 1].isspace() or text[position : position + 1] == ",":
            position += 1
        line = text.count("\n", 0, position) + 1
        if text[position : position + 1] == "]":
            return captions
        match = STRING.match(text, position) or CURLY.match(text, position)
        if not match:
            rest = shorten(text[position:], 20)
            wrong = f"'{rest}' is no caption in quotes" if rest else "the list does not end"
            raise StoryboardError(f'{path}:{line}: captions[{len(captions) + 1}]: {wrong}; write "...", or ]')
        captions.append(_timed(_unquote(match), line, path))
        position = match.end()


def _unquote(match: re.Match[str]) -> str:
    if match.re is CURLY:
        return match[1]
    try:
        return json.loads(match[0], strict=False)
    except json.JSONDecodeError:  # a backslash that escapes nothing
        return match[0][1:-1]


def _lines(text: str, path: Path) -> list[TimedCaption]:
    """One caption a line; blank lines and lines that begin with # are left out."""
    numbered = [(number, line.strip()) for number, line in enumerate(text.split("\n"), start=1)]
    return [_timed(line, number, path) for number, line in numbered if line and not line.startswith("#")]


def _timed(text: str, line: int, path: Path) -> TimedCaption:
    """Takes the time out of ``text (00s - 03s).`` or ``[0s-3s] text``."""
    text = text.strip()
    match = TIME_AFTER.search(text) or TIME_BEFORE.match(text)
    if not match:
        return TimedCaption(text, line)
    try:
        span = parse_span(match[1])
    except ValueError as error:
        raise StoryboardError(f"{path}:{line}: {error}") from error
    caption = (text[: match.start()] + text[match.end() :]).strip()
    if not caption:
        raise StoryboardError(f"{path}:{line}: a time without a caption; write what is seen then")
    return TimedCaption(caption, line, span)


def _spans(timed: list[TimedCaption], document: Document) -> list[tuple[Fraction, Fraction]]:
    """Every chunk lasts until the next begins; the first begins at 0."""
    path = document.source
    for previous, each in zip([None, *timed], timed, strict=False):
        if each.span is None:
            raise StoryboardError(f"{path}:{each.line}: this caption has no time, but others do; give it one")
        if previous and previous.span and each.span[0] <= previous.span[0]:
            first, second = format_clock(previous.span[0]), format_clock(each.span[0])
            raise StoryboardError(
                f"{path}:{each.line}: this begins at {second}, but the caption before it at {first}; "
                "put them in order, one at a time"
            )
    printed = [each.span for each in timed if each.span]
    starts = [start for start, _ in printed]
    names_last_second = any(after - end == 1 for (_, end), after in zip(printed, starts[1:], strict=False))
    closing = printed[-1][1] + (1 if names_last_second and path.suffix.lower() not in (".srt", ".vtt") else 0)
    if starts[0]:
        document.notes.append(f"chunk 1 begins at 00:00 instead of {format_clock(starts[0])}")
        starts[0] = Fraction(0)
    ends = [*starts[1:], closing]
    for number, (end, (_, printed_end)) in enumerate(zip(ends, printed, strict=True), start=1):
        if end != printed_end + (1 if closing != printed[-1][1] else 0):
            document.notes.append(
                f"chunk {number} lasts until {format_clock(end)} instead of {format_clock(printed_end)}"
            )
    return list(zip(starts, ends, strict=True))


@dataclass(frozen=True)
class Cue:
    """A subtitle from ``start`` to ``end`` (seconds), and the line its time stands on."""

    text: str
    line: int
    start: Fraction
    end: Fraction


def read_cues(text: str, path: Path) -> list[Cue]:
    """Returns all cues of SubRip or WebVTT that hold text, without numbers, names, settings, tags and notes.

    Both formats are lines of text under a line with an arrow.

    Raises:
        StoryboardError: a time is not a time, or ends before it begins.
    """
    cues = []
    lines = [line.strip() for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n")]
    for number, line in enumerate(lines, start=1):
        if "-->" not in line:
            continue
        start, end = _times(line, number, path)
        below = lines[number:]
        lines_of_cue = below[: below.index("")] if "" in below else below
        caption = html.unescape(TAGS.sub("", " ".join(lines_of_cue))).strip()
        if caption:
            cues.append(Cue(caption, number, start, end))
    return cues


def _times(line: str, number: int, path: Path) -> tuple[Fraction, Fraction]:
    before, _, after = line.partition("-->")
    try:
        start = parse_clock(before.replace(",", "."))
        end = parse_clock((after.split() or [""])[0].replace(",", "."))
    except ValueError as error:
        raise StoryboardError(f"{path}:{number}: {error}, as in 00:00:01,500 --> 00:00:04,000") from error
    if end <= start:
        raise StoryboardError(
            f"{path}:{number}: this cue ends at {format_clock(end)}, not after its start at {format_clock(start)}; "
            "write the earlier time first"
        )
    return start, end
