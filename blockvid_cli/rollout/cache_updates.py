"""How a finished block is written to the KV cache: from which pass, at which sigma, and what it attends to there.

    pass        the finished block goes through the network once more, at a sigma, and its keys and values are cached
    last-step   the keys and values of the block's last denoising step are cached; no pass more

``self_only`` lets the block attend to nothing but itself in its pass, so that what is cached depends on no other
block's errors; otherwise it attends to what it attended to while it was denoised.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch

from blockvid_cli.errors import UsageError
from blockvid_cli.models.flow_matching import add_noise
from blockvid_cli.rollout.noise import gaussian
from blockvid_cli.storyboard.plan import Block


class CacheUpdate:
    """What a finished block leaves in the KV cache; a new one overrides what differs.

    Attributes:
        sigma: the noise level of the pass; None for the sigma that the block is at.
        self_only: the block attends to nothing but itself in its pass.
        source: which keys and values are cached, those of a pass more or of the last denoising step.
        resumable: clean latents are all it takes, so that a block from disk is cached as if it had just been denoised.
    """

    sigma: float | None = 0.0
    self_only: bool = False
    source: Literal["pass", "last-step"] = "pass"
    resumable: bool = True

    def due(self, block: Block, sigma: float, sigma_next: float) -> bool:
        """Whether the block is cached after a step; by default when it is clean."""
        return sigma_next == 0

    def context_latents(self, block: Block, latents: torch.Tensor) -> torch.Tensor:
        """What goes through the network in the pass, at ``sigma``, of a film's latents (F, C, H, W)."""
        return latents


@dataclass(frozen=True)
class Clean(CacheUpdate):
    """The clean latents, at sigma 0 (Self Forcing)."""

    self_only: bool = False


@dataclass(frozen=True)
class ContextNoise(CacheUpdate):
    """The latents with a little noise, so that the next block corrects rather than copies this one's errors."""

    sigma: float = 0.05
    self_only: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.sigma < 1:
            raise UsageError(f"a cache update's sigma is 0 or more and below 1; not {self.sigma}.")

    def context_latents(self, block: Block, latents: torch.Tensor) -> torch.Tensor:
        """The latents at ``sigma``; the noise is a function of the block's seed and number."""
        noise = gaussian(tuple(latents.shape), "commit", block.seed, block.number)
        return add_noise(latents, noise.to(latents), self.sigma)


@dataclass(frozen=True)
class LastStep(CacheUpdate):
    """The keys and values of the last denoising step, which saves a pass a block (Error-Free Long Video Generation).

    They cannot be made again from clean latents: a resumed film denoises anew all blocks before the first missing one.
    """

    source = "last-step"
    resumable = False


CACHE_UPDATES: dict[str, Callable[..., CacheUpdate]] = {
    "clean": Clean,
    "context-noise": ContextNoise,
    "last-step": LastStep,
}
