"""How a finished block becomes memory: at which level it is shown to the network once more, and what it then sees.

``alone`` lets it see nothing but itself, so that what it leaves behind depends on no other block's errors; otherwise
it looks back as it did while it was drawn.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch

from blockvid_cli.errors import UsageError
from blockvid_cli.models.flow_matching import add_noise
from blockvid_cli.rollout.noise import gaussian
from blockvid_cli.storyboard.plan import Block


class CacheUpdate(Protocol):
    """The level and the latents a finished block is remembered by."""

    sigma: float
    self_only: bool

    def context_latents(self, block: Block, clean: torch.Tensor) -> torch.Tensor:
        """The latents (F, C, H, W) the network is shown, at ``level``."""


@dataclass(frozen=True)
class Clean:
    """As it is, at level 0 (Self Forcing)."""

    self_only: bool = False
    sigma: ClassVar[float] = 0.0

    def context_latents(self, block: Block, clean: torch.Tensor) -> torch.Tensor:
        """See ``Commit``."""
        return clean


@dataclass(frozen=True)
class ContextNoise:
    """A little noisy, so that the next block mends rather than copies what is wrong with this one."""

    sigma: float = 0.05
    self_only: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.sigma < 1:
            raise UsageError(f"a commit's level is 0 or more and below 1; not {self.sigma}.")

    def context_latents(self, block: Block, clean: torch.Tensor) -> torch.Tensor:
        """See ``Commit``."""
        noise = gaussian(tuple(clean.shape), "commit", block.seed, block.number)
        return add_noise(clean, noise.to(clean), self.sigma)


CACHE_UPDATES: dict[str, Callable[..., CacheUpdate]] = {"clean": Clean, "context-noise": ContextNoise}
