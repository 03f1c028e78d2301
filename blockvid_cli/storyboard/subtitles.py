"""SubRip (.srt) and WebVTT (.vtt): both are lines of text under a line with an arrow."""

from __future__ import annotations

import html
import re
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from blockvid_cli.errors import StoryboardError
from blockvid_cli.storyboard.seconds import clock, parse_clock

TAGS = re.compile(r"<[^<>]*>|\{\\[^{}]*\}")  # <i>, <c.yellow>, <00:01.000>, {\an8}


@dataclass(frozen=True)
class Cue:
    """A text shown from ``start`` to ``end`` (seconds), and the line its time stands on."""

    text: str
    line: int
    start: Fraction
    end: Fraction


def read_cues(text: str, path: Path) -> list[Cue]:
    """All cues that hold text; numbers, names, settings, tags and notes are left out.

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
        shown = below[: below.index("")] if "" in below else below
        words = html.unescape(TAGS.sub("", " ".join(shown)))
        if words.strip():
            cues.append(Cue(words.strip(), number, start, end))
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
            f"{path}:{number}: this cue ends at {clock(end)}, not after its start at {clock(start)}; "
            "write the earlier time first"
        )
    return start, end
