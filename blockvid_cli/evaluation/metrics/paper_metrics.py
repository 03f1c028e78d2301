"""The segment scores that BlockVid's appendix prints (arXiv 2511.22973, A.4.3, Eq. 20-25).

    clarity     mean variance of the luminance's Laplacian
    motion      mean length of the optical flow, or mean smoothness
    aesthetic   mean of a predictor's score of each frame
    background  mean share of the background that does not move
    subject     mean cosine between the subject's embedding and its mean embedding in the first segment

What the paper leaves open: luminance is BT.601 in 8 bits at the film's own size, the Laplacian has 4 neighbours; flow
is in pixels per sixteenth of a second at a short side of 256, and what moves by no more than 1 does not move.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from blockvid_cli.evaluation.backends import ImageEncoder, OpticalFlow
from blockvid_cli.evaluation.metrics.vbench import Mean, MeanOfPairs, Metric, speed, unit_embeddings
from blockvid_cli.video.reader import Frame, VideoInfo

SIDE, RATE = 256, 16
STILL = 1.0  # pixels


def clarity() -> Metric:
    """Eq. 20."""
    return Metric("laplacian_variance", lambda _: Mean(laplacian_variance))


def laplacian_variance(frame: Frame) -> float:
    """Var(∇²Y) of a frame's luminance Y, in 0..255."""

    def compute() -> float:
        grey = cv2.cvtColor(frame.rgb, cv2.COLOR_RGB2GRAY)
        return float(cv2.meanStdDev(cv2.Laplacian(grey, cv2.CV_32F))[1][0, 0] ** 2)

    return frame.cached("laplacian variance", compute)


def motion_energy(flow: OpticalFlow) -> Metric:
    """Eq. 21, the first reading: E(u) is the flow's mean length."""

    def start(video: VideoInfo) -> MeanOfPairs:
        return MeanOfPairs(lambda a, b: float(speed(flow, a, b).mean()) * SIDE * video.fps / RATE)

    return Metric("motion_energy", start, backend=flow)


def background_staticness(flow: OpticalFlow, background: Callable[[Frame], np.ndarray]) -> Metric:
    """Eq. 24; ``background`` returns where a frame's background is, (H', W') of bools."""

    def start(video: VideoInfo) -> MeanOfPairs:
        scale = SIDE * video.fps / RATE

        def share(a: Frame, b: Frame) -> float:
            still = speed(flow, a, b) * scale <= STILL
            mask = cv2.resize(background(b).astype(np.uint8), still.shape[::-1], interpolation=cv2.INTER_NEAREST) > 0
            return float(still[mask].mean()) if mask.any() else 1.0

        return MeanOfPairs(share)

    return Metric("background_staticness", start, backend=flow)


def subject_likeness(encoder: ImageEncoder) -> Metric:
    """Eq. 25; the first accumulator that is started reads the first segment."""
    first = _FirstSegment()
    return Metric("subject_likeness", lambda _: Likeness(encoder, first), backend=encoder)


class _FirstSegment:
    """The mean embedding of the first segment, once that is over; and the accumulator that computes it."""

    def __init__(self) -> None:
        self.owner: Likeness | None = None
        self.mean = np.empty(0)


class Likeness:
    """Mean cosine with the first segment's mean embedding ē₁; for unit vectors that is mean(e)·ē₁ / |ē₁|."""

    def __init__(self, encoder: ImageEncoder, first: _FirstSegment) -> None:
        self._encoder, self._first = encoder, first
        self._sum: np.ndarray | float = 0.0
        self._count = 0
        if first.owner is None:
            first.owner = self

    def update(self, frame: Frame) -> None:
        self._sum, self._count = self._sum + unit_embeddings(self._encoder, [frame])[0], self._count + 1

    def score(self) -> float | None:
        if not self._count:
            return None
        mean = np.asarray(self._sum) / self._count
        if self._first.owner is self:
            self._first.mean = mean
        length = float(np.linalg.norm(self._first.mean))
        return float(mean @ self._first.mean) / length if length else None
