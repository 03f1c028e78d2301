"""Latent frames that are given: pictures are held in their place while the rest of their block is drawn beside them.

    block 4   [p . .]   levels [0 t t]      p the first frame of a chunk that begins from a picture
    block 6   [. . q]          [t t 0]      q the last frame of one that ends with a picture

Clean beside noisy frames is how networks trained by diffusion forcing begin from a picture (Chen et al. 2024;
SkyReels-V2). The finished block holds the given latents bit for bit, and is committed like any other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch

from blockvid_cli.models.vae import VAE
from blockvid_cli.rollout.solvers import Stepper
from blockvid_cli.storyboard.plan import Block


@dataclass(frozen=True)
class FrameConditioning:
    """Clean latents (C, H, W) by the latent frame's number in the film."""

    latents: Mapping[int, torch.Tensor] = field(default_factory=dict)

    def sigmas(self, block: Block, level: float) -> torch.Tensor:
        """The level (F,) of each frame of a block that is being drawn and is at ``level``: 0 where it is given."""
        return torch.tensor([0.0 if frame in self.latents else level for frame in block.frame_indices])

    def inpaint(self, block: Block, noise: torch.Tensor, stepper: Stepper) -> tuple[torch.Tensor, Stepper]:
        """A block's noise (F, C, H, W) and stepper, with the given frames in place at first and after every step."""
        at = [index for index, frame in enumerate(block.frame_indices) if frame in self.latents]
        if not at:
            return noise, stepper
        pictures = torch.stack([self.latents[block.first + index] for index in at]).to(noise)

        def put(x: torch.Tensor) -> torch.Tensor:
            x = x.clone()
            x[at] = pictures
            return x

        def step(x: torch.Tensor, velocity: torch.Tensor, now: float, then: float) -> torch.Tensor:
            return put(stepper(x, velocity, now, then))

        return put(noise), step


NO_CONDITIONING = FrameConditioning()


def encode_frames(pictures: Mapping[int, np.ndarray], codec: VAE, time: int) -> FrameConditioning:
    """Pictures (H, W, 3) uint8 by latent frame, as the codec sees each standing still.

    The film's first latent is one frame; every later one stands for ``time`` frames, and is the second latent of a
    still of 1 + ``time``.
    """
    latents = {}
    for number, picture in pictures.items():
        still = torch.from_numpy(picture).permute(2, 0, 1).float()[None] / 255
        latents[number] = codec.encode(still.expand(1 + time if number else 1, -1, -1, -1))[-1].float().cpu()
    return FrameConditioning(latents)
