"""A checkpoint as named tensors that are read one at a time: a safetensors file, its shards, or a ``.pt`` container.

Nothing here runs code from a file: a pickle that holds more than tensors and plain values is refused.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import torch
from safetensors import SafetensorError, safe_open

from blockvid_cli.errors import MissingModelError
from blockvid_cli.zoo.layouts import CONTAINERS, is_original, plain, to_diffusers

PICKLES = (".pt", ".pth", ".bin", ".ckpt")


@dataclass(frozen=True)
class Stored:
    """A tensor in a file: its shape, and how to read it."""

    shape: tuple[int, ...]
    read: Callable[[], torch.Tensor]


@dataclass(frozen=True)
class Checkpoint:
    """Tensors by the names that diffusers gives them; ``layout`` says how the file named them."""

    file: Path
    layout: str
    tensors: dict[str, Stored]


def read_checkpoint(place: Path) -> Checkpoint:
    """Opens a weights file, or a folder with one or with shards; tensors are read when asked for.

    Raises:
        MissingModelError: nothing is there, it is damaged, or it holds more than tensors.
    """
    files = weight_files(place)
    raw: dict[str, Stored] = {}
    container = ""
    for file in files:
        part, container = _pickled(file) if file.suffix in PICKLES else (_safetensors(file), container)
        raw |= part
    names = {plain(name): name for name in raw}
    original = is_original(names)
    layout = ("original Wan" if original else "diffusers") + (f" names in '{container}'" if container else " names")
    if len(files) > 1:
        layout += f", {len(files)} shards"
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
        shards = sorted(set(json.loads(indexes[0].read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise MissingModelError(f"{indexes[0]}: this index of shards cannot be read ({error}).") from error
    absent = [shard for shard in shards if Path(shard).name != shard or not (place / shard).is_file()]
    if absent:
        raise MissingModelError(
            f"{indexes[0]}: {len(absent)} of {len(shards)} shards are absent, the first is {absent[0]}."
        )
    return [place / shard for shard in shards]


def _safetensors(file: Path) -> dict[str, Stored]:
    try:
        opened = safe_open(file, framework="pt")
        return {
            name: Stored(tuple(opened.get_slice(name).get_shape()), lambda name=name: opened.get_tensor(name))
            for name in opened.keys()  # noqa: SIM118
        }
    except (SafetensorError, OSError) as error:
        raise MissingModelError(f"{file}: these weights are damaged or not whole ({_first_line(error)}).") from error


def _pickled(file: Path) -> tuple[dict[str, Stored], str]:
    """The tensors of a ``.pt`` file, and the container's key they lay under ("" for none)."""
    try:
        values = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
    except pickle.UnpicklingError as error:
        raise MissingModelError(
            f"{file}: refused, since this pickle holds more than tensors and could run code; ask for safetensors."
        ) from error
    except (RuntimeError, OSError, EOFError, ValueError, KeyError, BadZipFile) as error:
        raise MissingModelError(f"{file}: these weights are damaged or not whole ({_first_line(error)}).") from error
    container = next((key for key in CONTAINERS if isinstance(values, Mapping) and key in values), "")
    held = values[container] if container else values
    tensors = dict(_tensors(held)) if isinstance(held, Mapping) else {}
    if not tensors:
        raise MissingModelError(f"{file}: this file holds no tensors by name.")
    return tensors, container


def _tensors(values: Mapping[str, object]) -> Iterator[tuple[str, Stored]]:
    for name, value in values.items():
        if isinstance(value, torch.Tensor):
            yield name, Stored(tuple(value.shape), lambda value=value: value)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
