"""Latents become pictures block by block, with the codec's state carried, so that streamed = whole, bit for bit.

    latents   |0 1 2|3 4 5|6 7 8| ...      1 + k latent frames
    frames    | 9   | 12  | 12  | ...      1 + 4k pixel frames: the first latent of a film is one frame

Every codec keeps this contract; frames are (F, 3, H, W) in 0..1, latents (F, C, H/8, W/8).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

import numpy as np
import torch


class Decoder(Protocol):
    """Latents to pictures; all that a preview needs."""

    def to(self, device: str) -> Decoder:
        """The same decoder on another device."""

    def stream(self, blocks: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
        """For each block of latents (F, C, h, w), its frames (4F, 3, H, W); 4F - 3 for the film's first."""


class VAE(Decoder, Protocol):
    """Pictures to latents and back."""

    def encode(self, frames: torch.Tensor) -> torch.Tensor:
        """(1 + 4k, 3, H, W) in 0..1 -> (1 + k, C, H/8, W/8), normalised as the network wants them."""

    def to(self, device: str) -> VAE:
        """The same codec on another device."""


def decode(codec: Decoder, latents: torch.Tensor) -> torch.Tensor:
    """All frames (1 + 4k, 3, H, W) of latents (1 + k, C, h, w)."""
    return torch.cat(list(codec.stream([latents])))


def to_uint8(frames: torch.Tensor) -> np.ndarray:
    """Frames (F, 3, H, W) in 0..1 -> (F, H, W, 3) uint8 red, green, blue."""
    pixels = (frames.float().clamp(0, 1) * 255).round().to(torch.uint8)
    return np.ascontiguousarray(pixels.permute(0, 2, 3, 1).cpu().numpy())
