"""A small causal video autoencoder of 2D convolutions: 4x in time, 8x in space, 16 channels.

    frames  f0 | f1 f2 f3 f4 | f5 ...          four frames are folded into channels; the first stands for four
    encode     12 x H x W  ->  linear 8x8 patch projection + convolutions  ->  16 x H/8 x W/8
    decode     16 x H/8 x W/8  ->  linear projection + convolutions  ->  12 x H x W

The linear paths are initialized by principal components (``fit_principal``); the convolutional paths add nothing at
first. Time enters only through residual blocks that also read the features of the previous latent frame; that feature
map, one for each such block, is the whole state of a stream.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import torch
from torch import nn
from torch.nn import functional as F

FOLD = 4  # pixel frames a latent frame
PATCH = 8  # pixels a latent pixel, each way

State = list[torch.Tensor | None]


@dataclass(frozen=True)
class TinyVAEConfig:
    """Widths and depths; coarse is at 1/8 of the picture, fine at 1/4."""

    channels: int = 16
    encode_fine: int = 96
    encode_coarse: int = 192
    decode_coarse: int = 192
    decode_fine: int = 128
    encode_depth: tuple[int, int] = (2, 3)
    decode_depth: tuple[int, int] = (4, 2)


class ChannelNorm(nn.Module):
    """Root-mean-square norm over channels only, so that a frame's norm never sees another frame."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scale = torch.rsqrt(x.float().pow(2).mean(1, keepdim=True) + 1e-6).to(x.dtype)
        return x * scale * self.weight.to(x.dtype)


class Residual(nn.Module):
    """norm, SiLU, 3x3, SiLU, 3x3 (zero at first); with ``causal`` it also reads the previous latent frame."""

    def __init__(self, channels: int, causal: bool) -> None:
        super().__init__()
        self.causal = causal
        self.norm = ChannelNorm(channels)
        self.inner = nn.Conv2d(channels * (2 if causal else 1), channels, 3, padding=1)
        self.outer = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)

    def forward(
        self, x: torch.Tensor, clips: int, before: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """x (B·F, C, H, W) of ``clips`` = B clips; before (B, C, H, W) or None at a clip's start."""
        h = F.silu(self.norm(x))
        after = None
        if self.causal:
            clip = h.unflatten(0, (clips, -1))
            after = clip[:, -1]
            start = torch.zeros_like(after) if before is None else before
            h = torch.cat([h, torch.cat([start[:, None], clip[:, :-1]], 1).flatten(0, 1)], 1)
        return x + self.outer(F.silu(self.inner(h))), after


def _through(blocks: nn.ModuleList, x: torch.Tensor, clips: int, state: State) -> tuple[torch.Tensor, State]:
    """Runs residual blocks, each with its own state; returns the state for the next step as well."""
    after: State = []
    for block, before in zip(blocks, state or [None] * len(blocks), strict=True):
        x, features = block(x, clips, before)
        after.append(features)
    return x, after


class Encoder(nn.Module):
    """Folded frames (B·F, 12, H, W) -> latents (B·F, C, H/8, W/8)."""

    def __init__(self, sizes: TinyVAEConfig) -> None:
        super().__init__()
        fine, coarse = sizes.encode_fine, sizes.encode_coarse
        self.linear = nn.Conv2d(3 * FOLD, sizes.channels, PATCH, PATCH)
        self.enter = nn.Conv2d(3 * FOLD * 16, fine, 1)
        self.fine = nn.ModuleList(Residual(fine, causal=False) for _ in range(sizes.encode_depth[0]))
        self.down = nn.Conv2d(fine, coarse, 2, 2)
        self.coarse = nn.ModuleList(Residual(coarse, causal=True) for _ in range(sizes.encode_depth[1]))
        self.leave = nn.Conv2d(coarse, sizes.channels, 3, padding=1)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, x: torch.Tensor, clips: int, state: State) -> tuple[torch.Tensor, State]:
        h = self.enter(F.pixel_unshuffle(x, 4))
        h, _ = _through(self.fine, h, clips, [])
        h, state = _through(self.coarse, self.down(h), clips, state)
        return self.linear(x) + self.leave(F.silu(h)), state


class Decoder(nn.Module):
    """Latents (B·F, C, H/8, W/8) -> folded frames (B·F, 12, H, W)."""

    def __init__(self, sizes: TinyVAEConfig) -> None:
        super().__init__()
        coarse, fine = sizes.decode_coarse, sizes.decode_fine
        self.linear = nn.Conv2d(sizes.channels, 3 * FOLD * PATCH * PATCH, 1)
        self.enter = nn.Conv2d(sizes.channels, coarse, 3, padding=1)
        self.coarse = nn.ModuleList(Residual(coarse, causal=True) for _ in range(sizes.decode_depth[0]))
        self.up = nn.Conv2d(coarse, fine * 4, 1)
        self.fine = nn.ModuleList(Residual(fine, causal=False) for _ in range(sizes.decode_depth[1]))
        self.leave = nn.Conv2d(fine, 3 * FOLD * 16, 3, padding=1)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, z: torch.Tensor, clips: int, state: State) -> tuple[torch.Tensor, State]:
        h, state = _through(self.coarse, self.enter(z), clips, state)
        h, _ = _through(self.fine, F.pixel_shuffle(self.up(h), 2), clips, [])
        detail = F.pixel_shuffle(self.leave(F.silu(h)), 4)
        return F.pixel_shuffle(self.linear(z), PATCH) + detail, state


class TinyVAE(nn.Module):
    """The VAE of the bundled model: it computes in full precision and is never tiled, since its frames are small."""

    mean: torch.Tensor  # (C,) of the latents
    std: torch.Tensor

    def __init__(self, sizes: TinyVAEConfig | None = None) -> None:
        super().__init__()
        self.sizes = sizes or TinyVAEConfig()
        self.encoder = Encoder(self.sizes)
        self.decoder = Decoder(self.sizes)
        self.register_buffer("mean", torch.zeros(self.sizes.channels))
        self.register_buffer("std", torch.ones(self.sizes.channels))

    @classmethod
    def from_config(cls, config: Mapping[str, Any], tiled: bool = False) -> Self:
        """The VAE of these sizes with random weights; ``tiled`` changes nothing."""
        return cls(TinyVAEConfig(**config))

    @property
    def module(self) -> nn.Module:
        """Itself: the module is the VAE."""
        return self

    @property
    def config(self) -> dict[str, object]:
        """The sizes, in the form of a card's ``vae.config``."""
        return asdict(self.sizes)

    def encode(self, frames: torch.Tensor) -> torch.Tensor:
        """(1 + 4k, 3, H, W) in 0..1 -> (1 + k, C, H/8, W/8), zero mean and unit variance a channel."""
        return next(iter(self.encode_stream([frames])))

    @torch.inference_mode()
    def encode_stream(self, pieces: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
        """For each piece of frames (4k, 3, H, W), 1 + 4k in the first, its latents."""
        state: State = []
        first = True
        for frames in pieces:
            x = frames[None].to(self.mean)
            folded = fold(x)[0] if first else fold_later(x)[0]
            latents = []
            for frame in folded:
                z, state = self.encoder(frame[None], 1, state)
                latents.append(z)
            yield (torch.cat(latents) - self.mean.view(-1, 1, 1)) / self.std.view(-1, 1, 1)
            first = False

    @torch.inference_mode()
    def stream(self, blocks: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
        """For each block of latents (F, C, h, w), its frames (4F, 3, H, W); 4F - 3 for the first."""
        state: State = []
        first = True
        for block in blocks:
            z = block.to(self.mean) * self.std.view(-1, 1, 1) + self.mean.view(-1, 1, 1)
            frames = []
            for latent in z:
                folded, state = self.decoder(latent[None], 1, state)
                frames.append(folded.unflatten(1, (FOLD, 3))[0])
            decoded = (torch.cat(frames) + 0.5).clamp(0, 1)
            yield decoded[FOLD - 1 :] if first else decoded
            first = False


def fold(frames: torch.Tensor) -> torch.Tensor:
    """Clips (B, 1 + 4k, 3, H, W) in 0..1 -> (B, 1 + k, 12, H, W) around zero; the first frame stands for four."""
    start = frames[:, :1].expand(-1, FOLD - 1, -1, -1, -1)
    return fold_later(torch.cat([start, frames], 1))


def fold_later(frames: torch.Tensor) -> torch.Tensor:
    """Later parts of clips (B, 4k, 3, H, W) in 0..1 -> (B, k, 12, H, W) around zero."""
    return frames.sub(0.5).unflatten(1, (-1, FOLD)).flatten(2, 3)


def fit_principal(vae: TinyVAE, folded: torch.Tensor) -> None:
    """Sets the linear paths to the principal components of folded frames (N, 12, H, W)."""
    with torch.no_grad():
        patches = F.unfold(folded, PATCH, stride=PATCH).transpose(1, 2).flatten(0, 1)
        middle = patches.mean(0)
        scatter = (patches - middle).T @ (patches - middle) / len(patches)
        _, vectors = torch.linalg.eigh(scatter.double())
        basis = vectors.flip(1)[:, : vae.sizes.channels].T.float()  # (C, 12·8·8)
        scale = ((patches - middle) @ basis.T).std(0).clamp(min=1e-3)
        vae.encoder.linear.weight.copy_((basis / scale[:, None]).unflatten(1, (-1, PATCH, PATCH)))
        vae.encoder.linear.bias.copy_(-(basis @ middle) / scale)
        vae.decoder.linear.weight.copy_((basis * scale[:, None]).T[:, :, None, None])
        vae.decoder.linear.bias.copy_(middle)
