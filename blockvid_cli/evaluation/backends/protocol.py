"""What a measure may be told by: the four questions a network, a rule of thumb or a program of a user's can answer.

A measure is a rule (how a span's frames become a number) with one of these inside; tiers differ in these alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from blockvid_cli.video.reader import Frame


class Backend(Protocol):
    """``name``: what answers, with its checkpoint; ``suffix``: what it adds to a measure's name, '' where it is what
    the measure's authors use.
    """

    name: str
    suffix: str


class Encoder(Backend, Protocol):
    """What frames look like."""

    def encode(self, frames: Sequence[Frame]) -> np.ndarray:
        """Frames -> embeddings (N, D) float32, compared by their cosine."""


class Judge(Backend, Protocol):
    """How good frames look."""

    def judge(self, frames: Sequence[Frame]) -> np.ndarray:
        """Frames -> (N,) float32, 0 (bad) to 1 (good)."""


class Interpolator(Backend, Protocol):
    """What was between two frames."""

    def between(self, left: Frame, right: Frame) -> np.ndarray:
        """The frame half-way, (H, W, 3) uint8."""


class Flow(Backend, Protocol):
    """How far everything moved."""

    def flow(self, a: Frame, b: Frame) -> np.ndarray:
        """Displacement from a to b, (h, w, 2) float32 (x, y), in pixels of its own grid, which may be coarser."""


class Texts(Encoder, Protocol):
    """What frames look like, and what sentences would."""

    def read(self, sentences: Sequence[str]) -> np.ndarray:
        """Sentences -> embeddings (N, D) float32, comparable with those of frames."""
