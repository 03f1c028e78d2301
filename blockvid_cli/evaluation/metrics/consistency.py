"""Subject and background consistency: each frame beside the one before it and beside the span's first.

    c_t = (max(0, cos(f_t, f_{t-1})) + max(0, cos(f_t, f_0))) / 2        score = mean of c_t, t = 1..T-1

VBench (Huang et al. 2024) asks DINO ViT-B/16 for the subject and CLIP ViT-B/32 for the background, both about the whole
frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from blockvid_cli.evaluation.backends.protocol import Encoder
from blockvid_cli.video.reader import Frame
from blockvid_cli.evaluation.metrics.metric import Measure


def subject_consistency(encoder: Encoder) -> Measure:
    """Whether the subject looks the same throughout a span."""
    return _consistency("subject_consistency", encoder)


def background_consistency(encoder: Encoder) -> Measure:
    """Whether the surroundings look the same throughout a span."""
    return _consistency("background_consistency", encoder)


def _consistency(name: str, encoder: Encoder) -> Measure:
    return Measure(name, lambda _: Consistency(encoder), backend=encoder, prepare=partial(looks, encoder))


class Consistency:
    """See the module; keeps two embeddings."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._first: np.ndarray | None = None
        self._before = np.empty(0)
        self._sum, self._count = 0.0, 0

    def see(self, frame: Frame) -> None:
        look = looks(self._encoder, [frame])[0]
        if self._first is None:
            self._first = look
        else:
            near, far = float(look @ self._before), float(look @ self._first)
            self._sum, self._count = self._sum + (max(0.0, near) + max(0.0, far)) / 2, self._count + 1
        self._before = look

    def score(self) -> float | None:
        return self._sum / self._count if self._count else None


def looks(encoder: Encoder, frames: Sequence[Frame]) -> np.ndarray:
    """Embeddings (N, D) of length 1; those already made are not made again."""
    missing = [frame for frame in frames if encoder not in frame.cache]
    if missing:
        found = encoder.encode(missing)
        lengths = np.linalg.norm(found, axis=1, keepdims=True)
        for frame, look in zip(missing, found / np.where(lengths > 0, lengths, 1), strict=True):
            frame.cache[encoder] = look
    return np.stack([frame.cache[encoder] for frame in frames])
