"""The quickest decoder for a preview of a model's latents: its own VAE where that is small, else a stand-in.

latents of             decoder                                 needs
a small VAE            the VAE itself                          nothing more
Wan 2.1's VAE          TAEHV, where its weights are present    23 MB; ``taehv.pull_taehv`` fetches them
                       a linear map to RGB                     nothing
another large VAE      the VAE itself                          its time and memory
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn import functional as F

from blockvid_cli.models.card import ModelCard
from blockvid_cli.models.loading import load_vae
from blockvid_cli.models.registry import has_wan21_latents
from blockvid_cli.models.taehv import load_taehv, taehv_weights
from blockvid_cli.models.vae import LatentDecoder

RGB_FACTORS = (  # red, green, blue of each channel
    (-0.1299, -0.1692, 0.2932),
    (0.0671, 0.0406, 0.0442),
    (0.3568, 0.2548, 0.1747),
    (0.0372, 0.2344, 0.1420),
    (0.0313, 0.0189, -0.0328),
    (0.0296, -0.0956, -0.0665),
    (-0.3477, -0.4059, -0.2925),
    (0.0166, 0.1902, 0.1975),
    (-0.0412, 0.0267, -0.1364),
    (-0.1293, 0.0740, 0.1636),
    (0.0680, 0.3019, 0.1128),
    (0.0032, 0.0581, 0.0639),
    (-0.1251, 0.0927, 0.1699),
    (0.0060, -0.0633, 0.0005),
    (0.3477, 0.2275, 0.2950),
    (0.1984, 0.0913, 0.1861),
)
RGB_BIAS = (-0.1835, -0.0868, -0.3360)
SPACE, TIME = 8, 4  # pixels a latent pixel, each way; frames a latent frame


@dataclass(frozen=True)
class PreviewDecoder:
    """A decoder, what it is (``vae``, ``taehv``, ``rgb``), and the file of TAEHV's weights."""

    decoder: LatentDecoder
    kind: str
    file: Path | None = None


def load_preview_decoder(
    card: ModelCard, device: str, dtype: torch.dtype = torch.float32, linear: bool = False
) -> PreviewDecoder:
    """The quickest decoder of a model's latents that is on this machine; nothing is downloaded.

    Args:
        dtype: what TAEHV and the model's own VAE compute in.
        linear: the linear map even where TAEHV's weights are present.

    Raises:
        MissingModelError: weights are present but damaged or of another layout, or the model's own VAE is absent.
    """
    if not has_wan21_latents(card):
        return PreviewDecoder(load_vae(card, device, dtype), "vae")
    file = None if linear else taehv_weights(card)
    if file is None:
        return PreviewDecoder(LatentRGB().to(device), "rgb")
    return PreviewDecoder(load_taehv(file).to(device, dtype), "taehv", file)


class LatentRGB:
    """A ``LatentDecoder`` without weights: a linear map of 16 channels to red, green and blue.

        latent pixel (16) . RGB_FACTORS (16 x 3) + RGB_BIAS  ->  a colour in -1..1  ->  8 x 8 pixels of the frame

    Colours and shapes are visible, detail and motion within a latent frame are not. The numbers are ComfyUI's
    (``comfy/latent_formats.py``, class ``Wan21``; Wan2GP's ``shared/RGB_factors.py`` has the same). There they are
    applied to the sampler's running estimate of the clean latents, before ``process_out`` puts mean and deviation back:
    they are for latents of zero mean and unit variance, which is what networks and VAEs exchange here. Latents of
    another autoencoder come out in false colours, so the map is offered only for Wan 2.1's.

    Args:
        scale: pixels a latent pixel, each way; 1 gives frames of the latents' own size.
        smooth: bilinear instead of square pixels.
    """

    def __init__(self, scale: int = SPACE, smooth: bool = True) -> None:
        self.scale, self.smooth = scale, smooth
        self._device: str | None = None  # None: where the latents are

    def to(self, device: str) -> LatentRGB:
        """The same map on another device."""
        self._device = device
        return self

    @torch.inference_mode()
    def stream(self, blocks: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
        """For each block of latents (F, 16, h, w), its frames (4F, 3, H, W) in 0..1; 4F - 3 for the film's first.

        Every latent frame is shown as often as it stands for frames.

        Raises:
            ValueError: the latents have another number of channels.
        """
        first = True
        for block in blocks:
            if block.shape[1] != len(RGB_FACTORS):
                raise ValueError(f"the map is for latents of {len(RGB_FACTORS)} channels, not {block.shape[1]}")
            images = torch.cat([self._image(latent) for latent in block])
            frames = images.repeat_interleave(TIME, 0)
            yield frames[TIME - 1 :] if first else frames
            first = False

    def _image(self, latent: torch.Tensor) -> torch.Tensor:
        """One latent frame (16, h, w) as an image (1, 3, H, W) in 0..1."""
        z = latent.to(self._device or latent.device, torch.float32)
        colours = F.linear(z.permute(1, 2, 0), z.new_tensor(RGB_FACTORS).T, z.new_tensor(RGB_BIAS))
        image = ((colours + 1) / 2).clamp(0, 1).permute(2, 0, 1)[None]
        if self.scale == 1:
            return image
        if self.smooth:
            return F.interpolate(image, scale_factor=self.scale, mode="bilinear", align_corners=False)
        return F.interpolate(image, scale_factor=self.scale, mode="nearest")
