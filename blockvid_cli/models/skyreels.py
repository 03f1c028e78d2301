"""diffusers' SkyReels-V2 network behind the denoiser contract: a sigma a frame, and an embedding of the frame rate."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from blockvid_cli.models.wan.denoiser import NUM_TRAIN_TIMESTEPS, WanDenoiser

if TYPE_CHECKING:
    from diffusers.models.transformers.transformer_skyreels_v2 import SkyReelsV2Transformer3DModel

FIRST_FPS = 16  # the first of the network's two frame rates; any other is the second


class SkyReelsDenoiser(WanDenoiser):
    """A ``SkyReelsV2Transformer3DModel`` trained by diffusion forcing.

    Args:
        network: modified, as a ``WanDenoiser`` does.
        fps: of the film; 16 is the network's first frame rate, any other its second (24).
    """

    def __init__(self, network: SkyReelsV2Transformer3DModel, predicts: str = "velocity", fps: float = 24) -> None:
        super().__init__(network, predicts)
        self.fps_index = 0 if fps == FIRST_FPS else 1

    def forward(self, latents: torch.Tensor, sigma: torch.Tensor, prompt: torch.Tensor) -> torch.Tensor:
        """Passes a timestep a frame, and the frame rate."""
        return self.network(
            latents,
            sigma.float() * NUM_TRAIN_TIMESTEPS,
            prompt,
            enable_diffusion_forcing=True,
            fps=[self.fps_index],  # one for all rows
            return_dict=False,
        )[0]
