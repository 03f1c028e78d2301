"""Takes on disk: the clean latents of a chunk in one safetensors file that proves its own content.

    take-1.safetensors   metadata: version, chunk, take, key, frames, sha256
                                   indices, where they are not the first ones: "0 1 2 6 7 8"
                         latents:  (F, C, H, W) float32, F of the chunk's ``frames`` latent frames

The file is written anew after every block, whole and then renamed; blocks may finish in any order. The digest covers
the numbers and everything said about them, so a file that was cut, flipped, or moved to another chunk is noticed.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from blockvid_cli.errors import BlockvidError
from blockvid_cli.project.atomic_files import write_atomically

VERSION = 1
MAX_BYTES = 1 << 31  # of a take's latents; a chunk of a minute in 1080p has a tenth
MAX_INDICES = 200_000  # characters
KEY = re.compile(r"[\w -]{1,100}")  # a part of it becomes part of the name of a file


@dataclass(frozen=True)
class Take:
    """What a take is, beside its latents."""

    chunk: int  # counted from 1
    take: int  # counted from 1
    key: str  # the cache key by which the latents were rendered
    frames: int  # latent frames that the whole chunk will have
    indices: tuple[int, ...] = ()  # of the chunk's latent frames, those in the file; empty for the first ones


class DamagedTakeError(Exception):
    """A take file is not what was once written; the message says what is wrong with it."""


def write_take(path: Path, take: Take, latents: torch.Tensor) -> None:
    """Writes the latents (F, C, H, W) rendered so far.

    Raises:
        BlockvidError: they are not finite, or cannot be written (``PartialError``: the disk is full).
    """
    latents = latents.detach().to("cpu", torch.float32).contiguous()
    if latents.ndim != 4 or not _fits(take, len(latents)):
        raise ValueError(f"{take} cannot hold latents {tuple(latents.shape)}")
    if not torch.isfinite(latents).all():
        raise BlockvidError(f"chunk {take.chunk} went wrong: its latents are not finite; it is not kept.")
    metadata = {**_metadata(take), "sha256": _digest(take, latents)}
    write_atomically(path, save({"latents": latents}, metadata=metadata))


def read_take(path: Path) -> tuple[Take, torch.Tensor]:
    """What ``write_take`` wrote: the take, and latents (F, C, H, W) float32.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedTakeError: it is not what was once written.
    """
    with _reading(path) as file:
        metadata = file.metadata() or {}
        take, shape = _parse_metadata(metadata), file.get_slice("latents").get_shape()
        if len(shape) != 4 or not _fits(take, shape[0]) or 4 * math.prod(shape) > MAX_BYTES:
            raise DamagedTakeError(f"its latents have the shape {tuple(shape)}")
        latents = file.get_tensor("latents").clone()  # a copy: the file may be replaced while this lives
    if _metadata(take).items() - metadata.items():
        raise DamagedTakeError("what it says of itself was changed")
    if latents.dtype != torch.float32 or metadata.get("sha256") != _digest(take, latents):
        raise DamagedTakeError("its checksum does not fit")
    if not torch.isfinite(latents).all():
        raise DamagedTakeError("it holds values that are not numbers")
    return take, latents


def read_take_header(path: Path) -> tuple[Take, int]:
    """What a take says of itself, and how many latent frames it holds; the latents are not read.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedTakeError: it is no take.
    """
    with _reading(path) as file:
        return _parse_metadata(file.metadata() or {}), file.get_slice("latents").get_shape()[0]


def _fits(take: Take, count: int) -> bool:
    """Whether so many latent frames are what a take can hold: ascending numbers within the chunk."""
    ascending = list(take.indices) == sorted(set(take.indices)) and all(0 <= i < take.frames for i in take.indices)
    return 0 < count <= take.frames and len(take.indices) in (0, count) and ascending


@contextmanager
def _reading(path: Path) -> Iterator[Any]:
    """An open take file; what is wrong with it becomes ``Damaged``."""
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except FileNotFoundError:
        raise
    except OSError as error:
        raise DamagedTakeError(error.strerror or str(error)) from error
    except (SafetensorError, LookupError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise DamagedTakeError(f"it cannot be read: {_first_line(error)}") from error


def _parse_metadata(metadata: Mapping[str, str]) -> Take:
    if not KEY.fullmatch(metadata["key"]) or len(metadata.get("indices", "")) > MAX_INDICES:
        raise ValueError("its key, or its indices, are none")
    indices = tuple(int(index) for index in metadata.get("indices", "").split())
    return Take(int(metadata["chunk"]), int(metadata["take"]), metadata["key"], int(metadata["frames"]), indices)


def _metadata(take: Take) -> dict[str, str]:
    """The metadata of a take, all of it text as safetensors wants it."""
    numbers = {"version": VERSION, "chunk": take.chunk, "take": take.take, "frames": take.frames}
    indices = {"indices": " ".join(map(str, take.indices))} if take.indices else {}
    return {**{name: str(value) for name, value in numbers.items()}, "key": take.key, **indices}


def _digest(take: Take, latents: torch.Tensor) -> str:
    """SHA-256 over the take's metadata, and the shape, type and bytes of its latents."""
    described = {**_metadata(take), "shape": list(latents.shape), "dtype": str(latents.dtype)}
    digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
    digest.update(latents.flatten().numpy())  # one dimension, as hashlib wants it
    return digest.hexdigest()


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
