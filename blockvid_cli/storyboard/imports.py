"""Imports timed captions as a storyboard: LV-Bench's JSON, SubRip (.srt), WebVTT (.vtt), plain text.

LV-Bench prints the seconds that a slot covers, first and last: ``(00s - 03s)`` and ``(04s - 07s)`` are four
seconds each. So a slot lasts until the next one begins, and the last one a second longer than printed. Slots
that already meet, ``(0s - 3s)`` and ``(3s - 6s)``, are taken as they are.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from blockvid_cli.errors import StoryboardError, shorten
from blockvid_cli.files import MAX_TEXT
from blockvid_cli.storyboard.parse import MAX_CHUNKS, Document, FieldPath
from blockvid_cli.storyboard.seconds import exact_decimal, format_clock, parse_clock, parse_span

CAPTIONS = re.compile(r"""["“”]captions["“”]\s*:\s*\[""")
SEPARATORS = re.compile(r"[\s,]*+")
STRING = re.compile(r'"(?:[^"\\]|\\.)*+"', re.DOTALL)  # possessive: no step back, and no memory for one
CURLY = re.compile(r'[“”](.*?)[“”"](?=\s*+(?:,|\]|\Z))', re.DOTALL)
TAGS = re.compile(r"<[^<>]*+>|\{\\[^{}]*+\}")  # <i>, <c.yellow>, <00:01.000>, {\an8}
BRACKETS = "()[]"
DASHES = re.compile("[-–—]")
DIGIT = re.compile("[0-9]")
CAPTION_FILES = (".srt", ".vtt", ".txt")


@dataclass(frozen=True)
class TimedCaption:
    """A caption, the line it stands on, and its time in seconds if it has one."""

    caption: str
    line: int
    span: tuple[Fraction, Fraction] | None = None


def is_caption_file(text: str, path: Path) -> bool:
    """Whether a file is captions to import rather than a storyboard."""
    suffix = path.suffix.lower()
    return suffix in CAPTION_FILES or (suffix == ".json" and bool(CAPTIONS.search(text)))


def read_captions(text: str, path: Path) -> Document:
    """Returns the fields of a storyboard with these captions; the document's notes say what had to be decided.

    Raises:
        StoryboardError: there are no captions, or their times cannot be understood; with file and line.
    """
    suffix = path.suffix.lower()
    if suffix in (".srt", ".vtt"):
        captions = _cues(text, path)
    elif CAPTIONS.search(text):
        captions = _listed(text, path)
    else:
        captions = _lines(text, path)
    timed: list[TimedCaption] = []
    for caption in captions:
        timed.append(_checked(caption, len(timed), path))
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


def _checked(caption: TimedCaption, number: int, path: Path) -> TimedCaption:
    """Returns the caption, unless a film can have none so long or no more than the ``number`` before it."""
    if number == MAX_CHUNKS:
        sentence = f"there are more than {MAX_CHUNKS} captions; split the file into several"
        raise StoryboardError(f"{path}:{caption.line}: {sentence}")
    if len(caption.caption) > MAX_TEXT:
        sentence = f"this caption has {len(caption.caption)} characters; write a sentence or two"
        raise StoryboardError(f"{path}:{caption.line}: {sentence}")
    return caption


def _listed(text: str, path: Path) -> Iterator[TimedCaption]:
    """Yields the captions of ``"captions": ["...", ...]``, in straight or curly quotes, with or without braces."""
    start = CAPTIONS.search(text)
    position = start.end() if start else 0
    line, counted, number = 1, 0, 0  # the line at the character ``counted``
    while True:
        separators = SEPARATORS.match(text, position)
        position = separators.end() if separators else position
        line, counted = line + text.count("\n", counted, position), position
        if text[position : position + 1] == "]":
            return
        number += 1
        match = STRING.match(text, position) or CURLY.match(text, position)
        if not match:
            rest = shorten(text[position : position + MAX_TEXT], 20)
            wrong = f"'{rest}' is no caption in quotes" if rest else "the list does not end"
            raise StoryboardError(f'{path}:{line}: captions[{number}]: {wrong}; write "...", or ]')
        yield _timed(_unquote(match), line, path)
        position = match.end()


def _unquote(match: re.Match[str]) -> str:
    if match.re is CURLY:
        return match[1]
    try:
        return json.loads(match[0], strict=False)
    except json.JSONDecodeError:  # a backslash that escapes nothing
        return match[0][1:-1]


def _lines(text: str, path: Path) -> Iterator[TimedCaption]:
    """One caption a line; blank lines and lines that begin with # are left out."""
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip() and not line.strip().startswith("#"):
            yield _timed(line, number, path)


def _timed(text: str, line: int, path: Path) -> TimedCaption:
    """Takes the time out of ``text (00s - 03s).`` or ``[0s-3s] text``."""
    text = text.strip()
    caption, time = _split_time(text)
    if time is None:
        return TimedCaption(text, line)
    try:
        span = parse_span(time)
    except ValueError as error:
        raise StoryboardError(f"{path}:{line}: {error}") from error
    if not caption:
        raise StoryboardError(f"{path}:{line}: a time without a caption; write what is seen then")
    return TimedCaption(caption, line, span)


def _split_time(text: str) -> tuple[str, str | None]:
    """Returns a caption and the time in brackets behind or before it; None where there is no time.

    Brackets without a digit and a dash after it are a part of the caption.
    """
    end = text.removesuffix(".").rstrip()
    if end.endswith((")", "]")):
        begin = max(end.rfind(bracket, 0, -1) for bracket in BRACKETS)
        if begin >= 0 and end[begin] in "([" and _looks_like_time(end[begin + 1 : -1]):
            return text[:begin].strip(), end[begin + 1 : -1]
    if text.startswith("["):
        close = min((at for bracket in BRACKETS if (at := text.find(bracket, 1)) >= 0), default=0)
        if text[close] == "]" and _looks_like_time(text[1:close]):
            return text[close + 1 :].strip(), text[1:close]
    return text, None


def _looks_like_time(text: str) -> bool:
    digit = DIGIT.search(text)
    return bool(digit and DASHES.search(text, digit.end()))


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


def _cues(text: str, path: Path) -> Iterator[TimedCaption]:
    """Yields all cues of SubRip or WebVTT that hold text, without numbers, names, settings, tags and notes.

    Both formats are lines of text under a line with an arrow.

    Raises:
        StoryboardError: a time is not a time, or ends before it begins.
    """
    span: tuple[Fraction, Fraction] | None = None
    line, cues, words = 0, 0, list[str]()
    for number, raw in enumerate([*text.replace("\r\n", "\n").replace("\r", "\n").split("\n"), ""], start=1):
        stripped = raw.strip()
        if span and ("-->" in stripped or not stripped):
            if caption := _plain_text(" ".join(words), line, path):
                yield TimedCaption(caption, line, span)
            span, words = None, []
        if "-->" in stripped:
            span, line, cues = _times(stripped, number, path), number, cues + 1
            if cues > MAX_CHUNKS:  # those without text, too
                raise StoryboardError(
                    f"{path}:{line}: there are more than {MAX_CHUNKS} cues; split the file into several"
                )
        elif span:
            words.append(stripped)


def _plain_text(text: str, line: int, path: Path) -> str:
    """Returns the text of a cue without tags; ``&amp;`` becomes ``&``."""
    try:
        return html.unescape(TAGS.sub("", text)).strip()
    except ValueError as error:  # &#999...; with thousands of digits
        raise StoryboardError(f"{path}:{line}: a character in this cue has an impossible number; remove it") from error


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
