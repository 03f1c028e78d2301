"""Rotary position embedding (RoPE), computed when a key is read, so that any token can be given any position.

The D/2 pairs of a head's channels are divided among time, rows and columns as Wan does it (for D = 128: 22, 21, 21);
each axis has its own spectrum theta^(-2i/d). Angles are computed in float64 from coordinates that may be fractions, so
there is no table and no longest film. Equal to diffusers' ``WanRotaryPosEmbed`` on whole-number coordinates.

The temporal position of a frame may differ between pairs or heads. ``positions`` of N frames has one of these shapes:

    (N,)                          one position a frame
    (N, pairs)                    one for each of the temporal pairs (banded and interpolated RoPE)
    (N, heads or 1, pairs or 1)   one for each head, or head and pair (jittered RoPE)
    (B, N, heads or 1, pairs or 1)   the same for each film of a batch
"""

from __future__ import annotations

import torch

CosSin = tuple[torch.Tensor, torch.Tensor]


class Rope:
    """Rotations for heads of ``head_dim`` channels; ``pairs`` is how many of a head's pairs encode time."""

    def __init__(self, head_dim: int, theta: float = 10000.0) -> None:
        space = 2 * (head_dim // 6)
        self._frequencies = [
            theta ** -(torch.arange(0, size, 2, dtype=torch.float64) / size)
            for size in (head_dim - 2 * space, space, space)
        ]
        self.pairs = len(self._frequencies[0])

    def cos_sin(
        self, coordinates: torch.Tensor, positions: torch.Tensor | None = None, device: torch.device | str = "cpu"
    ) -> CosSin:
        """Cosines and sines (T, 1 or heads, D/2) of tokens, or (B, T, 1 or heads, D/2) for positions of four axes.

        Args:
            coordinates: (T, 3): frame, row and column of each token.
            positions: the temporal position of each frame (see the module); None when the frame is the position.
            device: where the result is needed.
        """
        where = coordinates.double()
        time = where[:, :1, None] if positions is None else _of_frames(positions, coordinates[:, 0].long())
        temporal = time * self._frequencies[0]
        spatial = [(where[:, axis, None] * self._frequencies[axis])[:, None] for axis in (1, 2)]
        angles = torch.cat([temporal, *(part.expand(*temporal.shape[:-1], -1) for part in spatial)], -1)
        return angles.cos().float().to(device), angles.sin().float().to(device)


def split_positions(positions: torch.Tensor, new: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The positions of the cached frames, and those of the ``new`` frames behind them."""
    axis = 1 if positions.ndim == 4 else 0
    cached = positions.shape[axis] - new
    return positions.narrow(axis, 0, cached), positions.narrow(axis, cached, new)


def _of_frames(positions: torch.Tensor, frames: torch.Tensor) -> torch.Tensor:
    """The positions of tokens, (T, heads or 1, pairs or 1) with an axis of films in front where there is one."""
    if positions.ndim == 1:
        positions = positions[:, None, None]
    elif positions.ndim == 2:
        positions = positions[:, None]
    return positions.double()[..., frames, :, :]


def apply_rope(x: torch.Tensor, cos_sin: CosSin) -> torch.Tensor:
    """Rotates neighbouring pairs of channels of x (B, T, H, D) by cosines and sines that ``Rope.cos_sin`` made."""
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * torch.complex(*cos_sin)).flatten(-2).type_as(x)


def token_grid(frames: int, rows: int, columns: int) -> torch.Tensor:
    """Coordinates (frames·rows·columns, 3) of a block's tokens: frame of the block, row, column."""
    axes = torch.meshgrid(torch.arange(frames), torch.arange(rows), torch.arange(columns), indexing="ij")
    return torch.stack(axes, -1).reshape(-1, 3)
