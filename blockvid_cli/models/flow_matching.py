"""The equations of flow matching: x_t = (1 - t) x_0 + t ε, v = ε - x_0 (BlockVid, Eq. 2 and 3); t is the level."""

from __future__ import annotations

import torch


def add_noise(clean: torch.Tensor, noise: torch.Tensor, level: torch.Tensor | float) -> torch.Tensor:
    """The latents at ``level`` on the straight way from clean (level 0) to noise (level 1)."""
    return (1 - level) * clean + level * noise


def predict_x0(x: torch.Tensor, velocity: torch.Tensor, level: torch.Tensor | float) -> torch.Tensor:
    """The clean latents that a velocity at ``level`` points to: x - level·v."""
    return x - level * velocity


def velocity_from_x0(x: torch.Tensor, clean: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
    """The velocity that leads from x at ``level`` to the clean latents a network predicts: (x - clean) / level.

    Narrow networks predict clean latents more easily than a velocity, which carries all of the noise (Li and He 2025,
    "Back to Basics"); levels below 0.05 count as 0.05.
    """
    return (x - clean) / level.clamp(min=0.05)


def shift_sigmas(level: torch.Tensor | float, shift: float) -> torch.Tensor | float:
    """A level moved towards noise: shift·t / (1 + (shift - 1)·t); shift 1 changes nothing."""
    return shift * level / (1 + (shift - 1) * level)


def make_sigmas(steps: int, shift: float) -> tuple[float, ...]:
    """``steps`` + 1 levels from 1 (noise) down to 0 (clean)."""
    return tuple(float(shift_sigmas(1 - i / steps, shift)) for i in range(steps + 1))
