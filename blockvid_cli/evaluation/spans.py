"""Spans of frames that are scored on their own: segments by number, by seconds or by a storyboard's chunks; clips.

Frames T = 23, segments N = 5:

    trim           0    4    8    12   16   20 . .     k = T // N frames each, the tail is dropped (the authors' code)
    proportional   0    4     9    13    18      23    all frames, borders rounded
    short-last     0     5     10    15    20    23    k = ceil(T / N), the last is what is left
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from blockvid_cli.errors import UsageError


@dataclass(frozen=True)
class Span:
    """Frames ``first`` to ``end`` - 1."""

    first: int
    end: int


class Protocol(StrEnum):
    """What a measure sees at once: the whole film, or clips of two seconds as VBench-Long has it."""

    WHOLE = "whole"
    LONG = "long"


class Bounds(StrEnum):
    """What becomes of frames when a film is not a whole number of segments."""

    TRIM = "trim"
    PROPORTIONAL = "proportional"
    SHORT_LAST = "short-last"


def segments(frames: int, number: int, bounds: Bounds = Bounds.TRIM) -> list[Span]:
    """``number`` segments of equal length; fewer, or none, where there are not that many frames."""
    if bounds is Bounds.PROPORTIONAL:
        return _between([round(n * frames / number) for n in range(number + 1)])
    if bounds is Bounds.SHORT_LAST:
        length = max(1, -(-frames // number))
        return _between([*range(0, frames, length), frames])
    length = frames // number
    return _between([n * length for n in range(number + 1)])


def segments_of_seconds(frames: int, fps: float, seconds: float, bounds: Bounds = Bounds.TRIM) -> list[Span]:
    """Segments of so many seconds: whole ones (trim), as many stretched (proportional), or with a short last."""
    length = max(1, round(seconds * fps))
    if bounds is Bounds.SHORT_LAST:
        return _between([*range(0, frames, length), frames])
    if bounds is Bounds.PROPORTIONAL:
        return segments(frames, max(1, frames // length), bounds)
    return _between([n * length for n in range(frames // length + 1)])


def segments_at(frames: int, fps: float, borders: Sequence[float]) -> list[Span]:
    """Segments between borders in seconds, as a storyboard's chunks have them; what is beyond the film is left out."""
    return _between([min(round(second * fps), frames) for second in borders])


def _between(borders: Sequence[int]) -> list[Span]:
    return [Span(a, b) for a, b in itertools.pairwise(borders) if b > a]


def parse_segments(text: str) -> tuple[int | None, float | None]:
    """``"10"`` -> (10, None); ``"6s"`` -> (None, 6.0); ``"storyboard"`` -> (None, None).

    Raises:
        UsageError: it is none of these.
    """
    if text == "storyboard":
        return None, None
    try:
        number, seconds = (None, float(text[:-1])) if text.endswith("s") else (int(text), None)
    except ValueError:
        number, seconds = 0, None
    if (number is not None and number < 2) or (seconds is not None and not 0 < seconds < float("inf")):
        raise UsageError(f"--segments {text}: a number from 2 on (10), a length (6s) or 'storyboard'.")
    return number, seconds
