"""Where remembered tokens lie until they are looked at, and how many bytes they take there.

    device    where the network is             0.27 GiB a latent frame of Wan 1.3B at 832x480, in half precision
    host      in main memory
    disk      in files that go with the render
    latents   nowhere: the clean latents (a hundredth) are shown to the network again when they are looked at

``bf16`` and ``int8`` (a scale for each token's head) halve and quarter full precision. ``host`` and ``disk`` give the
very film that ``device`` gives; so does ``latents`` where a block is committed alone, and it is refused elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from blockvid_cli.denoiser.attention import Layer
from blockvid_cli.rollout.memories.memory import Entry, Kept, OnDevice, Storage, Stored, View, dense
from blockvid_cli.story.plan import Block

PLACES = ("device", "host", "disk", "latents")
DTYPES = ("as-drawn", "bf16", "int8")
Packed = dict[str, torch.Tensor]


@dataclass(frozen=True)
class PutAway:
    """Tokens packed as ``dtype``, on the device, in main memory, or in files of ``folder``."""

    place: str
    dtype: str
    folder: Path | None = None

    def keep(self, entry: Entry, blocks: Sequence[Block]) -> Stored:
        """See ``Storage``."""
        keys = entry.layers[0].keys
        device, drawn = keys.device, keys.dtype
        home = device if self.place == "device" else torch.device("cpu")
        packed: Packed = {}
        for number, kept in enumerate(entry.layers):
            for name, value in (("keys", kept.keys), ("values", kept.values)):
                packed |= {f"{number}.{name}{part}": x.to(home) for part, x in pack(value, self.dtype).items()}
        places = [kept.coordinates for kept in entry.layers]
        read = self._written(packed, blocks) if self.place == "disk" else lambda: packed

        def load() -> Entry:
            values = read()
            layers = []
            for number, coordinates in enumerate(places):
                pair = (_unpacked(values, f"{number}.{name}", device, drawn) for name in ("keys", "values"))
                layers.append(Kept(*pair, coordinates))
            return Entry(entry.frames, tuple(layers))

        return Stored(entry.frames, load, range(len(entry.frames)))

    def _written(self, packed: Packed, blocks: Sequence[Block]) -> Callable[[], Packed]:
        if self.folder is None:
            raise ValueError("a memory on disk needs a folder")
        file = self.folder / f"{blocks[0].number:05d}-{blocks[-1].number:05d}.safetensors"
        save_file({name: value.contiguous() for name, value in packed.items()}, file)
        return lambda: load_file(file)


@dataclass(frozen=True)
class AsLatents:
    """Tokens are made again: ``shown`` shows a finished block to the network as it was when it was committed."""

    shown: Callable[[Block], tuple[Sequence[Layer], torch.Tensor]]

    def keep(self, entry: Entry, blocks: Sequence[Block]) -> Stored:
        """See ``Storage``."""
        places, parts = [kept.coordinates for kept in entry.layers], tuple(blocks)

        def load() -> Entry:
            whole = View([dense(block, *self.shown(block)) for block in parts])
            tokens = ((whole.tokens(layer), wanted) for layer, wanted in enumerate(places))
            return Entry(entry.frames, tuple(kept.at(_indices(kept.coordinates, wanted)) for kept, wanted in tokens))

        return Stored(entry.frames, load, range(len(entry.frames)))


def storage(
    place: str,
    dtype: str,
    folder: Path | None,
    shown: Callable[[Block], tuple[Sequence[Layer], torch.Tensor]],
) -> Storage:
    """The storage of a name; see the module's table."""
    if place == "latents":
        return AsLatents(shown)
    return OnDevice() if place == "device" and dtype == "as-drawn" else PutAway(place, dtype, folder)


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


def unpack(parts: Packed, dtype: torch.dtype) -> torch.Tensor:
    """What ``pack`` packed, in ``dtype``."""
    if ".scale" in parts:
        return (parts[""].float() * parts[".scale"].float()).to(dtype)
    return parts[""].to(dtype)


def _unpacked(values: Packed, name: str, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    parts = {suffix: values[name + suffix].to(device) for suffix in ("", ".scale") if name + suffix in values}
    return unpack(parts, dtype)
