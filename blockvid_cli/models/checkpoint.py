"""A checkpoint as named tensors that are read one at a time: a safetensors file, its shards, or a ``.pt`` container.

Tensors are named as diffusers names them (``layouts.py``). LoRAs, as PEFT, diffusers and ComfyUI name them, are merged
while the weights are read:

    W + scale · (alpha / rank) · B A            (Hu et al. 2021, "LoRA"); without an alpha in the file it is the rank

Nothing here runs code from a file: a pickle that holds more than tensors and plain values is refused.
"""

from __future__ import annotations

import itertools
import pickle
import pickletools
import re
import struct
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from blockvid_cli.errors import (
    BlockvidError,
    MissingModelError,
    RefusedModelError,
    UsageError,
    from_os_error,
    is_out_of_memory,
    lookup,
    shorten,
)
from blockvid_cli.files import open_regular_file, read_plain_json, read_regular_file
from blockvid_cli.models.layouts import LAYOUTS, WAN_KEYS, KeyMap, strip_wrappers

DAMAGED = (
    *(RuntimeError, OSError, EOFError, ValueError, KeyError, IndexError, TypeError, AttributeError, AssertionError),
    *(struct.error, zipfile.BadZipFile, ArithmeticError, MemoryError, SafetensorError),
)
MAX_HEADER_BYTES = 16_000_000  # of a safetensors file, or of a pickle's own records; published ones have less than one
MAX_OPERATIONS = 2_000_000  # of a pickle; a published one has a hundred thousand
LEGACY_PICKLES = 5  # of a file from before 2020: a number, the version, the machine, the tensors, their names
MAX_INDEX_BYTES = 16_000_000
DTYPE_NAMES = {"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "I64", "I32", "I16", "I8", "U8", "BOOL"}
MAX_NAME = 300  # characters of a tensor's name
PICKLES = (".pt", ".pth", ".bin", ".ckpt")
CONTAINERS = ("generator_ema", "generator", "generator_lora", "model", "state_dict")  # the first present one counts
_LORA_PART = re.compile(r"(.+)\.(?:lora_(A|B|down|up)(?:\.\w+)?\.weight|(alpha))")


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


def read_checkpoint(path: Path, key_map: KeyMap = WAN_KEYS) -> Checkpoint:
    """Opens a weights file, or a folder with one or with shards; tensors are read when they are needed.

    Raises:
        MissingModelError: nothing is there, or it is damaged.
        RefusedModelError: a pickle that holds more than tensors.
    """
    files = weight_files(path)
    raw: dict[str, StoredTensor] = {}
    container = converted_from = ""
    for file in files:
        if file.suffix in PICKLES:
            part, container = _read_pickle(file)
        else:
            part, converted_from = _read_safetensors(file)
        raw |= part
    names = {strip_wrappers(name): name for name in raw}
    original = key_map.is_original(names)
    layout = (key_map.name if original else "diffusers") + (f" names in '{container}'" if container else " names")
    if len(files) > 1:
        layout += f", {len(files)} shards"
    layout += f", once {converted_from}" if converted_from else ""
    tensors = {key_map.to_diffusers(name) if original else name: raw[full] for name, full in names.items()}
    return Checkpoint(path, layout, tensors)


def weight_files(path: Path) -> list[Path]:
    """The files that hold the weights at ``path``: itself, or in a folder the index's shards, or all safetensors.

    Raises:
        MissingModelError: there are none, or a shard is absent.
    """
    if not path.is_dir():
        if not path.is_file():
            raise MissingModelError(f"there are no weights at {path}.")
        return [path]
    indexes = sorted(path.glob("*.safetensors.index.json"))
    if not indexes:
        files = sorted(path.glob("*.safetensors")) or sorted(p for p in path.iterdir() if p.suffix in PICKLES)
        if not files:
            raise MissingModelError(f"there are no weights in {path}; expected .safetensors or .pt files.")
        return files
    try:
        index: Any = read_plain_json(read_regular_file(indexes[0], MAX_INDEX_BYTES))
        shards = sorted(set(map(str, index["weight_map"].values())))
    except DAMAGED as error:
        raise MissingModelError(f"{indexes[0]}: this index of shards cannot be read ({reason(error)}).") from error
    present = {file.name for file in path.iterdir() if file.is_file()}
    absent = [shard for shard in shards if shard not in present]
    if not shards:
        raise MissingModelError(f"{indexes[0]}: this index of shards names none.")
    if absent:
        raise MissingModelError(
            f"{indexes[0]}: {len(absent)} of {len(shards)} shards are absent, the first is {shorten(absent[0], 100)}."
        )
    return [path / shard for shard in shards]


@contextmanager
def _damage(file: Path, tensor: str = "") -> Iterator[None]:
    """Turns whatever reading a damaged file raises into a sentence that names the file.

    A length in a damaged file may ask for more memory than there is; then the file is to blame, and not the machine.
    """
    try:
        yield
    except pickle.UnpicklingError as error:
        raise RefusedModelError(
            f"{file}: this file is refused, because the pickle holds more than tensors and could run code;"
            " use the model's weights as safetensors instead."
        ) from error
    except DAMAGED as error:
        if is_out_of_memory(error) and file.suffix not in PICKLES:  # a safetensors header says no more than is there
            raise
        what = f"tensor {shorten(tensor)}: " if tensor else ""
        raise MissingModelError(f"{file}: these weights are damaged or not whole ({what}{reason(error)}).") from error


def _read_safetensors(file: Path) -> tuple[dict[str, StoredTensor], str]:
    """The tensors of a safetensors file, and the layout it was converted from ("" for none)."""
    with _damage(file):
        with open_regular_file(file) as raw:
            (header,) = struct.unpack("<Q", raw.read(8))
        if header > MAX_HEADER_BYTES:
            raise ValueError(f"its header is said to have {header} bytes")
        opened, tensors = safe_open(file, framework="pt"), {}
        for name in _checked_names(opened.keys()):
            part = opened.get_slice(name)
            if part.get_dtype() not in DTYPE_NAMES:
                raise ValueError(f"tensor {name} is of the type {part.get_dtype()}")
            tensors[name] = StoredTensor(tuple(part.get_shape()), partial(_read, file, name, opened.get_tensor))
        return tensors, (opened.metadata() or {}).get("layout", "")


def _read(file: Path, name: str, read: Callable[[str], torch.Tensor]) -> torch.Tensor:
    """A tensor of a file whose header was right."""
    with _damage(file, name):
        return read(name)


def _checked_names(names: Iterable[str]) -> list[str]:
    long = next((name for name in names if len(name) > MAX_NAME), None)
    if long is not None:
        raise ValueError(f"a tensor is named '{shorten(long)}', in {len(long)} characters")
    return list(names)


def _read_pickle(file: Path) -> tuple[dict[str, StoredTensor], str]:
    """The tensors of a ``.pt`` file, and the key of the container that holds them ("" for none)."""
    with _damage(file):
        zipped = _is_zip(file)  # files from before 2020 are not, and cannot be mapped into memory
        values = torch.load(file, map_location="cpu", mmap=zipped, weights_only=True)
        root = values if isinstance(values, Mapping) else {}
        container = next((key for key in CONTAINERS if isinstance(root.get(key), Mapping) and root[key]), "")
        tensors = dict(_named_tensors(root[container] if container else root))
        _checked_names(tensors)
    if not tensors:
        raise MissingModelError(f"{file}: this file holds no tensors by name.")
    return tensors, container


def _is_zip(file: Path) -> bool:
    """Whether a file is a zip archive; its pickles are looked through before anything is made of them.

    Raises:
        ValueError: it is damaged, its records grow when they are unpacked, or a pickle asks for too much.
    """
    with open_regular_file(file) as opened:
        if not zipfile.is_zipfile(opened):
            opened.seek(0)
            if opened.read(2) == b"PK":
                raise ValueError("its end is missing")
            size, pickles = opened.seek(0, 2), range(LEGACY_PICKLES)
            opened.seek(0)
            for _ in itertools.takewhile(lambda _: opened.tell() < size, pickles):
                _check_pickle(opened)
            return False
        archive = zipfile.ZipFile(opened)
        for record in archive.infolist():
            if record.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"its record '{shorten(record.filename)}' is compressed")
            if record.filename.endswith(".pkl"):
                _check_pickle(archive.open(record))
    return True


def _check_pickle(file: IO[bytes]) -> None:
    """Reads the operations of one pickle without doing any.

    Raises:
        ValueError: there are millions, or one asks for megabytes or has a name of pages.
    """
    for number, (operation, argument, _) in enumerate(pickletools.genops(cast("IO[bytes]", _BoundedReader(file)))):
        if number > MAX_OPERATIONS or (operation.name in ("GLOBAL", "INST") and len(str(argument)) > MAX_NAME):
            raise ValueError(f"{operation.name} {shorten(str(argument))} asks for too much")


class _BoundedReader:
    """A file of which nobody reads much at once."""

    def __init__(self, file: IO[bytes]) -> None:
        self.tell, self._file = file.tell, file

    def read(self, size: int) -> bytes:
        """As of a file.

        Raises:
            ValueError: ``size`` is more than a pickle's own records have.
        """
        if not 0 <= size <= MAX_HEADER_BYTES:
            raise ValueError(f"it asks for {size} bytes at once")
        return self._file.read(size)

    def readline(self) -> bytes:
        """The next line, or as much of it as a name may have."""
        return self._file.readline(4 * MAX_NAME)


def _same(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


def _named_tensors(values: Mapping[object, object]) -> Iterator[tuple[str, StoredTensor]]:
    """Tensors by name; those that are no plain arrays (sparse, quantized, or without values) are left out."""
    for name, value in values.items():
        plain = isinstance(value, torch.Tensor) and value.layout == torch.strided and value.device.type == "cpu"
        if isinstance(name, str) and isinstance(value, torch.Tensor) and plain and not value.is_quantized:
            yield name, StoredTensor(tuple(value.shape), partial(_same, value))


def reason(error: BaseException) -> str:
    """The first line of an error's message."""
    if is_out_of_memory(error):
        return "it asks for more memory than there is"
    return shorten((str(error).strip().splitlines() or [type(error).__name__])[0], 150).rstrip(".")


@dataclass(frozen=True)
class Lora:
    """Pairs (A (r, in), B (out, r)) and factors by the name of the weight they change."""

    pairs: dict[str, tuple[torch.Tensor, torch.Tensor, float]]

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of the weight that a pair changes."""
        down, up, _ = self.pairs[name]
        return up.shape[0], down.shape[1]

    def merge(self, name: str, weight: torch.Tensor) -> torch.Tensor:
        """The weight with its change, in the weight's type."""
        if name not in self.pairs:
            return weight
        down, up, factor = self.pairs[name]
        return (weight.float() + factor * (up.float() @ down.float())).to(weight.dtype)


def read_lora(path: Path, scale: float = 1.0, key_map: KeyMap = WAN_KEYS) -> Lora:
    """The changes in a file.

    Raises:
        MissingModelError: it holds no LoRA, or half of one.
        RefusedModelError: a pickle that holds more than tensors.
    """
    parts: dict[str, dict[str, torch.Tensor]] = {}
    for name, stored in read_checkpoint(path, key_map).tensors.items():
        match = _LORA_PART.fullmatch(name)
        if match and len(stored.shape) <= 2:
            kind = {"down": "A", "up": "B"}.get(match[2], match[2]) or "alpha"
            parts.setdefault(key_map.to_diffusers(f"{match[1]}.weight"), {})[kind] = stored.read()
    pairs = {}
    for name, part in parts.items():
        down, up, alpha = part.get("A"), part.get("B"), part.get("alpha")
        if down is None or up is None or down.ndim != 2 or up.ndim != 2 or not 0 < len(down) == up.shape[1]:
            raise MissingModelError(f"{path}: this LoRA is not whole: the pair of {name} does not fit together.")
        if alpha is not None and (alpha.numel() != 1 or not bool(alpha.isfinite())):
            raise MissingModelError(f"{path}: this LoRA is damaged: the alpha of {name} is no number.")
        pairs[name] = down, up, scale * (len(down) if alpha is None else float(alpha)) / len(down)
    if not pairs:
        raise MissingModelError(f"{path}: this file holds no LoRA; expected pairs of lora_A and lora_B.")
    return Lora(pairs)


DTYPES = {"as-stored": None, "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def convert(source: Path, target: Path, names: str, dtype: str, force: bool = False) -> int:
    """Writes the tensors of ``source`` to ``target``; returns how many.

    Raises:
        UsageError: an unknown layout or type, or a target that exists or is no safetensors file.
        MissingModelError: the source cannot be read.
        RefusedModelError: the source is a pickle that could run code.
    """
    rename, target_dtype = lookup("layout", LAYOUTS, names), lookup("dtype", DTYPES, dtype)
    if target.suffix != ".safetensors":
        raise UsageError(f"a converted model's name ends in .safetensors; not '{target.name}'.")
    if target.exists() and not force:
        raise UsageError(f"{target} is there already; choose another name, or replace it with --force.")
    tensors = {}
    checkpoint = read_checkpoint(source)
    for name, stored in checkpoint.tensors.items():
        value = stored.read()
        with _damage(source, name):
            tensors[rename(name)] = (value if target_dtype is None else value.to(target_dtype)).contiguous()
    part = target.with_suffix(".part")
    try:
        part.unlink(missing_ok=True)  # a link would be written through
        save_file(tensors, part, metadata={"layout": checkpoint.layout})
        part.replace(target)
    except OSError as error:
        raise from_os_error(error) from error
    except SafetensorError as error:
        raise BlockvidError(f"{target} cannot be written ({error}).") from error
    finally:
        part.unlink(missing_ok=True)
    return len(tensors)
