"""What a VAE does here: frames to latents, and a stream of latent blocks to a stream of frames.

    latents   |0 1 2|3 4 5|6 7 8| ...      1 + k latent frames
    frames    | 9   | 12  | 12  | ...      1 + 4k pixel frames: the first latent of a film is one frame

Every VAE keeps this contract; frames are (F, 3, H, W) in 0..1, latents (F, C, H/8, W/8).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol, Self

import numpy as np
import torch
from torch import nn


class LatentDecoder(Protocol):
    """Latents to frames; all that a preview needs."""

    def to(self, device: str) -> Self:
        """The same decoder on another device."""
        ...

    def stream(self, blocks: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
        """For each block of latents (F, C, h, w), its frames (4F, 3, H, W); 4F - 3 for the film's first."""
        ...


class VAE(LatentDecoder, Protocol):
    """Frames to latents and back."""

    @classmethod
    def from_config(cls, config: Mapping[str, Any], tiled: bool = False) -> Self:
        """A VAE of these sizes with random weights; ``tiled`` decodes large frames in tiles, where it can."""
        ...

    @property
    def module(self) -> nn.Module:
        """The module whose weights a checkpoint fills."""
        ...

    def encode(self, frames: torch.Tensor) -> torch.Tensor:
        """(1 + 4k, 3, H, W) in 0..1 -> (1 + k, C, H/8, W/8), normalized as the transformer reads them."""
        ...

    def encode_stream(self, pieces: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
        """For each piece of a film's frames (4k, 3, H, W), 1 + 4k in the first, its latents (k or 1 + k, C, h, w)."""
        ...


def decode(vae: LatentDecoder, latents: torch.Tensor) -> torch.Tensor:
    """All frames (1 + 4k, 3, H, W) of latents (1 + k, C, h, w)."""
    return torch.cat(list(vae.stream([latents])))


def to_uint8(frames: torch.Tensor) -> np.ndarray:
    """Frames (F, 3, H, W) in 0..1 -> (F, H, W, 3) uint8 RGB."""
    pixels = (frames.float().clamp(0, 1) * 255).round().to(torch.uint8)
    return np.ascontiguousarray(pixels.permute(0, 2, 3, 1).cpu().numpy())
