"""The segment scores that BlockVid's appendix prints (arXiv 2511.22973, A.4.3, Eq. 20-25).

    clarity     mean variance of the luminance's Laplacian
    motion      mean length of the optical flow, or mean smoothness
    aesthetic   mean of what a predictor makes of each frame
    background  mean share of the background that stays where it is
    subject     mean cosine between the subject's look and its mean look in the first segment

What the paper leaves open: luminance is BT.601 in 8 bits at the film's own size, the Laplacian has 4 neighbours; flow
is measured in pixels a sixteenth of a second at a short side of 256, and what moves by no more than 1 stays in place.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from blockvid_cli.evaluation.backends.protocol import Encoder, Flow
from blockvid_cli.video.reader import Frame, VideoInfo
from blockvid_cli.evaluation.metrics.consistency import looks
from blockvid_cli.evaluation.metrics.dynamic import speed
from blockvid_cli.evaluation.metrics.metric import Mean, MeanOfPairs, Measure

SIDE, RATE = 256, 16
IN_PLACE = 1.0  # pixels


def clarity() -> Measure:
    """Eq. 20."""
    return Measure("laplacian_variance", lambda _: Mean(laplacian_variance))


def laplacian_variance(frame: Frame) -> float:
    """Var(∇²Y) of a frame's luminance Y, in 0..255."""

    def measured() -> float:
        grey = cv2.cvtColor(frame.rgb, cv2.COLOR_RGB2GRAY)
        return float(cv2.meanStdDev(cv2.Laplacian(grey, cv2.CV_32F))[1][0, 0] ** 2)

    return frame.cached("laplacian variance", measured)


def energy(flow: Flow) -> Measure:
    """Eq. 21, the first reading: E(u) is the flow's mean length."""

    def start(footage: VideoInfo) -> MeanOfPairs:
        return MeanOfPairs(lambda a, b: float(speed(flow, a, b).mean()) * SIDE * footage.fps / RATE)

    return Measure("motion_energy", start, backend=flow)


def staticness(flow: Flow, background: Callable[[Frame], np.ndarray]) -> Measure:
    """Eq. 24; ``background`` tells a frame's background (H', W') of bools."""

    def start(footage: VideoInfo) -> MeanOfPairs:
        scale = SIDE * footage.fps / RATE

        def share(a: Frame, b: Frame) -> float:
            still = speed(flow, a, b) * scale <= IN_PLACE
            mask = cv2.resize(background(b).astype(np.uint8), still.shape[::-1], interpolation=cv2.INTER_NEAREST) > 0
            return float(still[mask].mean()) if mask.any() else 1.0

        return MeanOfPairs(share)

    return Measure("background_staticness", start, backend=flow)


def identity(encoder: Encoder) -> Measure:
    """Eq. 25; the first gauge that is started sees the first segment."""
    first = _FirstLook()
    return Measure("subject_likeness", lambda _: Likeness(encoder, first), backend=encoder)


class _FirstLook:
    """The mean embedding over the first segment, once it is over; and whose it is."""

    def __init__(self) -> None:
        self.owner: Likeness | None = None
        self.mean = np.empty(0)


class Likeness:
    """Cosine with the first segment's mean embedding ē₁, in the mean; of unit vectors that is mean(e)·ē₁ / |ē₁|."""

    def __init__(self, encoder: Encoder, first: _FirstLook) -> None:
        self._encoder, self._first = encoder, first
        self._sum: np.ndarray | float = 0.0
        self._count = 0
        if first.owner is None:
            first.owner = self

    def see(self, frame: Frame) -> None:
        self._sum, self._count = self._sum + looks(self._encoder, [frame])[0], self._count + 1

    def score(self) -> float | None:
        if not self._count:
            return None
        mean = np.asarray(self._sum) / self._count
        if self._first.owner is self:
            self._first.mean = mean
        length = float(np.linalg.norm(self._first.mean))
        return float(mean @ self._first.mean) / length if length else None
