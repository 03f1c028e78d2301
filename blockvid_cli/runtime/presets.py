"""How a film is drawn on the machine at hand: in which precision, what lies where, what waits for its turn.

    h20     full precision, everything on the device
    24gb    half precision, everything on the device
    16gb    half precision; network, codec and captions take turns
    12gb    as 16gb, captions read on the CPU, pictures decoded in tiles
    8gb     as 12gb, 8-bit weights, remembered tokens in main memory and in 8 bits
    least   as 12gb, blocks of weights come to the device one after another, remembered tokens in main memory

``auto`` takes the first of these that fits into the memory that is free, on a GPU from ``24gb`` on; ``budget`` does the
sums. None of them changes how many frames a film has, and all but the precisions give the same film.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace

import torch

from blockvid_cli.errors import UsageError, lookup
from blockvid_cli.models.offload import offloads_by_module
from blockvid_cli.models.precision import KEPT, Precision, precision

OFFLOADS = ("none", "model", "group", "sequential")


@dataclass(frozen=True)
class Preset:
    """A profile by name, before it meets a device; options in the words of the command line."""

    precision: str
    offload: str = "none"
    kv_storage: str = "device"
    kv_dtype: str = "native"
    kv_resident: bool = False
    vae_dtype: str = "bf16"
    vae_tiling: bool = False
    text_encoder: str = "device"  # or "cpu"


PRESETS: dict[str, Preset] = {
    "h20": Preset("fp32", kv_resident=True, vae_dtype="fp32"),
    "24gb": Preset("bf16", kv_resident=True),
    "16gb": Preset("bf16", offload="model"),
    "12gb": Preset("bf16", offload="model", vae_tiling=True, text_encoder="cpu"),
    "8gb": Preset("int8", offload="model", kv_storage="host", kv_dtype="int8", vae_tiling=True, text_encoder="cpu"),
    "least": Preset("bf16", offload="group", kv_storage="host", vae_tiling=True, text_encoder="cpu"),
}


@dataclass(frozen=True)
class ResolvedPreset:
    """A rung on a device."""

    name: str
    device: str
    precision: Precision
    offload: str
    kv_storage: str
    kv_dtype: str
    kv_resident: (
        bool  # whether what a block looks at stays joined and rotated for all its passes; a copy and a half of it
    )
    vae_dtype: torch.dtype
    vae_tiling: bool
    text_device: str

    @property
    def frees_transformer(self) -> bool:
        """Whether the network leaves the device before pictures are decoded."""
        return self.offload != "none"

    def __str__(self) -> str:
        words = [f"{self.precision.name} weights"]
        words += [] if self.offload == "none" else [f"{self.offload} offload"]
        words += [f"text encoder on {'the CPU' if self.text_device == 'cpu' else 'the device'}"]
        dtype = "" if self.kv_dtype == "native" else f", {self.kv_dtype}"
        words += [f"memory on the {self.kv_storage}{dtype}" if self.kv_storage != "latents" else "memory as latents"]
        return ", ".join([*words, *(["tiled decoding"] if self.vae_tiling else [])])


@dataclass(frozen=True)
class RuntimeOptions:
    """What a person asks of the machine; "auto" and None leave it to the profile."""

    preset: str = "auto"
    precision: str = "auto"
    offload: str | None = None
    kv_storage: str | None = None
    kv_dtype: str | None = None


AUTO = RuntimeOptions()


def resolve_preset(name: str, device: str, means: RuntimeOptions) -> ResolvedPreset:
    """The profile of a name on a device, with what a person asked for over it.

    On the CPU nothing is moved, and full precision is usual.

    Raises:
        UsageError: an unknown name or option.
    """
    rung = lookup("profile", PRESETS, name)
    wanted = {
        "precision": means.precision if means.precision != "auto" else rung.precision,
        "offload": means.offload or rung.offload,
        "storage": means.kv_storage or rung.kv_storage,
        "storage_dtype": means.kv_dtype or rung.kv_dtype,
    }
    if wanted["offload"] not in OFFLOADS:
        raise UsageError(f"--offload: give {', '.join(OFFLOADS)}; not '{wanted['offload']}'.")
    rung = replace(rung, **wanted)
    if offloads_by_module(rung.offload) and rung.precision in KEPT:
        raise UsageError(
            f"--offload {rung.offload}: quantised weights ({rung.precision}) cannot wait by parts; give model."
        )
    if offloads_by_module(rung.offload) and rung.kv_storage == "latents":
        raise UsageError(f"--memory-storage: latents needs the network whole; not with --offload {rung.offload}.")
    return ResolvedPreset(
        name,
        device,
        precision(rung.precision, device),
        "model" if device == "cpu" and rung.offload != "none" else rung.offload,  # nothing to move
        rung.kv_storage,
        rung.kv_dtype,
        rung.kv_resident,
        torch.float32 if rung.vae_dtype == "fp32" or device == "cpu" else torch.bfloat16,
        rung.vae_tiling,
        "cpu" if rung.text_encoder == "cpu" else device,
    )


def next_lower_preset(drawn: ResolvedPreset, means: RuntimeOptions) -> str | None:
    """The next profile that needs less and can be had with what a person asked for; None below the last."""
    names = list(PRESETS)
    for name in names[names.index(drawn.name) + 1 :]:
        with suppress(UsageError):
            return resolve_preset(name, drawn.device, means).name
    return None
