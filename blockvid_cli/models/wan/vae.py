"""diffusers' ``AutoencoderKLWan`` as a stream: its causal convolutions' tails are carried from block to block.

Latents are normalised by the model's published mean and standard deviation. The first latent of a film is one frame;
decoding each block as a film of its own would give 9 frames instead of 12, 63 instead of 81.

A picture may be decoded in overlapping tiles, each a stream of its own whose tails wait on the CPU for their turn; the
overlaps are blended:

    columns   |0 ............ 31|
                        |24 ............ 55|        weights fall and rise in a line between 24 and 31
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d

TILE, STRIDE = 32, 24  # latent pixels


class Tile(NamedTuple):
    """A window of latent rows and columns."""

    rows: slice
    columns: slice


class WanVAE:
    """See ``codec.stream.Codec`` for the contract; ``model`` stays as it is.

    Args:
        tiled: decode pictures larger than a tile piece by piece, in a fraction of the memory.
    """

    def __init__(self, model: AutoencoderKLWan, tiled: bool = False) -> None:
        self.model, self.tiled = model, tiled
        if tiled:
            model.enable_tiling()  # for encoding; decoding is streamed here
        self.mean = torch.tensor(model.config["latents_mean"]).view(-1, 1, 1)
        self.std = torch.tensor(model.config["latents_std"]).view(-1, 1, 1)
        self._tails = sum(isinstance(module, WanCausalConv3d) for module in model.decoder.modules())

    def to(self, device: str) -> WanVAE:
        """The same codec on another device."""
        self.model.to(device)
        return self

    @torch.inference_mode()
    def encode(self, frames: torch.Tensor) -> torch.Tensor:
        """(1 + 4k, 3, H, W) in 0..1 -> (1 + k, C, H/8, W/8), the posterior's mode."""
        x = frames.to(self.model.device, self.model.dtype).transpose(0, 1)[None] * 2 - 1
        z = self.model.encode(x, return_dict=False)[0].mode()[0].transpose(0, 1).float()
        return (z - self.mean.to(z)) / self.std.to(z)

    @torch.inference_mode()
    def stream(self, blocks: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
        """For each block of latents (F, C, h, w), its frames (4F, 3, H, W); 4F - 3 for the first."""
        tails: dict[int, list[torch.Tensor | None]] = {}
        first = True
        for block in blocks:
            z = (block * self.std.to(block) + self.mean.to(block)).to(self.model.device, self.model.dtype)
            tiles = self._tiles(*z.shape[2:])
            if len(tiles) == 1:
                yield self._decoded(z, tails.setdefault(0, [None] * self._tails), first)
            else:
                yield self._blended(z, tiles, tails, first)
            first = False

    def _tiles(self, height: int, width: int) -> list[Tile]:
        if not self.tiled:
            return [Tile(slice(0, height), slice(0, width))]
        return [Tile(rows, columns) for rows in _windows(height) for columns in _windows(width)]

    def _decoded(self, z: torch.Tensor, tails: list[torch.Tensor | None], first: bool) -> torch.Tensor:
        """Frames (F, 3, H, W) of a block or a tile of one; ``tails`` go on where the block before ended."""
        frames = []
        for number, latent in enumerate(z):
            x = self.model.post_quant_conv(latent[None, :, None])
            begins = first and number == 0
            frames.append(self.model.decoder(x, feat_cache=tails, feat_idx=[0], first_chunk=begins))
        return torch.cat(frames, 2)[0].transpose(0, 1).float().clamp(-1, 1) / 2 + 0.5

    def _blended(
        self, z: torch.Tensor, tiles: list[Tile], tails: dict[int, list[torch.Tensor | None]], first: bool
    ) -> torch.Tensor:
        """A block decoded tile by tile, on the CPU; each tile's part weighs less towards its inner edges."""
        total = weight = None
        for number, tile in enumerate(tiles):
            own = [_moved(tail, z.device) for tail in tails.get(number, [None] * self._tails)]
            frames = self._decoded(z[:, :, tile.rows, tile.columns], own, first).cpu()
            tails[number] = [_moved(tail, "cpu") for tail in own]
            scale = frames.shape[2] // (tile.rows.stop - tile.rows.start)
            if total is None:
                total = frames.new_zeros(*frames.shape[:2], z.shape[2] * scale, z.shape[3] * scale)
                weight = total.new_zeros(total.shape[2:])
            down = _ramp(tile.rows, z.shape[2], scale)
            across = _ramp(tile.columns, z.shape[3], scale)
            rows, columns = (slice(side.start * scale, side.stop * scale) for side in tile)
            total[:, :, rows, columns] += frames * down[:, None] * across
            weight[rows, columns] += down[:, None] * across
        return total / weight


def _moved(tail: torch.Tensor | str | None, device: torch.device | str) -> torch.Tensor | str | None:
    """A convolution's tail on another device; the model keeps a word there, too, where a first frame was repeated."""
    return tail.to(device) if isinstance(tail, torch.Tensor) else tail


def _windows(length: int) -> list[slice]:
    """Windows of a tile's length that cover ``length`` latent pixels; the last ends where the picture ends."""
    if length <= TILE:
        return [slice(0, length)]
    starts = [*range(0, length - TILE, STRIDE), length - TILE]
    return [slice(start, start + TILE) for start in starts]


def _ramp(window: slice, length: int, scale: int) -> torch.Tensor:
    """Weights of a window's pixels: 1, rising from an inner first edge and falling towards an inner last one."""
    size, edge = (window.stop - window.start) * scale, (TILE - STRIDE) * scale
    rise = ((torch.arange(size) + 0.5) / edge).clamp(max=1)
    weights = torch.ones(size)
    if window.start > 0:
        weights = weights * rise
    if window.stop < length:
        weights = weights * rise.flip(0)
    return weights
