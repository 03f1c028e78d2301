"""Blocks in the order of the film: those that finish early wait until all before them are finished.

finished    0 . 4 . 2 . 1 . 3
handed on   0           1 2   3 4
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from blockvid_cli.storyboard.plan import Block


class ReorderBuffer:
    """Holds finished blocks back until they are next in the film; ``first`` is the number of the first."""

    def __init__(self, first: int = 0) -> None:
        self.next_number = first
        self.waiting: dict[int, tuple[Block, torch.Tensor]] = {}

    def push(self, block: Block, latents: torch.Tensor) -> Iterator[tuple[Block, torch.Tensor]]:
        """Takes a finished block, and gives all blocks that are next in the film now, in order."""
        self.waiting[block.number] = block, latents
        while self.next_number in self.waiting:
            yield self.waiting.pop(self.next_number)
            self.next_number += 1
