"""What a metric's backend must answer: four questions about frames, for a network, a rule of thumb or a user's program.

A metric is a rule (how the frames of a span become a number) around a backend; tiers differ in their backends alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from blockvid_cli.video.reader import Frame


class Backend(Protocol):
    """``name``: what answers, with its checkpoint; ``suffix``: what it adds to a metric's name, '' where it is the
    backend that the metric's authors use.
    """

    name: str
    suffix: str


class ImageEncoder(Backend, Protocol):
    """Says how similar frames are."""

    def encode(self, frames: Sequence[Frame]) -> np.ndarray:
        """Frames -> embeddings (N, D) float32, compared by their cosine."""


class ImageScorer(Backend, Protocol):
    """Says how good frames look."""

    def score(self, frames: Sequence[Frame]) -> np.ndarray:
        """Frames -> (N,) float32, 0 (bad) to 1 (good)."""


class FrameInterpolator(Backend, Protocol):
    """Makes the frame between two frames."""

    def interpolate(self, left: Frame, right: Frame) -> np.ndarray:
        """The frame half-way, (H, W, 3) uint8."""


class OpticalFlow(Backend, Protocol):
    """Says how far everything moved."""

    def flow(self, a: Frame, b: Frame) -> np.ndarray:
        """Displacement from a to b, (h, w, 2) float32 (x, y), in pixels of its own grid, which may be coarser."""


class TextImageEncoder(ImageEncoder, Protocol):
    """Says how similar frames and sentences are."""

    def encode_text(self, sentences: Sequence[str]) -> np.ndarray:
        """Sentences -> embeddings (N, D) float32, comparable with those of frames."""
