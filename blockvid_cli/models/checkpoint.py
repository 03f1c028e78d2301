"""A checkpoint as named tensors that are read one at a time: a safetensors file, its shards, or a ``.pt`` container.

Published checkpoints name the same tensors differently; a ``KeyMap`` translates to the names that diffusers uses:

    original    blocks.7.self_attn.q.weight     Wan 2.1, SkyReels-V2, and the Self-Forcing family inside its containers
    diffusers   blocks.7.attn1.to_q.weight      the -Diffusers repositories

Training wrappers leave prefixes behind (``model.``, FSDP's, torch.compile's); ``strip_wrappers`` removes them. LoRAs,
as PEFT, diffusers and ComfyUI name them, are merged while the weights are read:

    W + scale · (alpha / rank) · B A            (Hu et al. 2021, "LoRA"); without an alpha in the file it is the rank

Nothing here runs code from a file: a pickle that holds more than tensors and plain values is refused.
"""

from __future__ import annotations

import json
import pickle
import re
import struct
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from blockvid_cli.errors import (
    BlockvidError,
    MissingModelError,
    RefusedModelError,
    UsageError,
    from_os_error,
    lookup,
)

DAMAGED = (
    *(RuntimeError, OSError, EOFError, ValueError, KeyError, IndexError, TypeError, AttributeError, AssertionError),
    *(struct.error, zipfile.BadZipFile),
)
PICKLES = (".pt", ".pth", ".bin", ".ckpt")
CONTAINERS = ("generator_ema", "generator", "generator_lora", "model", "state_dict")  # the first present one counts
WRAPPERS = ("_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "_orig_mod.")
PREFIXES = ("base_model.model.", "diffusion_model.", "transformer.", "model.")
_BLOCK = re.compile(r"(blocks\.\d+\.)(.+)")
_LORA_PART = re.compile(r"(.+)\.(?:lora_(A|B|down|up)(?:\.\w+)?\.weight|(alpha))")


@dataclass(frozen=True)
class KeyMap:
    """Names of a family's original code against diffusers', one to one, so that both directions use the same tables.

    Args:
        name: of the original layout, for reports.
        outside: stems of tensors outside the blocks, original to diffusers.
        inside: the same within a block, without the block's prefix.
        marks: a name that contains one of these, or starts with one that ends in a dot, is of the original code.
    """

    name: str
    outside: Mapping[str, str]
    inside: Mapping[str, str]
    marks: tuple[str, ...]

    def is_original(self, names: Iterable[str]) -> bool:
        """Whether names are those of the original code."""
        return any(mark in name if mark[0] == "." else name.startswith(mark) for name in names for mark in self.marks)

    def to_diffusers(self, name: str) -> str:
        """What diffusers calls a tensor of the original code; a name of neither table stays as it is."""
        return _rename(name, self.outside, self.inside)

    def to_original(self, name: str) -> str:
        """What the original code calls a tensor of diffusers; a name of neither table stays as it is."""
        return _rename(name, {new: old for old, new in self.outside.items()}, {n: o for o, n in self.inside.items()})


def _rename(name: str, outside: Mapping[str, str], inside: Mapping[str, str]) -> str:
    block = _BLOCK.fullmatch(name)
    head, rest, table = (block[1], block[2], inside) if block else ("", name, outside)
    stem, dot, kind = rest.rpartition(".")
    if rest in table:  # a bare parameter, such as a modulation
        return head + table[rest]
    return head + table.get(stem, stem) + dot + kind


_ATTENTION = {"q": "to_q", "k": "to_k", "v": "to_v", "o": "to_out.0", "norm_q": "norm_q", "norm_k": "norm_k"}
WAN_KEYS = KeyMap(
    name="original Wan",
    outside={
        "patch_embedding": "patch_embedding",
        "time_embedding.0": "condition_embedder.time_embedder.linear_1",
        "time_embedding.2": "condition_embedder.time_embedder.linear_2",
        "text_embedding.0": "condition_embedder.text_embedder.linear_1",
        "text_embedding.2": "condition_embedder.text_embedder.linear_2",
        "time_projection.1": "condition_embedder.time_proj",
        "head.head": "proj_out",
        "head.modulation": "scale_shift_table",
        "fps_embedding": "fps_embedding",
        "fps_projection.0": "fps_projection.net.0.proj",
        "fps_projection.2": "fps_projection.net.2",
    },
    inside={  # the affine norm before the cross-attention is the third to Wan and the second to diffusers
        "modulation": "scale_shift_table",
        "norm3": "norm2",
        "ffn.0": "ffn.net.0.proj",
        "ffn.2": "ffn.net.2",
        **{f"self_attn.{original}": f"attn1.{diffusers}" for original, diffusers in _ATTENTION.items()},
        **{f"cross_attn.{original}": f"attn2.{diffusers}" for original, diffusers in _ATTENTION.items()},
    },
    marks=(".self_attn.", "head."),
)


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


def strip_wrappers(name: str) -> str:
    """A tensor's name without what training wrappers put around it."""
    for infix in WRAPPERS:
        name = name.replace(infix, "")
    while prefix := next((prefix for prefix in PREFIXES if name.startswith(prefix)), ""):
        name = name.removeprefix(prefix)
    return name


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
        shards = sorted(set(map(str, json.loads(indexes[0].read_text(encoding="utf-8"))["weight_map"].values())))
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise MissingModelError(f"{indexes[0]}: this index of shards cannot be read ({error}).") from error
    absent = [shard for shard in shards if Path(shard).name != shard or not (path / shard).is_file()]
    if absent:
        raise MissingModelError(
            f"{indexes[0]}: {len(absent)} of {len(shards)} shards are absent, the first is {absent[0]}."
        )
    return [path / shard for shard in shards]


def _read_safetensors(file: Path) -> tuple[dict[str, StoredTensor], str]:
    """The tensors of a safetensors file, and the layout it was converted from ("" for none)."""
    try:
        opened = safe_open(file, framework="pt")
        tensors = {
            name: StoredTensor(tuple(opened.get_slice(name).get_shape()), partial(opened.get_tensor, name))
            for name in opened.keys()  # noqa: SIM118
        }
        return tensors, (opened.metadata() or {}).get("layout", "")
    except (SafetensorError, OSError) as error:
        raise MissingModelError(f"{file}: these weights are damaged or not whole ({_first_line(error)}).") from error


def _read_pickle(file: Path) -> tuple[dict[str, StoredTensor], str]:
    """The tensors of a ``.pt`` file, and the key of the container that holds them ("" for none)."""
    try:
        zipped = zipfile.is_zipfile(file)  # files from before 2020 are not, and cannot be mapped into memory
        if not zipped and file.open("rb").read(2) == b"PK":
            raise ValueError("its end is missing")
        values = torch.load(file, map_location="cpu", mmap=zipped, weights_only=True)
    except pickle.UnpicklingError as error:
        raise RefusedModelError(
            f"{file}: this file is refused, because the pickle holds more than tensors and could run code;"
            " use the model's weights as safetensors instead."
        ) from error
    except DAMAGED as error:
        raise MissingModelError(f"{file}: these weights are damaged or not whole ({_first_line(error)}).") from error
    root = values if isinstance(values, Mapping) else {}
    container = next((key for key in CONTAINERS if isinstance(root.get(key), Mapping) and root[key]), "")
    tensors = dict(_named_tensors(root[container] if container else root))
    if not tensors:
        raise MissingModelError(f"{file}: this file holds no tensors by name.")
    return tensors, container


def _same(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


def _named_tensors(values: Mapping[str, object]) -> Iterator[tuple[str, StoredTensor]]:
    for name, value in values.items():
        if isinstance(value, torch.Tensor):
            yield name, StoredTensor(tuple(value.shape), partial(_same, value))


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


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
        if match:
            kind = {"down": "A", "up": "B"}.get(match[2], match[2]) or "alpha"
            parts.setdefault(key_map.to_diffusers(f"{match[1]}.weight"), {})[kind] = stored.read()
    pairs = {}
    for name, part in parts.items():
        if "A" not in part or "B" not in part or part["A"].shape[0] != part["B"].shape[1]:
            raise MissingModelError(f"{path}: this LoRA is not whole: the pair of {name} does not fit together.")
        rank = part["A"].shape[0]
        alpha = float(part["alpha"]) if "alpha" in part else rank
        pairs[name] = part["A"], part["B"], scale * alpha / rank
    if not pairs:
        raise MissingModelError(f"{path}: this file holds no LoRA; expected pairs of lora_A and lora_B.")
    return Lora(pairs)


LAYOUTS: dict[str, Callable[[str], str]] = {"diffusers": lambda name: name, "original": WAN_KEYS.to_original}
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
        tensors[rename(name)] = (value if target_dtype is None else value.to(target_dtype)).contiguous()
    part = target.with_suffix(".part")
    try:
        save_file(tensors, part, metadata={"layout": checkpoint.layout})
        part.replace(target)
    except OSError as error:
        raise from_os_error(error) from error
    except SafetensorError as error:
        raise BlockvidError(f"{target} cannot be written ({error}).") from error
    finally:
        part.unlink(missing_ok=True)
    return len(tensors)
