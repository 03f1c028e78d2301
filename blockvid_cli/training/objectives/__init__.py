"""The contract of a training objective: the losses of a step with what they train, and what is evaluated in between."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn

Losses = Iterable[tuple[torch.Tensor, dict[str, float]]]


@dataclass(frozen=True)
class LossPart:
    """One loss, the module it trains, and the optimizers of that module.

    A generator, a critic and a discriminator are three parts of one objective; each has optimizers of its own.

    Args:
        name: of the part in logs and checkpoints.
        module: its gradients are clipped and its weights saved.
        optimizers: of the module's weights.
        loss: (step, progress 0..1) -> losses with figures for the log, each of which is propagated back before the
            next is computed, so that one graph at a time is in memory; a step is taken on their sum. A pure function
            of the step and the weights, so that a resumed training equals an uninterrupted one.
        every: the part is trained in every so many steps.
    """

    name: str
    module: nn.Module
    optimizers: Sequence[torch.optim.Optimizer]
    loss: Callable[[int, float], Losses]
    every: int = 1


class Objective(Protocol):
    """What the trainer asks of an objective."""

    def losses(self) -> Sequence[LossPart]:
        """The parts in the order in which a step trains them; of the first one's module an average is kept."""
        ...

    def evaluate(self) -> dict[str, float]:
        """Figures on held-out data."""
        ...

    def sample(self) -> torch.Tensor:
        """An image (3, H, W) in 0..1 of what the module generates, below held-out data."""
        ...


def tile_rows(rows: Sequence[torch.Tensor]) -> torch.Tensor:
    """Rows of images, each (N, 3, H, W), as one image (3, rows·H, N·W)."""
    return torch.cat([torch.cat(list(row), 2) for row in rows], 1).float().clamp(0, 1)
