"""The noise a block begins from. All noise is a pure function of seeds and numbers, never of one running generator."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch

from blockvid_cli.errors import UsageError
from blockvid_cli.storyboard.plan import Block, Plan, PlannedChunk


def gaussian(shape: tuple[int, ...], *names: object) -> torch.Tensor:
    """Normal noise of a name, the same on every device: sampled on the CPU from a hash of ``names``."""
    digest = hashlib.blake2b(repr(names).encode(), digest_size=8).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "little") & (2**63 - 1))
    return torch.randn(shape, generator=generator)


@dataclass(frozen=True)
class Noise:
    """Makes the noise of a block; ``whole_chunk`` when that depends on how long the chunk is.

    Another take of a chunk is always another noise. For another attempt at a block that was rejected, the rollout hands
    in a block and a plan of other seeds.

    Args:
        take_shared: where a chunk begins a shot, the share of the variance of another take's noise that all its frames
            have in common (mixed noise: Ge et al. 2023, Preserve Your Own Correlation). Each value is still normal,
            but takes differ more from one another. For models that can draw from such noise; 0 is none.
    """

    take_shared: float = field(default=0.0, kw_only=True)
    whole_chunk: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 0 <= self.take_shared < 1:
            raise UsageError(f"take_shared is a share, from 0 to less than 1; not {self.take_shared}.")

    def __call__(self, block: Block, plan: Plan, finished: Mapping[int, torch.Tensor]) -> torch.Tensor:
        """(F, C, H, W) of the block's frames.

        Args:
            plan: the film.
            finished: clean latents (F, C, H, W) of finished blocks, by number.
        """
        noise = self.frames(block, plan, finished)
        if not self.is_mixed(block.planned):
            return noise
        shared = gaussian(plan.latent, "take", block.seed)
        return (1 - self.take_shared) ** 0.5 * noise + self.take_shared**0.5 * shared

    def is_mixed(self, chunk: PlannedChunk) -> bool:
        """Whether ``take_shared`` counts for a chunk: for another take than the first, at the beginning of a shot."""
        return self.take_shared > 0 and chunk.take > 1 and chunk.begins_shot

    def frames(self, block: Block, plan: Plan, finished: Mapping[int, torch.Tensor]) -> torch.Tensor:
        """The noise that is not mixed; as ``__call__``."""
        raise NotImplementedError

    def renoise(self, block: Block, plan: Plan, finished: Mapping[int, torch.Tensor], sigma: float) -> torch.Tensor:
        """(F, C, H, W) that a renoising solver takes the block back to ``sigma`` with."""
        return gaussian((block.frames, *plan.latent), "renoise", block.seed, block.number, round(sigma, 6))


@dataclass(frozen=True)
class Independent(Noise):
    """Each frame has noise of its own, from the chunk's seed and the frame's number in the chunk."""

    def frames(self, block: Block, plan: Plan, finished: Mapping[int, torch.Tensor]) -> torch.Tensor:
        """From the chunk's seed, which is another for another take."""
        first = block.first - _frames(block, plan).start
        return torch.stack([gaussian(plan.latent, "frame", block.seed, first + i) for i in range(block.frames)])


@dataclass(frozen=True)
class SharedBase(Noise):
    """Every chunk has the same noise frames, from the film's seed and the take; those near its borders are shuffled.

        chunk c     e0 e1 e2 e3 ... [e8 e9 e10 e11]     last s frames permuted among themselves   (BlockVid, Eq. 12)
        chunk c+1   [e0 e1 e2 e3] ... e8 e9 e10 e11     first s frames permuted, independently    (Eq. 13)

    ``shuffle`` is s in latent frames; on chunks shorter than 2 s the two windows would overlap, so s is clamped to
    half the chunk. The film's first frames stay in place; its last are shuffled as if another chunk followed, so that
    appending one changes nothing before it. The second take of all chunks shares another base than the first.
    """

    shuffle: int = 4
    whole_chunk: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.shuffle < 0:
            raise UsageError(f"a shuffle is a number of latent frames, 0 or more; not {self.shuffle}.")

    def frames(self, block: Block, plan: Plan, finished: Mapping[int, torch.Tensor]) -> torch.Tensor:
        """From the film's seed and the take; the shuffle from the chunk's seed."""
        frames = _frames(block, plan)
        order = self.order(len(frames), block.chunk, block.seed)
        first = block.first - frames.start
        take = () if block.take == 1 else ("take", block.take)
        names = [("base", plan.seed, *take, order[first + i]) for i in range(block.frames)]
        return torch.stack([gaussian(plan.latent, *name) for name in names])

    def order(self, frames: int, chunk: int, seed: int) -> list[int]:
        """Which base frame each of a chunk's frames has."""
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


def _frames(block: Block, plan: Plan) -> range:
    """The latent frames of the block's chunk."""
    blocks = plan.chunks[block.chunk - 1].blocks
    return range(blocks[0].first, blocks[-1].frame_indices.stop)


NOISES: dict[str, Callable[..., Noise]] = {"independent": Independent, "shared-base": SharedBase}
