"""What every objective of training answers: a loss for a step, and what to look at between steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import nn


class Objective(Protocol):
    """A loss over a module; a step's batch is a pure function of the step, so that training resumes to the bit."""

    module: nn.Module

    def loss(self, step: int, progress: float) -> tuple[torch.Tensor, dict[str, float]]:
        """The loss of step ``step``, ``progress`` of the way (0..1), and figures for the log."""

    def figures(self) -> dict[str, float]:
        """Held-out figures of the module as it stands."""

    def sample(self) -> torch.Tensor:
        """A picture (3, H, W) in 0..1 of what the module does, held-out truth above it."""


def tile_rows(rows: Sequence[torch.Tensor]) -> torch.Tensor:
    """Rows of pictures, each (N, 3, H, W), as one picture (3, rows·H, N·W)."""
    return torch.cat([torch.cat(list(row), 2) for row in rows], 1).float().clamp(0, 1)
