"""Chunk-level noise schedules: earlier chunks get less noise, later ones more (BlockVid section 3.5, appendix A.5).

    cosine    ε_c = ε_min + ½ (ε_max - ε_min)(1 - cos(π c/(n-1)))           Eq. 11
    linear    ε_c = ε_min + c/(n-1) (ε_max - ε_min)                         Eq. 26
    sigmoid   ε_c = ε_min + (ε_max - ε_min) / (1 + exp(-α (c/(n-1) - ½)))   Eq. 27
    naive     ε_c = ε_max

c = 0..n-1 is the chunk; a film of one chunk gets ε_min. ε_max is the sigma whose signal-to-noise ratio is 0.003:
((1-s)/s)² = 0.003. In training the sigma of a frame in chunk c is sampled as usual and scaled by ε_c.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from blockvid_cli.errors import lookup

EPS_MIN = 0.4
EPS_MAX = 1 / (1 + math.sqrt(0.003))


def cosine(chunk: int, chunks: int, low: float = EPS_MIN, high: float = EPS_MAX) -> float:
    """Eq. 11."""
    return low + 0.5 * (high - low) * (1 - math.cos(math.pi * _progress(chunk, chunks)))


def linear(chunk: int, chunks: int, low: float = EPS_MIN, high: float = EPS_MAX) -> float:
    """Eq. 26."""
    return low + _progress(chunk, chunks) * (high - low)


def sigmoid(chunk: int, chunks: int, low: float = EPS_MIN, high: float = EPS_MAX, alpha: float = 10.0) -> float:
    """Eq. 27; as printed, its ends are ε_min and ε_max only in the limit of a large α; one chunk gets ε_min."""
    if chunks == 1:
        return low
    return low + (high - low) / (1 + math.exp(-alpha * (_progress(chunk, chunks) - 0.5)))


def naive(chunk: int, chunks: int, low: float = EPS_MIN, high: float = EPS_MAX) -> float:
    """The same for every chunk: no schedule."""
    return high


CHUNK_NOISES: dict[str, Callable[..., float]] = {
    "cosine": cosine,
    "linear": linear,
    "sigmoid": sigmoid,
    "naive": naive,
}


def chunk_sigmas(name: str, chunks: int, **options: float) -> list[float]:
    """ε_c of every chunk of a film of ``chunks``."""
    schedule = lookup("chunk noise schedule", CHUNK_NOISES, name)
    return [schedule(chunk, chunks, **options) for chunk in range(chunks)]


def _progress(chunk: int, chunks: int) -> float:
    """c/(n-1), and 0 for a film of one chunk."""
    return chunk / (chunks - 1) if chunks > 1 else 0.0
