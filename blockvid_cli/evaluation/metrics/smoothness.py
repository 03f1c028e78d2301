"""Motion smoothness: is every other frame what stood to be expected between its neighbours?

    s_t = (255 - mean |between(f_{t-1}, f_{t+1}) - f_t|) / 255        score = mean of s_t, t = 1, 3, 5, ...

VBench (Huang et al. 2024), ``motion_smoothness``, which asks AMT-S for the frame between; t counts from the span's
first frame.
"""

from __future__ import annotations

from blockvid_cli.evaluation.backends.protocol import Interpolator
from blockvid_cli.video.reader import Frame
from blockvid_cli.evaluation.metrics.flickering import alike
from blockvid_cli.evaluation.metrics.metric import Measure


def motion_smoothness(interpolator: Interpolator) -> Measure:
    """How well a span's odd frames can be foretold from its even ones."""
    return Measure("motion_smoothness", lambda _: Smoothness(interpolator), backend=interpolator)


class Smoothness:
    """See the module; keeps two frames."""

    def __init__(self, interpolator: Interpolator) -> None:
        self._interpolator = interpolator
        self._left: Frame | None = None
        self._middle: Frame | None = None
        self._sum, self._count = 0.0, 0

    def see(self, frame: Frame) -> None:
        if self._left is None:
            self._left = frame
        elif self._middle is None:
            self._middle = frame
        else:
            self._sum, self._count = self._sum + self._expected(self._left, self._middle, frame), self._count + 1
            self._left, self._middle = frame, None

    def _expected(self, left: Frame, middle: Frame, right: Frame) -> float:
        return middle.cached(
            (self._interpolator, left.number, right.number),
            lambda: alike(self._interpolator.between(left, right), middle.rgb),
        )

    def score(self) -> float | None:
        return self._sum / self._count if self._count else None
