"""Long films as VBench-Long sees them: each clip of two seconds by itself, and the clips' first frames as a film.

    film -> clips -> each is scored as a short film                     "inside", the mean over the clips
                  -> their first frames' looks -> clip to clip score
                  -> brought to the scale of "inside" by a table        "between"
    consistency = (inside + between) / 2

VBench-Long (github.com/Vchitect/VBench, vbench2_beta_long) asks DINOv2 ViT-B/14 about the subject and DreamSim about
the background. Its tables were made with these, and fit other encoders only roughly. Half and half are the shares in
its recorded results; a film of one clip has no "between".
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import yaml

from blockvid_cli.errors import lookup

SECONDS = 2
SHARE = 0.5  # of "between"


def clips_of(frames: int, fps: float) -> list[tuple[int, int]]:
    """Clips of a film, as first frame and one past the last; the last clip reaches back where too little is left.

    A clip has ``2 * int(fps)`` frames (at least 2). A film with fewer is one clip; one with none has no clip.
    """
    length = max(1, int(fps)) * SECONDS
    if frames < length:
        return [(0, frames)] if frames > 0 else []
    ends = range(length, frames + 1, length)
    last = [] if frames % length == 0 else [frames]
    return [(end - length, end) for end in [*ends, *last]]


def clip_to_clip(embeddings: np.ndarray) -> float | None:
    """Mean of c_t = (max(0, cos(e_t, e_{t-1})) + max(0, cos(e_t, e_0))) / 2 over t = 1..N-1; None below two clips.

    Args:
        embeddings: (N, D), of the clips' first frames in order; of any length.
    """
    if len(embeddings) < 2:
        return None
    looks = np.asarray(embeddings, np.float64)
    looks = looks / np.maximum(np.linalg.norm(looks, axis=1, keepdims=True), 1e-8)
    before = np.einsum("nd,nd->n", looks[1:], looks[:-1])
    first = looks[1:] @ looks[0]
    return float((np.maximum(before, 0) + np.maximum(first, 0)).mean() / 2)


def mapped(which: str, value: float) -> float:
    """A clip to clip score (0..1) on the scale of consistency inside clips; ``which`` is "subject" or "background".

    Raises:
        UsageError: there is no such table.
    """
    table = lookup("mapping", _tables(), which)
    return float(np.interp(value, np.linspace(0, 1, len(table)), table))


def fused(inside: float, between: float | None) -> float:
    """Consistency of a film from that inside its clips and that between them (mapped; None or 0: there was none)."""
    return (1 - SHARE) * inside + SHARE * between if between else inside


@lru_cache
def _tables() -> dict[str, list[float]]:
    return yaml.safe_load(Path(__file__).with_name("clip_mapping.yaml").read_text(encoding="utf-8"))
