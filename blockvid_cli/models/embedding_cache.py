"""Embeddings already made, kept by caption hash in the user's cache, so that a caption is read once."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from blockvid_cli.models.hub import cache_folder

Read = Callable[[Sequence[str]], list[torch.Tensor]]


def caption_hash(caption: str) -> str:
    """The name a caption's embedding is kept under."""
    return hashlib.sha256(caption.encode()).hexdigest()[:32]


def cached_embeddings(reader: str, captions: Sequence[str], read: Read) -> list[torch.Tensor]:
    """What ``reader`` makes of each caption; ``read`` is asked only for those never read before.

    A folder that cannot be written to, or a damaged file, costs time and nothing else.
    """
    folder = cache_folder() / "text" / reader.replace("/", "--")
    found = {caption: _load(folder / f"{caption_hash(caption)}.safetensors") for caption in dict.fromkeys(captions)}
    missing = [caption for caption, tensor in found.items() if tensor is None]
    if missing:
        for caption, tensor in zip(missing, read(missing), strict=True):
            found[caption] = tensor.float().cpu().contiguous()
            _save(folder / f"{caption_hash(caption)}.safetensors", found[caption])
    return [found[caption] for caption in captions]


def _load(file: Path) -> torch.Tensor | None:
    try:
        return load_file(file)["embedding"]
    except (OSError, SafetensorError, KeyError):
        return None


def _save(file: Path, tensor: torch.Tensor) -> None:
    part = file.with_suffix(f".{os.getpid()}.part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file({"embedding": tensor}, part)
        os.replace(part, file)
    except (OSError, SafetensorError):
        with suppress(OSError):
            part.unlink(missing_ok=True)
