"""A step: neighbouring blocks denoised together, each from its level to its next; a block whose level stays is held."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Step:
    """Blocks by number, the level each is at now and the level each is taken to; 1 is noise, 0 is clean."""

    blocks: tuple[int, ...]
    sigma: tuple[float, ...]
    sigma_next: tuple[float, ...]

    @property
    def moving(self) -> tuple[int, ...]:
        """The blocks that are denoised; the others are finished and only looked at, at the level they are held."""
        return tuple(block for block, a, b in zip(self.blocks, self.sigma, self.sigma_next, strict=True) if a != b)


class Schedule(Protocol):
    """In which order which blocks are denoised how far; ``joint`` when a block is drawn beside later ones."""

    joint: bool

    def steps(self, blocks: int, levels: Sequence[float]) -> Iterator[Step]:
        """Steps that take ``blocks`` blocks from levels[0] to levels[-1]."""
