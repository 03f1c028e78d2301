"""Verifiers: whether a finished block is accepted, or generated again from other noise before it is cached.

    noise -> [denoise] -> latents -> accept? -- yes --> KV cache, disk, VAE
               ^                       | no, and attempts are left
               `---- other noise ------'

Blocks that were denoised together are generated again together. The last attempt is taken as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from blockvid_cli.errors import UsageError
from blockvid_cli.storyboard.plan import Block


class Verifier:
    """Accepts a finished block, or has it generated again.

    Attributes:
        attempts: how often a block is generated at most; 1 accepts everything.
    """

    attempts: int = 1

    def accept(self, block: Block, latents: torch.Tensor, attempt: int) -> bool:
        """Whether a film's clean latents (F, C, H, W), generated at an attempt counted from 0, are good enough."""
        return True


@dataclass(frozen=True)
class AcceptAll(Verifier):
    """Every block is accepted as it comes."""


@dataclass(frozen=True)
class NotEmpty(Verifier):
    """A block whose latents hardly vary, which decodes to a plain colour, is generated again.

    Args:
        deviation: the least standard deviation over a frame; that of ordinary latents is about 1.
        attempts: how often a block is generated at most.
    """

    deviation: float = 1e-3
    attempts: int = 2

    def __post_init__(self) -> None:
        if self.deviation < 0 or self.attempts < 1:
            raise UsageError(
                "recipe.verifier: not-empty needs a deviation of 0 or more and 1 attempt or more;"
                f" not {self.deviation} and {self.attempts}."
            )

    def accept(self, block: Block, latents: torch.Tensor, attempt: int) -> bool:
        """Whether any frame varies and all are finite."""
        return bool(torch.isfinite(latents).all()) and float(latents.std((1, 2, 3)).max()) >= self.deviation


VERIFIERS: dict[str, Callable[..., Verifier]] = {"none": AcceptAll, "not-empty": NotEmpty}
