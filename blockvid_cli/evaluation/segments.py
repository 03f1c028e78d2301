"""Parts of a film that are scored on their own (segments, clips), and what their scores say about drift.

**Segments**: by number, by seconds or by a storyboard's chunks. Frames T = 23, segments N = 5:

    trim           0    4    8    12   16   20 . .     k = T // N frames each, the tail is dropped (the authors' code)
    proportional   0    4     9    13    18      23    all frames, borders rounded
    short-last     0     5     10    15    20    23    k = ceil(T / N), the last is what is left

**Video Drift Error**: how far the scores of segments move away from the first one's.

    VDE = sum over i = 2..N of w_i · |m_i - m_1| / |m_1|        BlockVid (arXiv 2511.22973), A.4, Eq. 17-19
    w_i:  linear N - i + 1 (the authors' code, N = 10) · log ln(N - i + 1), the last one 0 · uniform 1

The sum is not normalised; divided by the sum of weights it is a mean relative change, which films cut into another
number of segments share.

**Clips** of two seconds, as in VBench-Long (github.com/Vchitect/VBench, vbench2_beta_long):

    film -> clips -> each is scored as a short film                       "inside", the mean over the clips
                  -> embeddings of their first frames -> clip to clip score
                  -> brought to the scale of "inside" by a table          "between"
    consistency = (inside + between) / 2

Its tables were made with DINOv2 ViT-B/14 (subject) and DreamSim (background), and fit other encoders only roughly. Half
and half are the shares in its recorded results; a film of one clip has no "between".
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from blockvid_cli.errors import UsageError, lookup

if TYPE_CHECKING:
    import numpy as np

CLIP_SECONDS = 2
BETWEEN_SHARE = 0.5
MIN_REFERENCE = 1e-8  # a smaller score of the first segment cannot be compared with


@dataclass(frozen=True)
class Span:
    """Frames ``first`` to ``end`` - 1."""

    first: int
    end: int


class Protocol(StrEnum):
    """What a metric gets at once: the whole film, or clips of two seconds as in VBench-Long."""

    WHOLE = "whole"
    LONG = "long"


class Bounds(StrEnum):
    """What happens to the remaining frames when a film is not a whole number of segments."""

    TRIM = "trim"
    PROPORTIONAL = "proportional"
    SHORT_LAST = "short-last"


class Weights(StrEnum):
    """How segments weigh in a drift error."""

    LINEAR = "linear"
    LOG = "log"
    UNIFORM = "uniform"


def segments(frames: int, number: int, bounds: Bounds = Bounds.TRIM) -> list[Span]:
    """``number`` segments of equal length; fewer, or none, where there are not that many frames."""
    if bounds is Bounds.PROPORTIONAL:
        return _spans([round(n * frames / number) for n in range(number + 1)])
    if bounds is Bounds.SHORT_LAST:
        length = max(1, -(-frames // number))
        return _spans([*range(0, frames, length), frames])
    length = frames // number
    return _spans([n * length for n in range(number + 1)])


def segments_of_seconds(frames: int, fps: float, seconds: float, bounds: Bounds = Bounds.TRIM) -> list[Span]:
    """Segments of ``seconds``: whole ones (trim), the same number stretched (proportional), or with a short last."""
    length = max(1, round(seconds * fps))
    if bounds is Bounds.SHORT_LAST:
        return _spans([*range(0, frames, length), frames])
    if bounds is Bounds.PROPORTIONAL:
        return segments(frames, max(1, frames // length), bounds)
    return _spans([n * length for n in range(frames // length + 1)])


def segments_at(frames: int, fps: float, borders: Sequence[float]) -> list[Span]:
    """Segments between borders in seconds, such as a storyboard's chunks; borders beyond the film are cut off."""
    return _spans([min(round(second * fps), frames) for second in borders])


def _spans(borders: Sequence[int]) -> list[Span]:
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


# ---- drift -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DriftError:
    """A drift error; where ``value`` and ``normalised`` are None, ``reason`` says why."""

    value: float | None
    normalised: float | None
    reason: str | None = None


def segment_weights(number: int, kind: Weights) -> list[float]:
    """The weights of segments 2 to ``number``."""
    falling = [number - i + 1 for i in range(2, number + 1)]
    if kind is Weights.LINEAR:
        return [float(weight) for weight in falling]
    return [math.log(weight) if kind is Weights.LOG else 1.0 for weight in falling]


def drift_error(scores: Sequence[float | None], weights: Weights = Weights.LINEAR) -> DriftError:
    """The drift error of segment scores, in order. Degenerate scores give a reason and no value, never infinity."""
    if len(scores) < 2:
        return DriftError(None, None, "too_short")
    if any(score is None for score in scores):
        return DriftError(None, None, "unscored_segment")
    values = [float(score) for score in scores if score is not None]
    if not all(map(math.isfinite, values)):
        return DriftError(None, None, "not_finite")
    first = abs(values[0])
    if first < MIN_REFERENCE:
        return DriftError(None, None, "zero_reference")
    shares = segment_weights(len(values), weights)
    if not sum(shares):
        return DriftError(None, None, "no_weight")
    value = sum(w * abs(m - values[0]) / first for w, m in zip(shares, values[1:], strict=True))
    return DriftError(value, value / sum(shares))


@dataclass(frozen=True)
class LargestChange:
    """Where the scores are farthest from the first one: the segment, counted from 0, and (m_i - m_1) / |m_1|."""

    segment: int
    change: float


def largest_change(scores: Sequence[float | None]) -> LargestChange | None:
    """The largest change on the way, even if it disappears later; None where the first score cannot be compared with.

    Of equal ones it is the earlier. Segments without a finite score do not count.
    """
    if not scores or scores[0] is None or not MIN_REFERENCE <= abs(scores[0]) < math.inf:
        return None
    first = scores[0]
    changes = [(n, (m - first) / abs(first)) for n, m in enumerate(scores) if m is not None and math.isfinite(m)]
    return LargestChange(*max(changes, key=lambda change: abs(change[1])))


# ---- clips -----------------------------------------------------------------------------------------------


def clip_spans(frames: int, fps: float) -> list[Span]:
    """The clips of a film; the last one begins earlier where too few frames are left.

    A clip has ``2 * int(fps)`` frames (at least 2). A film with fewer is one clip; one with none has no clip.
    """
    length = max(1, int(fps)) * CLIP_SECONDS
    if frames < length:
        return [Span(0, frames)] if frames > 0 else []
    ends = range(length, frames + 1, length)
    last = [] if frames % length == 0 else [frames]
    return [Span(end - length, end) for end in [*ends, *last]]


def clip_to_clip(embeddings: np.ndarray) -> float | None:
    """Mean of c_t = (max(0, cos(e_t, e_{t-1})) + max(0, cos(e_t, e_0))) / 2 over t = 1..N-1; None below two clips.

    Args:
        embeddings: (N, D), of the clips' first frames in order; of any length.
    """
    import numpy as np

    if len(embeddings) < 2:
        return None
    unit = np.asarray(embeddings, np.float64)
    unit = unit / np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-8)
    previous = np.einsum("nd,nd->n", unit[1:], unit[:-1])
    first = unit[1:] @ unit[0]
    return float((np.maximum(previous, 0) + np.maximum(first, 0)).mean() / 2)


def map_clip_score(table: str, value: float) -> float:
    """Maps a clip to clip score (0..1) to the scale of consistency inside clips; tables: "subject", "background".

    Raises:
        UsageError: there is no such table.
    """
    import numpy as np

    values = lookup("mapping", _tables(), table)
    return float(np.interp(value, np.linspace(0, 1, len(values)), values))


def fuse_clip_scores(inside: float, between: float | None) -> float:
    """Consistency of a film from that inside its clips and that between them (mapped; None or 0: there is none)."""
    return (1 - BETWEEN_SHARE) * inside + BETWEEN_SHARE * between if between else inside


@lru_cache
def _tables() -> dict[str, list[float]]:
    import yaml

    return yaml.safe_load(Path(__file__).with_name("clip_mapping.yaml").read_text(encoding="utf-8"))
