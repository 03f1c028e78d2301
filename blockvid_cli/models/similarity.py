"""Which earlier chunks a chunk is reminded of: those whose captions say the most similar thing.

sim_i = cos(E_c, E_i) over past chunks that are not among the most recent (BlockVid, Eq. 8 and Algorithm 1, stage B).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch


def top_k_similar(embeddings: torch.Tensor, past: Sequence[int], now: int, top: int) -> tuple[int, ...]:
    """Of the chunks ``past``, the ``top`` most like chunk ``now`` by cosine, in the film's order; earlier wins ties.

    Args:
        embeddings: (chunks, D), one a chunk, of any length.
    """
    unit = torch.nn.functional.normalize(embeddings.double(), dim=1)
    likeness = {chunk: round(float(unit[now] @ unit[chunk]), 6) for chunk in past}
    return tuple(sorted(sorted(past, key=lambda chunk: (-likeness[chunk], chunk))[:top]))
