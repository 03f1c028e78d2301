"""diffusers' ``AutoencoderKLWan`` as a stream: its causal convolutions' tails are carried from block to block.

Latents are normalised by the model's published mean and standard deviation. The first latent of a film is one frame;
decoding each block as a film of its own would give 9 frames instead of 12, 63 instead of 81.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d


class WanCodec:
    """See ``codec.stream.Codec`` for the contract; ``model`` stays as it is."""

    def __init__(self, model: AutoencoderKLWan) -> None:
        self.model = model
        self.mean = torch.tensor(model.config["latents_mean"]).view(-1, 1, 1)
        self.std = torch.tensor(model.config["latents_std"]).view(-1, 1, 1)
        self._tails = sum(isinstance(module, WanCausalConv3d) for module in model.decoder.modules())

    @torch.inference_mode()
    def encode(self, frames: torch.Tensor) -> torch.Tensor:
        """(1 + 4k, 3, H, W) in 0..1 -> (1 + k, C, H/8, W/8), the posterior's mode."""
        x = frames.to(self.model.device, self.model.dtype).transpose(0, 1)[None] * 2 - 1
        z = self.model.encode(x, return_dict=False)[0].mode()[0].transpose(0, 1).float()
        return (z - self.mean.to(z)) / self.std.to(z)

    @torch.inference_mode()
    def stream(self, blocks: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
        """For each block of latents (F, C, h, w), its frames (4F, 3, H, W); 4F - 3 for the first."""
        tails: list[torch.Tensor | None] = [None] * self._tails
        first = True
        for block in blocks:
            z = (block * self.std.to(block) + self.mean.to(block)).to(self.model.device, self.model.dtype)
            frames = []
            for latent in z:
                x = self.model.post_quant_conv(latent[None, :, None])
                frames.append(self.model.decoder(x, feat_cache=tails, feat_idx=[0], first_chunk=first))
                first = False
            yield torch.cat(frames, 2)[0].transpose(0, 1).float().clamp(-1, 1) / 2 + 0.5
