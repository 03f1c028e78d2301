"""Which blocks of which stories a step of training draws, and what each of them looks back at.

    chunks     0 0 0 | 1 1 | 2 2 2 | 3 3 3        a story's blocks; the target is the second block of chunk 3
    context    recalled: the last blocks of 0 and 1, recent: the last block of 2, then the block before the target

What is recent ends with a cut: of other shots only recalled chunks are seen. These are the very blocks that a
semantic memory shows with recent 1, top 2 and blocks 1. The bundled recipe recalls less, one chunk and of other shots
alone, since so small a network sometimes drew a subject twice where this shot's past showed it in another place.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from blockvid_cli.datasets.storybook_latents import StoryLatents, recent_chunks

SHOTS = 0.15  # the share of targets that begin a shot


@dataclass(frozen=True)
class Windows:
    """B targets (story, block) and the blocks (B, E) they look back at, all of one E; the last is the one before."""

    stories: torch.Tensor
    targets: torch.Tensor
    context: torch.Tensor


def windows(stories: StoryLatents, count: int, dice: torch.Generator, before: int = 0) -> Windows:
    """``count`` random windows whose contexts, and those of ``before`` blocks ahead of each target, are of one size."""
    total = len(stories.chunk)
    wanted: list[int] | None = None
    chosen: list[tuple[int, int]] = []
    while len(chosen) < count:
        story = int(torch.randint(total, (), generator=dice))
        target = _target(stories, story, before, dice)
        sizes = [len(look_back(stories, story, target - back)) for back in range(before + 1)]
        wanted = wanted or sizes
        if sizes == wanted:
            chosen.append((story, target))
    return windows_at(stories, *(torch.tensor(values) for values in zip(*chosen, strict=True)))


def windows_at(stories: StoryLatents, chosen: torch.Tensor, targets: torch.Tensor) -> Windows:
    """The windows of given targets (B,) of given stories (B,)."""
    pairs = zip(chosen.tolist(), targets.tolist(), strict=True)
    context = [look_back(stories, story, target) for story, target in pairs]
    return Windows(chosen, targets, torch.tensor(context).view(len(context), -1))


def _target(stories: StoryLatents, story: int, before: int, dice: torch.Generator) -> int:
    """A block after the first: any, or, in a share of the draws, one that begins a shot; these only if ``before`` is 0,
    for what lies before a cut is not looked back at."""
    of_block = stories.chunk[story].tolist()
    shots = [of_block.index(chunk) for chunk, cut in enumerate(stories.cuts[story]) if cut]
    if shots and not before and float(torch.rand((), generator=dice)) < SHOTS:
        return shots[int(torch.randint(len(shots), (), generator=dice))]
    inside = [number for number in range(1 + before, len(of_block)) if not before or number not in shots]
    return inside[int(torch.randint(len(inside), (), generator=dice))]


def look_back(stories: StoryLatents, story: int, target: int) -> list[int]:
    """The blocks a block looks back at: last blocks of recalled and recent chunks, and the block before it."""
    of_block = stories.chunk[story].tolist()
    chunk = of_block[target]
    chunks = [*stories.alike[story][chunk], *recent_chunks(stories.cuts[story], chunk)]
    last = [max(number for number, owner in enumerate(of_block) if owner == c) for c in chunks]
    return last + ([target - 1] if target and of_block[target - 1] == chunk else [])
