"""The temporal position that RoPE gives to each cached and each new frame.

cached       3  4  5 | 21 22 23     new  24 25 26      numbers in the film
absolute     3  4  5 | 21 22 23          24 25 26      grows with the film
packed       0  1  2 |  3  4  5           6  7  8      grows with what is attended to

A network has seen positions up to some number of frames in training (``trained_frames`` of its model card). Neither
kind stays below that by itself: ``absolute`` passes it in a long film, ``packed`` where the KV cache lets a block
attend to more frames than that. ``largest_position`` says how far a recipe goes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from blockvid_cli.rollout.kv_cache.base import KVCache, KVView
from blockvid_cli.storyboard.plan import Block, Plan


class Positions(Protocol):
    """Where frames are in time; options are fields of the part."""

    def __call__(self, view: KVView, blocks: Sequence[Block]) -> torch.Tensor:
        """(cached frames + F,), or with more axes for pairs and heads, as ``models/wan/rope.py`` lists them.

        Args:
            view: the cached frames, by their numbers in the film and their shots.
            blocks: what is denoised next, F frames in all.
        """
        ...

    def largest(self, cached_frames: int, film_frames: int, new_frames: int) -> int:
        """The largest position given when at most so many cached frames are attended to by ``new_frames`` new ones."""
        ...


@dataclass(frozen=True)
class Absolute:
    """Every frame at its number in the film."""

    def __call__(self, view: KVView, blocks: Sequence[Block]) -> torch.Tensor:
        """Numbers in the film, (cached frames + F,)."""
        return torch.tensor([*view.frames, *new_frames(blocks)], dtype=torch.float64)

    def largest(self, cached_frames: int, film_frames: int, new_frames: int) -> int:
        """The film's last frame."""
        return film_frames - 1


@dataclass(frozen=True)
class Packed:
    """Frames one after another from 0, whatever lies between them in the film."""

    def __call__(self, view: KVView, blocks: Sequence[Block]) -> torch.Tensor:
        """0, 1, 2, ..., (cached frames + F,); blocks denoised together keep their distances from each other."""
        cached, new = len(view.frames), new_frames(blocks)
        return torch.tensor([*range(cached), *(cached + frame - min(new) for frame in new)], dtype=torch.float64)

    def largest(self, cached_frames: int, film_frames: int, new_frames: int) -> int:
        """The last of all frames attended to."""
        return cached_frames + new_frames - 1


def new_frames(blocks: Sequence[Block]) -> list[int]:
    """The numbers in the film of all frames of some blocks."""
    return [frame for block in blocks for frame in block.frame_indices]


def largest_position(plan: Plan, positions: Positions, kv_cache: KVCache, blocks_at_once: int) -> int:
    """The largest position that any frame of a film is given.

    Args:
        blocks_at_once: the most blocks that the schedule denoises in one pass.
    """
    new = max(block.frames for block in plan.blocks) * blocks_at_once
    attended, _ = kv_cache.max_cached_frames(plan)
    return positions.largest(max(attended - new, 0), sum(block.frames for block in plan.blocks), new)


POSITIONS: dict[str, Callable[..., Positions]] = {"absolute": Absolute, "packed": Packed}
