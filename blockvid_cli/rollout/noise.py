"""What a block starts from. All noise is a pure function of seeds and numbers, never of one running generator."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch

from blockvid_cli.errors import UsageError
from blockvid_cli.storyboard.plan import Block

Shape = tuple[int, int, int]  # (C, H, W) of a latent frame


def gaussian(shape: tuple[int, ...], *names: object) -> torch.Tensor:
    """Normal noise named by anything, the same on every device: drawn on the CPU from a hash of the names."""
    digest = hashlib.blake2b(repr(names).encode(), digest_size=8).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "little") & (2**63 - 1))
    return torch.randn(shape, generator=generator)


class Noise(Protocol):
    """The noise a block starts from; ``whole_chunk`` when it depends on how long the chunk is."""

    whole_chunk: bool

    def __call__(self, block: Block, chunk: range, film_seed: int, shape: Shape) -> torch.Tensor:
        """(F, C, H, W) for a block of the chunk whose latent frames are ``chunk``."""


@dataclass(frozen=True)
class Independent:
    """Every frame its own noise, from the chunk's seed and the frame's place in the chunk."""

    whole_chunk: ClassVar[bool] = False

    def __call__(self, block: Block, chunk: range, film_seed: int, shape: Shape) -> torch.Tensor:
        """See ``Noise``."""
        first = block.first - chunk.start
        return torch.stack([gaussian(shape, "frame", block.seed, first + i) for i in range(block.frames)])


@dataclass(frozen=True)
class SharedBase:
    """Every chunk inherits the same noise a frame from the film's seed; frames near its borders are shuffled.

        chunk c     e0 e1 e2 e3 ... [e8 e9 e10 e11]     last s frames permuted among themselves   (BlockVid, Eq. 12)
        chunk c+1   [e0 e1 e2 e3] ... e8 e9 e10 e11     first s frames permuted, independently    (Eq. 13)

    ``shuffle`` is s in latent frames; on chunks shorter than 2 s the two windows would overlap, so s is clamped to
    half the chunk. The film's first frames stay in place; its last are shuffled as if another chunk followed, so that
    appending one redraws nothing.
    """

    shuffle: int = 4
    whole_chunk: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.shuffle < 0:
            raise UsageError(f"a shuffle is a number of latent frames, 0 or more; not {self.shuffle}.")

    def __call__(self, block: Block, chunk: range, film_seed: int, shape: Shape) -> torch.Tensor:
        """See ``Noise``."""
        order = self.order(len(chunk), block.chunk, block.seed)
        first = block.first - chunk.start
        return torch.stack([gaussian(shape, "base", film_seed, order[first + i]) for i in range(block.frames)])

    def order(self, frames: int, chunk: int, seed: int) -> list[int]:
        """Which base frame each of a chunk's frames takes."""
        order, size = list(range(frames)), min(self.shuffle, frames // 2)
        if size and chunk > 1:
            order[:size] = self._permuted(order[:size], seed, "prefix")
        if size:
            order[-size:] = self._permuted(order[-size:], seed, "suffix")
        return order

    @staticmethod
    def _permuted(frames: list[int], seed: int, side: str) -> list[int]:
        keys = gaussian((len(frames),), "shuffle", seed, side)
        return [frames[i] for i in keys.argsort().tolist()]


NOISES: dict[str, Callable[..., Noise]] = {"independent": Independent, "shared-base": SharedBase}
