"""Dynamic degree: does the span move at all?

    frames at 8 a second -> flow between neighbours -> the mean of its strongest 5 %, at a short side of 256 pixels
    dynamic (1) if at least round(4 n / 16) of the n frames' pairs exceed 6 pixels, else not (0)

VBench (Huang et al. 2024), ``dynamic_degree``, which asks RAFT for the flow.
"""

from __future__ import annotations

import numpy as np

from blockvid_cli.evaluation.backends.protocol import Flow
from blockvid_cli.video.reader import Frame
from blockvid_cli.evaluation.metrics.metric import Measure

RATE = 8  # frames a second that are compared
STRONGEST = 0.05
FAR = 6 / 256  # of the short side


def dynamic_degree(flow: Flow) -> Measure:
    """Whether enough of a span moves far enough."""
    return Measure("dynamic_degree", lambda footage: Dynamic(flow, max(1, round(footage.fps / RATE))), backend=flow)


class Dynamic:
    """See the module; keeps one frame."""

    def __init__(self, flow: Flow, interval: int) -> None:
        self._flow, self._interval = flow, interval
        self._before: Frame | None = None
        self._seen = self._compared = self._far = 0

    def see(self, frame: Frame) -> None:
        self._seen += 1
        if (self._seen - 1) % self._interval:
            return
        self._compared += 1
        if self._before is not None:
            self._far += strongest(speed(self._flow, self._before, frame)) > FAR
        self._before = frame

    def score(self) -> float | None:
        if self._compared < 2:
            return None
        return float(self._far >= round(4 * self._compared / 16))


def speed(flow: Flow, a: Frame, b: Frame) -> np.ndarray:
    """How far each point moved from a to b, (h, w), as a share of the picture's short side."""

    def measured() -> np.ndarray:
        field = flow.flow(a, b)
        return np.hypot(field[..., 0], field[..., 1]) / min(field.shape[:2])

    return b.cached((flow, a.number), measured)


def strongest(speeds: np.ndarray) -> float:
    """The mean of the strongest 5 %."""
    number = max(1, int(speeds.size * STRONGEST))
    return float(np.partition(speeds.ravel(), -number)[-number:].mean())
