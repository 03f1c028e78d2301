"""diffusers' SkyReels-V2 network brought to the same contract: a level a frame, and a word on the frame rate."""

from __future__ import annotations

import torch
from diffusers import SkyReelsV2Transformer3DModel

from blockvid_cli.models.wan.denoiser import NUM_TIMESTEPS, WanDenoiser

USUAL_FPS = 16  # the first of the network's two frame rates; any other is the second


class SkyReelsDenoiser(WanDenoiser):
    """A ``SkyReelsV2Transformer3DModel`` trained by diffusion forcing.

    Args:
        network: taken over, as a ``WanDenoiser`` does.
        fps: of the film; 16 is the network's first frame rate, another its second (24).
    """

    def __init__(self, network: SkyReelsV2Transformer3DModel, predicts: str = "velocity", fps: float = 24) -> None:
        super().__init__(network, predicts)
        self.rate = 0 if fps == USUAL_FPS else 1

    def evaluate(self, latents: torch.Tensor, level: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        """See ``WanDenoiser``."""
        return self.network(
            latents,
            level.float() * NUM_TIMESTEPS,
            context,
            enable_diffusion_forcing=True,
            fps=[self.rate],  # one for all rows
            return_dict=False,
        )[0]
