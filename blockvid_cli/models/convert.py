"""A network's checkpoint in another layout: from any that can be read to one safetensors file."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from blockvid_cli.errors import BlockvidError, UsageError, lookup
from blockvid_cli.models.checkpoint import read_checkpoint
from blockvid_cli.models.layouts import to_original
from blockvid_cli.project.atomic_files import disk_errors

NAMES = {"diffusers": lambda name: name, "original": to_original}
DTYPES = {"as-stored": None, "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def convert(source: Path, target: Path, names: str, dtype: str, force: bool = False) -> int:
    """Writes the tensors of ``source`` to ``target``; returns how many.

    Raises:
        UsageError: an unknown layout or type, or a target that is there or is no safetensors file.
        MissingModelError: the source cannot be read.
    """
    rename, kind = lookup("layout", NAMES, names), lookup("dtype", DTYPES, dtype)
    if target.suffix != ".safetensors":
        raise UsageError(f"a converted model's name ends in .safetensors; not '{target.name}'.")
    if target.exists() and not force:
        raise UsageError(f"{target} is there already; choose another name, or replace it with --force.")
    tensors = {}
    found = read_checkpoint(source)
    for name, stored in found.tensors.items():
        value = stored.read()
        tensors[rename(name)] = (value if kind is None else value.to(kind)).contiguous()
    part = target.with_suffix(".part")
    with disk_errors(target):
        try:
            save_file(tensors, part, metadata={"layout": found.layout})
            part.replace(target)
        except SafetensorError as error:
            raise BlockvidError(f"{target} cannot be written ({error}).") from error
        finally:
            part.unlink(missing_ok=True)
    return len(tensors)
