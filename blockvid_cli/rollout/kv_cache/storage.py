"""Where cached tokens are kept until they are attended to, and how many bytes they take there.

    device    where the network is             0.27 GiB a latent frame of Wan 1.3B at 832x480, in half precision
    host      in main memory
    disk      in files that go with the render
    latents   nowhere: the clean latents (a hundredth) are passed through the network again when they are attended to

``bf16`` and ``int8`` (a scale for each token's head) halve and quarter full precision. ``host`` and ``disk`` give the
very film that ``device`` gives; so does ``latents`` where a block is encoded alone, and it is refused elsewhere.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save

from blockvid_cli.errors import UsageError, from_os_error
from blockvid_cli.models.wan.attention import LayerQKV, TokenKV
from blockvid_cli.rollout.kv_cache.base import CacheEntry, KVView, OnDevice, Storage, block_tokens, resident_entry
from blockvid_cli.storyboard.plan import Block

LOCATIONS = ("device", "host", "disk", "latents")
DTYPES = ("native", "bf16", "int8")
Packed = dict[str, torch.Tensor]
Recompute = Callable[[Block], tuple[Sequence[LayerQKV], torch.Tensor]]  # layers, and coordinates (T, 3)


@dataclass(frozen=True)
class OffloadedKV:
    """Tokens packed as ``dtype``, on the device, in main memory, or in files of ``folder``; read a layer at a time.

    Coordinates and biases, which are few, stay in memory as they are.
    """

    location: str
    dtype: str
    folder: Path | None = None

    def store(self, frames: Sequence[int], layers: Sequence[TokenKV], blocks: Sequence[Block]) -> CacheEntry:
        """Packs and moves the tokens."""
        device, native = layers[0].keys.device, layers[0].keys.dtype
        target = device if self.location == "device" else torch.device("cpu")
        packed: Packed = {}
        for number, tokens in enumerate(layers):
            for name, value in (("keys", tokens.keys), ("values", tokens.values)):
                parts = pack(value, self.dtype)
                packed |= {f"{number}.{name}{part}": x.to(target).contiguous() for part, x in parts.items()}
        coordinates = [tokens.coordinates for tokens in layers]
        biases = [None if tokens.bias is None else tokens.bias.to(target) for tokens in layers]
        get = self._on_disk(packed, blocks) if self.location == "disk" else packed.get

        def read(number: int) -> TokenKV:
            keys, values = (unpack(get, f"{number}.{name}", device, native) for name in ("keys", "values"))
            bias = biases[number]
            return TokenKV(keys, values, coordinates[number], None if bias is None else bias.to(device))

        return CacheEntry(tuple(frames), read, range(len(frames)), blocks[0].shot, resident=False)

    def _on_disk(self, packed: Packed, blocks: Sequence[Block]) -> Callable[[str], torch.Tensor | None]:
        if self.folder is None:
            raise ValueError("a KV cache on disk needs a folder")
        file = self.folder / f"{os.getpid()}-{blocks[0].number:05d}-{blocks[-1].number:05d}.safetensors"
        if self.folder.is_symlink():
            raise UsageError(f"{self.folder} is a link; a KV cache on disk is not written through one: remove it.")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            file.write_bytes(save(packed))
        except OSError as error:
            raise from_os_error(error) from error
        names, reader = set(packed), safe_open(file, framework="pt")
        with suppress(OSError):  # where open files can be deleted, the space is free once the entry is dropped
            file.unlink()
            self.folder.rmdir()
        return lambda name: reader.get_tensor(name) if name in names else None


@dataclass(frozen=True)
class RecomputedKV:
    """Stores no tokens: ``recompute`` passes a finished block through the network as in its cache update."""

    recompute: Recompute

    def store(self, frames: Sequence[int], layers: Sequence[TokenKV], blocks: Sequence[Block]) -> CacheEntry:
        """Keeps only which tokens they are, and their biases."""
        coordinates, biases = [tokens.coordinates for tokens in layers], [tokens.bias for tokens in layers]
        parts = tuple(blocks)
        recomputed: dict[int, TokenKV] = {}  # by layer; a view reads each once, and the next view's are made anew

        def read(number: int) -> TokenKV:
            if number not in recomputed:
                whole = KVView([resident_entry(*block_tokens(block, *self.recompute(block))) for block in parts])
                for layer, wanted in enumerate(coordinates):
                    tokens = whole.read(layer)
                    if tokens is None:
                        raise ValueError("a finished block has frames")
                    chosen = tokens.select(_indices(tokens.coordinates, wanted))
                    recomputed[layer] = replace(chosen, bias=biases[layer])
            return recomputed.pop(number)

        return CacheEntry(tuple(frames), read, range(len(frames)), blocks[0].shot)


def make_storage(location: str, dtype: str, resident: bool, folder: Path | None, recompute: Recompute) -> Storage:
    """The storage of a name; see the module's table.

    Args:
        resident: on the device, keep what a block attends to joined and rotated for all its passes.
        folder: for a KV cache on disk.
        recompute: passes a finished block through the network again; for ``latents``.
    """
    if location == "latents":
        return RecomputedKV(recompute)
    return (
        OnDevice() if location == "device" and dtype == "native" and resident else OffloadedKV(location, dtype, folder)
    )


def _indices(coordinates: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """The indices of the wanted coordinates (T, 3) among all (both in ascending order, all whole numbers)."""
    top = coordinates.max(0).values + 1
    return torch.searchsorted(_ranks(coordinates, top), _ranks(wanted, top))


def _ranks(coordinates: torch.Tensor, top: torch.Tensor) -> torch.Tensor:
    return (coordinates[:, 0] * top[1] + coordinates[:, 1]) * top[2] + coordinates[:, 2]


def pack(x: torch.Tensor, dtype: str) -> Packed:
    """A tensor (B, T, H, D) in fewer bytes: parts by a suffix of its name."""
    if dtype == "int8":
        scale = (x.float().abs().amax(-1, keepdim=True) / 127).clamp(min=1e-7).half()
        return {"": (x.float() / scale.float()).round().clamp(-127, 127).to(torch.int8), ".scale": scale}
    return {"": x.to(torch.bfloat16) if dtype == "bf16" else x}


def unpack(
    get: Callable[[str], torch.Tensor | None], name: str, device: torch.device, dtype: torch.dtype
) -> torch.Tensor:
    """The tensor that ``pack`` packed, on ``device`` in ``dtype``; ``get`` returns parts by name."""
    value, scale = get(name), get(f"{name}.scale")
    if value is None:
        raise KeyError(name)
    value = value.to(device)
    if scale is not None:
        value = value.float() * scale.to(device).float()
    return value.to(dtype)
