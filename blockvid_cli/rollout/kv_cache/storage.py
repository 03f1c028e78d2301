"""Where remembered tokens lie until they are looked at, and how many bytes they take there.

    device    where the network is             0.27 GiB a latent frame of Wan 1.3B at 832x480, in half precision
    host      in main memory
    disk      in files that go with the render
    latents   nowhere: the clean latents (a hundredth) are shown to the network again when they are looked at

``bf16`` and ``int8`` (a scale for each token's head) halve and quarter full precision. ``host`` and ``disk`` give the
very film that ``device`` gives; so does ``latents`` where a block is committed alone, and it is refused elsewhere.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save

from blockvid_cli.models.wan.attention import LayerQKV
from blockvid_cli.project.atomic_files import disk_errors
from blockvid_cli.rollout.kv_cache.base import CacheEntry, TokenKV, OnDevice, Storage, KVView, resident_entry, block_tokens
from blockvid_cli.storyboard.plan import Block

LOCATIONS = ("device", "host", "disk", "latents")
DTYPES = ("native", "bf16", "int8")
Packed = dict[str, torch.Tensor]


@dataclass(frozen=True)
class OffloadedKV:
    """Tokens packed as ``dtype``, on the device, in main memory, or in files of ``folder``; read a layer at a time."""

    place: str
    dtype: str
    folder: Path | None = None

    def store(self, frames: Sequence[int], layers: Sequence[TokenKV], blocks: Sequence[Block]) -> CacheEntry:
        """See ``Storage``."""
        device, drawn = layers[0].keys.device, layers[0].keys.dtype
        home = device if self.place == "device" else torch.device("cpu")
        packed: Packed = {}
        for number, kept in enumerate(layers):
            for name, value in (("keys", kept.keys), ("values", kept.values)):
                parts = pack(value, self.dtype)
                packed |= {f"{number}.{name}{part}": x.to(home).contiguous() for part, x in parts.items()}
        places = [kept.coordinates for kept in layers]
        get = self._written(packed, blocks) if self.place == "disk" else packed.get

        def read(number: int) -> TokenKV:
            pair = (unpack(get, f"{number}.{name}", device, drawn) for name in ("keys", "values"))
            return TokenKV(*pair, places[number])

        return CacheEntry(tuple(frames), read, range(len(frames)), resident=False)

    def _written(self, packed: Packed, blocks: Sequence[Block]) -> Callable[[str], torch.Tensor | None]:
        if self.folder is None:
            raise ValueError("a memory on disk needs a folder")
        file = self.folder / f"{os.getpid()}-{blocks[0].number:05d}-{blocks[-1].number:05d}.safetensors"
        with disk_errors(file):
            self.folder.mkdir(parents=True, exist_ok=True)
            file.write_bytes(save(packed))
        names, opened = set(packed), safe_open(file, framework="pt")
        with suppress(OSError):  # where files that are open can go, the room is free when nobody remembers the block
            file.unlink()
            self.folder.rmdir()
        return lambda name: opened.get_tensor(name) if name in names else None


@dataclass(frozen=True)
class RecomputedKV:
    """Tokens are made again: ``shown`` shows a finished block to the network as it was when it was committed."""

    shown: Callable[[Block], tuple[Sequence[LayerQKV], torch.Tensor]]

    def store(self, frames: Sequence[int], layers: Sequence[TokenKV], blocks: Sequence[Block]) -> CacheEntry:
        """See ``Storage``."""
        places, parts = [kept.coordinates for kept in layers], tuple(blocks)
        made: dict[int, TokenKV] = {}  # by layer; a view reads each once, and the next view's are made anew

        def read(number: int) -> TokenKV:
            if number not in made:
                whole = KVView([resident_entry(*block_tokens(block, *self.shown(block))) for block in parts])
                for layer, wanted in enumerate(places):
                    kept = whole.tokens(layer)
                    made[layer] = kept.select(_indices(kept.coordinates, wanted))
            return made.pop(number)

        return CacheEntry(tuple(frames), read, range(len(frames)))


def make_storage(
    place: str,
    dtype: str,
    at_hand: bool,
    folder: Path | None,
    shown: Callable[[Block], tuple[Sequence[LayerQKV], torch.Tensor]],
) -> Storage:
    """The storage of a name; see the module's table.

    Args:
        at_hand: on the device, keep what a block looks at joined and rotated for all its passes.
        folder: for a memory on disk.
        shown: shows a finished block to the network again; for latents.
    """
    if place == "latents":
        return RecomputedKV(shown)
    return OnDevice() if place == "device" and dtype == "native" and at_hand else OffloadedKV(place, dtype, folder)


def _indices(coordinates: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Where the wanted coordinates (T, 3) lie among all (both in ascending order, all whole numbers)."""
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
    """What ``pack`` packed, on ``device`` in ``dtype``; ``get`` hands out parts by name."""
    value, scale = (None if part is None else part.to(device) for part in (get(name), get(f"{name}.scale")))
    if scale is not None:
        value = value.float() * scale.float()
    return value.to(dtype)
