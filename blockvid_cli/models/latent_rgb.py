"""The quickest look at Wan 2.1's latents: a linear map of 16 channels to red, green and blue. Nothing to download.

    latent pixel (16) . FACTORS (16 x 3) + BIAS  ->  a colour in -1..1  ->  8 x 8 pixels of the picture

Colours and shapes are there, detail and motion within a latent frame are not. The numbers are ComfyUI's
(``comfy/latent_formats.py``, class ``Wan21``; Wan2GP's ``shared/RGB_factors.py`` has the same). There they are applied
to the sampler's running guess of the clean latents, before ``process_out`` puts mean and deviation back: they are for
latents of zero mean and unit variance, which is what networks and codecs exchange here. Latents of another
autoencoder come out in false colours; ``zoo.previews`` looks at the card before it offers this map.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch.nn import functional as F

FACTORS = (  # red, green, blue of each channel
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
BIAS = (-0.1835, -0.0868, -0.3360)
SPACE, TIME = 8, 4  # pixels a latent pixel, each way; frames a latent frame


class LatentRGB:
    """See ``codec.stream.Decoder`` for the contract.

    Args:
        scale: pixels a latent pixel, each way; 1 gives pictures of the latents' own size.
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
            if block.shape[1] != len(FACTORS):
                raise ValueError(f"the map is for latents of {len(FACTORS)} channels, not {block.shape[1]}")
            pictures = torch.cat([self._picture(latent) for latent in block])
            frames = pictures.repeat_interleave(TIME, 0)
            yield frames[TIME - 1 :] if first else frames
            first = False

    def _picture(self, latent: torch.Tensor) -> torch.Tensor:
        """One latent frame (16, h, w) as a picture (1, 3, H, W) in 0..1."""
        z = latent.to(self._device or latent.device, torch.float32)
        colours = F.linear(z.permute(1, 2, 0), z.new_tensor(FACTORS).T, z.new_tensor(BIAS))
        picture = ((colours + 1) / 2).clamp(0, 1).permute(2, 0, 1)[None]
        if self.scale == 1:
            return picture
        if self.smooth:
            return F.interpolate(picture, scale_factor=self.scale, mode="bilinear", align_corners=False)
        return F.interpolate(picture, scale_factor=self.scale, mode="nearest")
