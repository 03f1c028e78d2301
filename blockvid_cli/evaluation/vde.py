"""Video Drift Error: how far the scores of a film's segments move away from the first one's.

    VDE = sum over i = 2..N of w_i · |m_i - m_1| / |m_1|        BlockVid (arXiv 2511.22973), A.4, Eq. 17-19

    linear   w_i = N - i + 1          the authors' code: N = 10, weights 9, 8, ... 1
    log      w_i = ln(N - i + 1)      the last segment weighs nothing
    uniform  w_i = 1

The sum is not normalised; divided by the sum of weights it is a mean relative change, which films cut into another
number of segments share.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

SMALLEST = 1e-8  # a first segment's score below it is none to compare with


class Weights(StrEnum):
    """How segments weigh."""

    LINEAR = "linear"
    LOG = "log"
    UNIFORM = "uniform"


@dataclass(frozen=True)
class Drift:
    """A drift error; ``value`` and ``normalised`` are None for a ``reason``."""

    value: float | None
    normalised: float | None
    reason: str | None = None


def weights_of(number: int, kind: Weights) -> list[float]:
    """The weights of segments 2 to ``number``."""
    falling = [number - i + 1 for i in range(2, number + 1)]
    if kind is Weights.LINEAR:
        return [float(weight) for weight in falling]
    return [math.log(weight) if kind is Weights.LOG else 1.0 for weight in falling]


def vde(scores: Sequence[float | None], weights: Weights = Weights.LINEAR) -> Drift:
    """The drift error of segment scores, in order. Degenerate scores give no value and the reason, never infinity."""
    if len(scores) < 2:
        return _none("too_short")
    if any(score is None for score in scores):
        return _none("unscored_segment")
    values = [float(score) for score in scores if score is not None]
    if not all(map(math.isfinite, values)):
        return _none("not_finite")
    first = abs(values[0])
    if first < SMALLEST:
        return _none("zero_reference")
    shares = weights_of(len(values), weights)
    if not sum(shares):
        return _none("no_weight")
    value = sum(w * abs(m - values[0]) / first for w, m in zip(shares, values[1:], strict=True))
    return Drift(value, value / sum(shares))


def _none(reason: str) -> Drift:
    return Drift(None, None, reason)
