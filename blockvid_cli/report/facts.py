"""What a report tells of a render: the film, its chunks, where the time went, how it drifts, how to draw it again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class RecalledChunk:
    """An earlier chunk that was looked at while another was drawn.

    Args:
        chunk: its number, counted from 1.
        cosine: how alike the captions are; None for a chunk that is looked at because it is recent.
    """

    chunk: int
    cosine: float | None = None


@dataclass(frozen=True)
class RenderedChunk:
    """A chunk as it was drawn.

    Args:
        start, end: seconds in the film as it is, after rounding to blocks.
        caption: as written.
        sentence: what the network read instead, if that is another.
        take: the take that is in the film; ``takes`` are the numbers of all there are.
        kept, tokens: how many of how many tokens the memory kept of it.
        seconds: spent drawing it, now or then.
        resumed: drawn by an earlier render, not by this one.
        picture: a frame of it, (H, W, 3) uint8.
    """

    number: int
    shot: int
    start: float
    end: float
    caption: str
    seed: int
    sentence: str = ""
    take: int = 1
    takes: tuple[int, ...] = (1,)
    recalled: tuple[RecalledChunk, ...] = ()
    kept: int | None = None
    tokens: int | None = None
    seconds: float | None = None
    resumed: bool = False
    picture: np.ndarray | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Curve:
    """A measure along the film.

    Args:
        scores: one a segment; None where a segment has none.
        seconds: where in the film each segment has its middle.
        higher: whether more is better; None where neither is.
    """

    scores: tuple[float | None, ...]
    seconds: tuple[float, ...]
    higher: bool | None = None


@dataclass(frozen=True)
class RenderSettings:
    """All it takes to draw the film again.

    Args:
        command: the command line, quoted for a shell.
        storyboard: the text of the file, comments and all.
        recipe: plain values, as a storyboard writes them.
        weights: a hash of them.
        seed: the film's.
        versions: of what, which.
    """

    command: str
    storyboard: str
    model: str
    weights: str
    seed: int
    recipe: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """A render.

    Args:
        film: the file, which is in the report or beside it; None if there is none.
        seconds: the film's length.
        size: width and height in pixels.
        phases: seconds by phase, in order: text, load, draw, decode, mux.
        peak: bytes of memory at the most.
        curves: by name; there may be none.
        notes: a sentence each.
    """

    title: str
    film: Path | None
    seconds: float
    fps: float
    size: tuple[int, int]
    chunks: tuple[RenderedChunk, ...]
    settings: RenderSettings
    phases: Mapping[str, float] = field(default_factory=dict)
    peak: int | None = None
    curves: Mapping[str, Curve] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def drawing(self) -> float:
        """Seconds that all phases took."""
        return sum(self.phases.values())

    @property
    def speed(self) -> float | None:
        """Seconds of film drawn in a second; None where nothing was drawn or the time is not known."""
        drawn = sum(chunk.end - chunk.start for chunk in self.chunks if not chunk.resumed)
        return drawn / self.drawing if drawn and self.drawing else None
