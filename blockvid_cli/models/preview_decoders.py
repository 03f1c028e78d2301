"""The quickest decoder for a preview of a model's latents: its own VAE where that is small, else a stand-in.

latents of             decoder                                 needs
a small VAE            the VAE itself                          nothing more
Wan 2.1's VAE          TAEHV, where its weights are present    23 MB; ``pull_taehv`` fetches them
                       a linear map to RGB                     nothing
another large VAE      the VAE itself                          its time and memory

TAEHV's decoder for Wan 2.1 is a small convolutional stand-in for Wan's own:

    latent    z                             16 x h x w     squashed to -3..3, 3x3 to 256 channels
    stage 1   3 causal blocks, 2x in space       256 -> 128
    stage 2   3 causal blocks, 2x, 2x in time    128 -> 64
    stage 3   3 causal blocks, 2x, 2x in time     64 -> 64
    frames    f0 f1 f2 f3                    3 x 8h x 8w   of the film's first latent only f3 is shown

A causal block reads the features of the previous frame beside those of its own frame; that one map for each block is
the whole state of a stream. The layout (tensor names, shapes, order) and its arithmetic are those of the published
``taew2_1`` weights (Ollin Boer Bohan, https://github.com/madebyollin/taehv, MIT licence), of which only the
``decoder.`` half is used. It reads latents as networks write them, of zero mean and unit variance, and answers in 0..1:
no mean, no deviation.

The weights are looked for beside the model's card, then in blockvid's own cache folder, then in the hub's cache.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from blockvid_cli.errors import MissingModelError
from blockvid_cli.models.card import ModelCard, Weights
from blockvid_cli.models.checkpoint import read_checkpoint
from blockvid_cli.models.hub import blob_hash, cache_folder, hash_differs, local_path, pull_part
from blockvid_cli.models.loading import load_vae, match_keys
from blockvid_cli.models.registry import has_wan21_latents
from blockvid_cli.models.vae import LatentDecoder

TAEW21 = Weights(
    repository="OzzyGT/taew2_1",  # an unmodified copy of the author's, which is at github.com/madebyollin/taehv
    file="taew2_1.safetensors",
    sha256="04766eac0221b5390b985ae3fdcca652cbb4b1e8b82b28ea7ff89dfad1b1a93f",
)
TAEW21_BYTES = 22_642_902
TAEW21_LICENCE = "MIT, (c) 2025 Ollin Boer Bohan"
FILE_NAMES = ("taew2_1.safetensors", "taew2_1.pth", "lighttaew2_1.safetensors", "lighttaew2_1.pth")  # one layout
CHANNELS = 16  # of a latent
WIDTHS = (256, 128, 64, 64)  # before, between and after the stages
TIMES = (1, 2, 2)  # frames a stage makes from one
CAUSAL_BLOCKS = 3  # in a stage
LIMIT = 3.0  # latents are squashed to this
SKIPPED = 3  # frames before the film's first, which the first latent also stands for

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

State = list[torch.Tensor | None]


def _wide(inner: int, outer: int, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(inner, outer, 3, padding=1, bias=bias)


class Squash(nn.Module):
    """Keeps outliers of the latents within -3..3, softly."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return LIMIT * torch.tanh(x / LIMIT)


class CausalBlock(nn.Module):
    """A residual block of three convolutions that also reads the previous frame."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            _wide(2 * width, width), nn.ReLU(), _wide(width, width), nn.ReLU(), _wide(width, width)
        )

    def forward(self, x: torch.Tensor, before: torch.Tensor | None) -> torch.Tensor:
        """x (F, C, H, W), frames that follow one another; before (1, C, H, W), or None at a film's start."""
        start = torch.zeros_like(x[:1]) if before is None else before
        past = torch.cat([start, x[:-1]])
        return F.relu(self.conv(torch.cat([x, past], 1)) + x)


class Grow(nn.Module):
    """Each frame (C, H, W) becomes ``times`` frames, which its convolution writes side by side into channels."""

    def __init__(self, width: int, times: int) -> None:
        super().__init__()
        self.times = times
        self.conv = nn.Conv2d(width, width * times, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x).unflatten(1, (self.times, -1)).flatten(0, 1)


def _parts() -> Iterator[nn.Module]:
    """The decoder's parts in the published order, which numbers its tensors."""
    yield from (Squash(), _wide(CHANNELS, WIDTHS[0]), nn.ReLU())
    for number, times in enumerate(TIMES):
        width, following = WIDTHS[number : number + 2]
        yield from (CausalBlock(width) for _ in range(CAUSAL_BLOCKS))
        yield from (nn.Upsample(scale_factor=2), Grow(width, times), _wide(width, following, bias=False))
    yield from (nn.ReLU(), _wide(WIDTHS[-1], 3))


class TaehvDecoder(nn.Module):
    """A ``LatentDecoder`` with random weights until a state is loaded."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder = nn.Sequential(*_parts())

    def step(self, latent: torch.Tensor, state: State) -> tuple[torch.Tensor, State]:
        """One latent (1, 16, h, w) -> its four frames (4, 3, 8h, 8w), and the state that the next one starts from.

        ``state`` is empty at a film's start.
        """
        x, after = latent, []
        before = iter(state or [None] * CAUSAL_BLOCKS * len(TIMES))
        for part in self.decoder:
            if isinstance(part, CausalBlock):
                after.append(x[-1:])
                x = part(x, next(before))
            else:
                x = part(x)
        return x, after

    @torch.inference_mode()
    def stream(self, blocks: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
        """For each block of latents (F, 16, h, w), its frames (4F, 3, H, W) in 0..1; 4F - 3 for the film's first."""
        state: State = []
        first = True
        for block in blocks:
            frames = []
            for latent in block.to(self.decoder[1].weight):  # one at a time: the bits never depend on the block
                four, state = self.step(latent[None], state)
                frames.append(four)
            decoded = torch.cat(frames).float().clamp(0, 1)
            yield decoded[SKIPPED:] if first else decoded
            first = False


def taehv_weights(card: ModelCard) -> Path | None:
    """The file of TAEHV's weights on this machine; None where there is none."""
    for folder in (card.folder, cache_folder()):
        for name in FILE_NAMES:
            if (folder / name).is_file():
                return folder / name
    with suppress(MissingModelError):
        file = local_path(card, TAEW21)
        return file if blob_hash(file) in (TAEW21.sha256, None) else None
    return None


def pull_taehv(card: ModelCard) -> Path:
    """Downloads TAEHV's weights into the hub's cache and checks their hash; for models with Wan 2.1's latents.

    Raises:
        MissingModelError: the hub cannot be reached, no longer has them, or has others under that name.
    """
    file = pull_part(card, TAEW21)
    if hash_differs(file, TAEW21.sha256 or ""):
        raise MissingModelError(f"{file}: these are not the preview weights that are known here; the hash differs.")
    return file


def load_taehv(file: Path) -> TaehvDecoder:
    """The decoder with the weights of a published file; the file's encoder is not read.

    Raises:
        MissingModelError: the file is damaged, or holds not exactly this decoder.
        RefusedModelError: the file is a pickle that could run code.
    """
    tensors = {n: t for n, t in read_checkpoint(file).tensors.items() if n.startswith("decoder.")}
    with torch.device("meta"):
        decoder = TaehvDecoder()
    match = match_keys(decoder, tensors)
    if not match.complete or match.unknown:
        raise MissingModelError(f"{file}: these are not the weights of TAEHV for Wan 2.1: {match}.")
    values = {name: stored.read().to(torch.float32, copy=True) for name, stored in tensors.items()}
    decoder.load_state_dict(values, strict=True, assign=True)
    return decoder.eval().requires_grad_(False)


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
