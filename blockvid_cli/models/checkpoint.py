"""A checkpoint as named tensors that are read one at a time: a safetensors file, its shards, or a ``.pt`` container.

Nothing here runs code from a file: a pickle that holds more than tensors and plain values is refused.
"""

from __future__ import annotations

import json
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from blockvid_cli.errors import MissingModelError
from blockvid_cli.models.layouts import CONTAINERS, is_original, strip_wrappers, to_diffusers

DAMAGED = (
    *(RuntimeError, OSError, EOFError, ValueError, KeyError, IndexError, TypeError, AttributeError, AssertionError),
    *(struct.error, zipfile.BadZipFile),
)
PICKLES = (".pt", ".pth", ".bin", ".ckpt")


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file: its shape, and how to read it."""

    shape: tuple[int, ...]
    read: Callable[[], torch.Tensor]


@dataclass(frozen=True)
class Checkpoint:
    """Tensors by the names that diffusers gives them; ``layout`` says how the file named them."""

    file: Path
    layout: str
    tensors: dict[str, StoredTensor]


def read_checkpoint(place: Path) -> Checkpoint:
    """Opens a weights file, or a folder with one or with shards; tensors are read when asked for.

    Raises:
        MissingModelError: nothing is there, it is damaged, or it holds more than tensors.
    """
    files = weight_files(place)
    raw: dict[str, StoredTensor] = {}
    container = once = ""
    for file in files:
        if file.suffix in PICKLES:
            part, container = _pickled(file)
        else:
            part, once = _safetensors(file)
        raw |= part
    names = {strip_wrappers(name): name for name in raw}
    original = is_original(names)
    layout = ("original Wan" if original else "diffusers") + (f" names in '{container}'" if container else " names")
    if len(files) > 1:
        layout += f", {len(files)} shards"
    layout += f", once {once}" if once else ""
    renamed = {to_diffusers(name) if original else name: raw[whole] for name, whole in names.items()}
    return Checkpoint(place, layout, renamed)


def weight_files(place: Path) -> list[Path]:
    """The files that hold the weights at ``place``: itself, or in a folder the index's shards, or all safetensors.

    Raises:
        MissingModelError: there are none, or a shard is absent.
    """
    if not place.is_dir():
        if not place.is_file():
            raise MissingModelError(f"there are no weights at {place}.")
        return [place]
    indexes = sorted(place.glob("*.safetensors.index.json"))
    if not indexes:
        found = sorted(place.glob("*.safetensors")) or sorted(p for p in place.iterdir() if p.suffix in PICKLES)
        if not found:
            raise MissingModelError(f"there are no weights in {place}; expected .safetensors or .pt files.")
        return found
    try:
        shards = sorted(set(map(str, json.loads(indexes[0].read_text(encoding="utf-8"))["weight_map"].values())))
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise MissingModelError(f"{indexes[0]}: this index of shards cannot be read ({error}).") from error
    absent = [shard for shard in shards if Path(shard).name != shard or not (place / shard).is_file()]
    if absent:
        raise MissingModelError(
            f"{indexes[0]}: {len(absent)} of {len(shards)} shards are absent, the first is {absent[0]}."
        )
    return [place / shard for shard in shards]


def _safetensors(file: Path) -> tuple[dict[str, StoredTensor], str]:
    """The tensors of a safetensors file, and the layout it was converted from ("" for none)."""
    try:
        opened = safe_open(file, framework="pt")
        tensors = {
            name: StoredTensor(tuple(opened.get_slice(name).get_shape()), lambda name=name: opened.get_tensor(name))
            for name in opened.keys()  # noqa: SIM118
        }
        return tensors, (opened.metadata() or {}).get("layout", "")
    except (SafetensorError, OSError) as error:
        raise MissingModelError(f"{file}: these weights are damaged or not whole ({_first_line(error)}).") from error


def _pickled(file: Path) -> tuple[dict[str, StoredTensor], str]:
    """The tensors of a ``.pt`` file, and the container's key they lay under ("" for none)."""
    try:
        whole = zipfile.is_zipfile(file)  # files of before 2020 are none, and cannot be mapped
        if not whole and file.open("rb").read(2) == b"PK":
            raise ValueError("its end is missing")
        values = torch.load(file, map_location="cpu", mmap=whole, weights_only=True)
    except pickle.UnpicklingError as error:
        raise MissingModelError(
            f"{file}: refused, since this pickle holds more than tensors and could run code; ask for safetensors."
        ) from error
    except DAMAGED as error:
        raise MissingModelError(f"{file}: these weights are damaged or not whole ({_first_line(error)}).") from error
    inside = values if isinstance(values, Mapping) else {}
    container = next((key for key in CONTAINERS if isinstance(inside.get(key), Mapping) and inside[key]), "")
    held = values[container] if container else values
    tensors = dict(_tensors(held)) if isinstance(held, Mapping) else {}
    if not tensors:
        raise MissingModelError(f"{file}: this file holds no tensors by name.")
    return tensors, container


def _tensors(values: Mapping[str, object]) -> Iterator[tuple[str, StoredTensor]]:
    for name, value in values.items():
        if isinstance(value, torch.Tensor):
            yield name, StoredTensor(tuple(value.shape), lambda value=value: value)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
