"""Frame conditioning: latent frames that are given, and stay as they are while the rest of their block is denoised.

    block 4   [p . .]   sigmas [0 t t]      p the first frame of a chunk that begins with a picture
    block 6   [. . q]          [t t 0]      q the last frame of a chunk that ends with a picture

Clean frames beside noisy ones are how networks trained by diffusion forcing begin with a picture (Chen et al. 2024;
SkyReels-V2). The finished block contains the given latents bit for bit, and is cached like any other.
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
    """Clean latents (C, H, W), or (B, C, H, W) of B films, by the latent frame's number in the film."""

    latents: Mapping[int, torch.Tensor] = field(default_factory=dict)

    def sigmas(self, block: Block, sigma: float) -> torch.Tensor:
        """The sigma (F,) of each frame of a block that is denoised at ``sigma``: 0 for the frames that are given."""
        return torch.tensor([0.0 if frame in self.latents else sigma for frame in block.frame_indices])

    def inpaint(self, block: Block, noise: torch.Tensor, stepper: Stepper) -> tuple[torch.Tensor, Stepper]:
        """A block's noise (B, F, C, H, W) and stepper, with the given frames in place at first and after every step."""
        indices = [index for index, frame in enumerate(block.frame_indices) if frame in self.latents]
        if not indices:
            return noise, stepper
        fixed = torch.stack([self.latents[block.first + index] for index in indices], -4).to(noise)

        def insert(x: torch.Tensor) -> torch.Tensor:
            x = x.clone()
            x[:, indices] = fixed
            return x

        def step(x: torch.Tensor, velocity: torch.Tensor, sigma: float, sigma_next: float) -> torch.Tensor:
            return insert(stepper(x, velocity, sigma, sigma_next))

        return insert(noise), step


NO_CONDITIONING = FrameConditioning()


def encode_frames(images: Mapping[int, np.ndarray], vae: VAE, time: int) -> FrameConditioning:
    """Images (H, W, 3) uint8 by latent frame, each encoded as a still clip.

    The film's first latent stands for one frame; every later one for ``time`` frames, and is the second latent of a
    still of 1 + ``time`` frames.
    """
    latents = {}
    for number, image in images.items():
        still = torch.from_numpy(image).permute(2, 0, 1).float()[None] / 255
        latents[number] = vae.encode(still.expand(1 + time if number else 1, -1, -1, -1))[-1].float().cpu()
    return FrameConditioning(latents)
