"""The equations of flow matching: x_t = (1 - t) x_0 + t ε, v = ε - x_0 (BlockVid, Eq. 2 and 3); t is called sigma."""

from __future__ import annotations

from typing import TypeVar

import torch

Sigma = TypeVar("Sigma", torch.Tensor, float)


def add_noise(clean: torch.Tensor, noise: torch.Tensor, sigma: torch.Tensor | float) -> torch.Tensor:
    """The latents at ``sigma`` on the straight line from clean latents (sigma 0) to noise (sigma 1)."""
    return (1 - sigma) * clean + sigma * noise


def predict_x0(x: torch.Tensor, velocity: torch.Tensor, sigma: torch.Tensor | float) -> torch.Tensor:
    """The clean latents that a velocity at ``sigma`` points to: x - sigma·v."""
    return x - sigma * velocity


def velocity_from_x0(x: torch.Tensor, clean: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """The velocity that leads from x at ``sigma`` to the clean latents a network predicts: (x - clean) / sigma.

    Narrow networks predict clean latents more easily than a velocity, which carries all of the noise (Li and He 2025,
    "Back to Basics"). A sigma below 0.05 counts as 0.05.
    """
    return (x - clean) / sigma.clamp(min=0.05)


def shift_sigmas(sigma: Sigma, shift: float) -> Sigma:
    """Moves sigmas towards noise: shift·t / (1 + (shift - 1)·t); a shift of 1 changes nothing."""
    return shift * sigma / (1 + (shift - 1) * sigma)


def make_sigmas(steps: int, shift: float) -> tuple[float, ...]:
    """``steps`` + 1 sigmas from 1 (noise) down to 0 (clean)."""
    return tuple(float(shift_sigmas(1 - i / steps, shift)) for i in range(steps + 1))
