"""Which earlier chunks a chunk is reminded of: those whose captions say the most similar thing.

sim_i = cos(E_c, E_i) over past chunks that are not among the most recent (BlockVid, Eq. 8 and Algorithm 1, stage B).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from blockvid_cli.card import ModelCard
from blockvid_cli.story.plan import Plan
from blockvid_cli.text.sentences import DEFAULT, embed


def most_alike(embeddings: torch.Tensor, past: Sequence[int], now: int, top: int) -> tuple[int, ...]:
    """Of the chunks ``past``, the ``top`` most like chunk ``now`` by cosine, in the film's order; earlier wins ties.

    Args:
        embeddings: (chunks, D), one a chunk, of any length.
    """
    unit = torch.nn.functional.normalize(embeddings.double(), dim=1)
    likeness = {chunk: round(float(unit[now] @ unit[chunk]), 6) for chunk in past}
    return tuple(sorted(sorted(past, key=lambda chunk: (-likeness[chunk], chunk))[:top]))


def recalled_chunks(plan: Plan, card: ModelCard) -> list[tuple[int, ...]]:
    """For each chunk of a plan, the numbers (from 1) of the earlier chunks that the card's memory recalls for it."""
    memory = card.recipe.get("memory", {})
    options = memory if isinstance(memory, dict) else {"name": memory}
    if options.get("name") != "semantic":
        return [() for _ in plan.chunks]
    recent, top = options.get("recent", 2), options.get("top", 2)
    embeddings = embed([chunk.caption for chunk in plan.chunks], options.get("sentences", DEFAULT))
    return [
        tuple(number + 1 for number in most_alike(embeddings, range(max(now - recent, 0)), now, top))
        for now in range(len(plan.chunks))
    ]
