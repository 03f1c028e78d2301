"""Rotary position embedding on reading: any token can be said to be at any time, row and column.

A head's D/2 pairs are shared out among time, rows and columns as Wan does (for D = 128: 22, 21, 21), each axis with
its own spectrum theta^(-2i/d). Angles are computed in float64 from coordinates that may be fractions, so there is no
table and no longest film. Equal to diffusers' ``WanRotaryPosEmbed`` on whole-number coordinates.
"""

from __future__ import annotations

import torch


class Rope:
    """Rotations for heads of ``head_dim`` channels."""

    def __init__(self, head_dim: int, theta: float = 10000.0) -> None:
        space = 2 * (head_dim // 6)
        self._speeds = [
            theta ** -(torch.arange(0, size, 2, dtype=torch.float64) / size)
            for size in (head_dim - 2 * space, space, space)
        ]

    def cos_sin(self, coordinates: torch.Tensor, device: torch.device | str = "cpu") -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and sines (T, 1, D/2) on ``device`` of tokens at coordinates (T, 3): time, row, column."""
        where = coordinates.double()
        angles = torch.cat([where[:, axis, None] * speed for axis, speed in enumerate(self._speeds)], 1)
        return angles.cos().float()[:, None].to(device), angles.sin().float()[:, None].to(device)


def apply_rope(x: torch.Tensor, turns: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Rotates neighbouring pairs of channels of x (B, T, H, D) by cosines and sines (T, 1, D/2)."""
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * torch.complex(*turns)).flatten(-2).type_as(x)


def token_grid(frames: int, rows: int, columns: int) -> torch.Tensor:
    """Coordinates (frames·rows·columns, 3) of a block's tokens: frame of the block, row, column."""
    axes = torch.meshgrid(torch.arange(frames), torch.arange(rows), torch.arange(columns), indexing="ij")
    return torch.stack(axes, -1).reshape(-1, 3)
