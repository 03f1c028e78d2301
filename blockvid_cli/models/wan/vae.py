"""diffusers' ``AutoencoderKLWan`` as a stream: its causal convolutions' tails are carried from block to block.

Latents are normalized by the model's published mean and standard deviation. The first latent of a film is one frame;
decoding each block as a film of its own would give 9 frames instead of 12, 63 instead of 81.

Frames may be decoded in overlapping tiles. Each tile is a stream of its own, whose tails are kept on the CPU between
blocks; the overlaps are blended:

    columns   |0 ............ 31|
                        |24 ............ 55|        weights fall and rise in a line between 24 and 31
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple, Self

import torch

from blockvid_cli.models.wan.networks import AutoencoderKLWan, WanCausalConv3d

TILE, STRIDE = 32, 24  # latent pixels
SPACE, TIME = 8, 4  # pixels in a latent pixel, frames in a latent frame
Tails = dict[int, list[torch.Tensor | None]]  # by tile; of each causal convolution


class Tile(NamedTuple):
    """A window of latent rows and columns."""

    rows: slice
    columns: slice


class WanVAE:
    """Wan's autoencoder; ``module`` is diffusers' and is not changed.

    Args:
        tiled: decode frames larger than a tile piece by piece, in a fraction of the memory.
    """

    def __init__(self, module: AutoencoderKLWan, tiled: bool = False) -> None:
        self.module, self.tiled = module, tiled
        for name in ("latents_mean", "latents_std"):
            if len(module.config[name]) != module.config["z_dim"]:
                raise ValueError(f"{name} has {len(module.config[name])} numbers, not one for each channel")
        self.mean = torch.tensor(module.config["latents_mean"]).view(-1, 1, 1)
        self.std = torch.tensor(module.config["latents_std"]).view(-1, 1, 1)
        self._tails, self._encoder_tails = (
            sum(isinstance(part, WanCausalConv3d) for part in half.modules())
            for half in (module.decoder, module.encoder)
        )

    @classmethod
    def from_config(cls, config: Mapping[str, Any], tiled: bool = False) -> Self:
        """Wan's autoencoder of these sizes with diffusers' random weights; mean and deviation are in the config."""
        return cls(AutoencoderKLWan(**config), tiled)

    def to(self, device: str) -> Self:
        """The same VAE on another device."""
        self.module.to(device)
        return self

    def encode(self, frames: torch.Tensor) -> torch.Tensor:
        """(1 + 4k, 3, H, W) in 0..1 -> (1 + k, C, H/8, W/8), the posterior's mode."""
        return next(iter(self.encode_stream([frames])))

    @torch.inference_mode()
    def encode_stream(self, pieces: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
        """For each piece of frames (4k, 3, H, W), 1 + 4k in the first, its latents."""
        tails: Tails = {}
        first = True
        for frames in pieces:
            x = frames.to(self.module.device, self.module.dtype) * 2 - 1
            tiles = self._tiles(x.shape[2] // SPACE, x.shape[3] // SPACE)
            if len(tiles) == 1:
                z = self._encode(x, tails.setdefault(0, [None] * self._encoder_tails), first)
            else:
                z = _run_tiles(x, tiles, tails, SPACE, partial(self._encode, first=first))
            yield (z - self.mean.to(z)) / self.std.to(z)
            first = False

    def _encode(self, x: torch.Tensor, tails: list[torch.Tensor | None], first: bool) -> torch.Tensor:
        """Latents (F, C, h, w) of frames (N, 3, H, W) in -1..1, or a tile of them; ``tails`` continue."""
        tails.extend([None] * (self._encoder_tails - len(tails)))
        groups = [x[:1], *x[1:].split(TIME)] if first else x.split(TIME)
        parts = [
            self.module.encoder(group.transpose(0, 1)[None], feat_cache=tails, feat_idx=[0])
            for group in groups
            if len(group)
        ]
        moments = self.module.quant_conv(torch.cat(parts, 2))
        return moments.chunk(2, 1)[0][0].transpose(0, 1).float()

    @torch.inference_mode()
    def stream(self, blocks: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
        """For each block of latents (F, C, h, w), its frames (4F, 3, H, W); 4F - 3 for the first."""
        tails: Tails = {}
        first = True
        for block in blocks:
            z = (block * self.std.to(block) + self.mean.to(block)).to(self.module.device, self.module.dtype)
            tiles = self._tiles(*z.shape[2:])
            if len(tiles) == 1:
                yield self._decode(z, tails.setdefault(0, [None] * self._tails), first)
            else:
                yield _run_tiles(z, tiles, tails, 1, partial(self._decode, first=first))
            first = False

    def _tiles(self, height: int, width: int) -> list[Tile]:
        if not self.tiled:
            return [Tile(slice(0, height), slice(0, width))]
        return [Tile(rows, columns) for rows in _windows(height) for columns in _windows(width)]

    def _decode(self, z: torch.Tensor, tails: list[torch.Tensor | None], first: bool) -> torch.Tensor:
        """Frames (F, 3, H, W) of a block or a tile of one; ``tails`` continue from the previous block."""
        tails.extend([None] * (self._tails - len(tails)))
        frames = []
        for number, latent in enumerate(z):
            x = self.module.post_quant_conv(latent[None, :, None])
            begins = first and number == 0
            frames.append(self.module.decoder(x, feat_cache=tails, feat_idx=[0], first_chunk=begins))
        return torch.cat(frames, 2)[0].transpose(0, 1).float().clamp(-1, 1) / 2 + 0.5


def _run_tiles(
    x: torch.Tensor,
    tiles: list[Tile],
    tails: Tails,
    scale: int,
    run: Callable[[torch.Tensor, list[torch.Tensor | None]], torch.Tensor],
) -> torch.Tensor:
    """What ``run`` makes of x (N, C, H, W) tile by tile, on the CPU; a tile's part weighs less towards inner edges.

    Args:
        tiles: in latent pixels.
        tails: of each tile's convolutions, on the CPU; changed.
        scale: pixels of x in a latent pixel.
        run: (a tile of x, its tails) -> frames or latents; changes the tails.
    """
    total = weight = None
    for number, tile in enumerate(tiles):
        rows, columns = (slice(side.start * scale, side.stop * scale) for side in tile)
        tile_tails = [_move(tail, x.device) for tail in tails.get(number, [])]
        part = run(x[:, :, rows, columns], tile_tails).cpu()
        tails[number] = [_move(tail, "cpu") for tail in tile_tails]
        size = part.shape[2] / (tile.rows.stop - tile.rows.start)  # pixels of the result in a latent pixel
        rows, columns = (slice(int(side.start * size), int(side.stop * size)) for side in tile)
        if total is None or weight is None:
            height, width = (int(side // scale * size) for side in x.shape[2:])
            total = part.new_zeros(*part.shape[:2], height, width)
            weight = total.new_zeros(height, width)
        down = _ramp(tile.rows, x.shape[2] // scale, int(size))
        across = _ramp(tile.columns, x.shape[3] // scale, int(size))
        total[:, :, rows, columns] += part * down[:, None] * across
        weight[rows, columns] += down[:, None] * across
    if total is None or weight is None:
        raise ValueError("there are no tiles")
    return total / weight


def _move(tail: torch.Tensor | str | None, device: torch.device | str) -> torch.Tensor | str | None:
    """A convolution's tail on another device; the model keeps a string there, too, where a first frame was repeated."""
    return tail.to(device) if isinstance(tail, torch.Tensor) else tail


def _windows(length: int) -> list[slice]:
    """Windows of a tile's length that cover ``length`` latent pixels; the last ends at the frame's edge."""
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
