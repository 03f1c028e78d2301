"""How a film is computed on a machine: in which precision, what is on the device, and what is offloaded.

    h20     full precision, everything on the device
    24gb    half precision, everything on the device
    16gb    half precision; transformer, VAE and text encoder are on the device in turn
    12gb    as 16gb; the text encoder on the CPU, frames decoded in tiles
    8gb     as 12gb; 8-bit weights, cached tokens in main memory and in 8 bits
    least   as 12gb; blocks of weights come to the device one after another, cached tokens in main memory

``auto`` chooses the first of these that fits into the memory that is free, on a GPU from ``24gb`` on;
``memory_estimate`` computes what they need. No preset changes how many frames a film has, and all presets of one
precision and one format of the cached tokens give the same film.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace

import torch

from blockvid_cli.errors import UsageError, lookup
from blockvid_cli.models.devices import (
    QUANTIZED,
    QUANTIZING,
    Precision,
    device_kind,
    half_precision,
    offloads_by_module,
    precision,
)

OFFLOADS = ("none", "model", "group", "sequential")


@dataclass(frozen=True)
class Preset:
    """A preset before a device is known; the options have the command line's values."""

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
    """A preset on a device."""

    name: str
    device: str
    precision: Precision
    offload: str
    kv_storage: str
    kv_dtype: str
    kv_resident: bool  # whether a block's cached tokens stay joined and rotated for all its passes; half as much again
    vae_dtype: torch.dtype
    vae_tiling: bool
    text_device: str

    @property
    def frees_transformer(self) -> bool:
        """Whether the transformer leaves the device before frames are decoded."""
        return self.offload != "none"

    def __str__(self) -> str:
        words = [f"{self.precision.name} weights"]
        words += [] if self.offload == "none" else [f"{self.offload} offload"]
        words += [f"text encoder on {'the CPU' if self.text_device == 'cpu' else 'the device'}"]
        dtype = "" if self.kv_dtype == "native" else f", {self.kv_dtype}"
        words += [
            f"KV cache on the {self.kv_storage}{dtype}" if self.kv_storage != "latents" else "KV cache as latents"
        ]
        return ", ".join([*words, *(["tiled decoding"] if self.vae_tiling else [])])


@dataclass(frozen=True)
class RuntimeOptions:
    """What a person asks of the machine; "auto" and None leave it to the preset."""

    preset: str = "auto"
    precision: str = "auto"
    offload: str | None = None
    kv_storage: str | None = None
    kv_dtype: str | None = None


AUTO = RuntimeOptions()


def resolve_preset(name: str, device: str, options: RuntimeOptions) -> ResolvedPreset:
    """The preset of a name on a device, with a person's options in place of its own.

    On the CPU nothing is moved, and full precision is usual.

    Raises:
        UsageError: an unknown name or option.
    """
    preset = lookup("preset", PRESETS, name)
    preset = replace(
        preset,
        precision=options.precision if options.precision != "auto" else preset.precision,
        offload=options.offload or preset.offload,
        kv_storage=options.kv_storage or preset.kv_storage,
        kv_dtype=options.kv_dtype or preset.kv_dtype,
    )
    if preset.offload not in OFFLOADS:
        raise UsageError(f"--offload: give {', '.join(OFFLOADS)}; not '{preset.offload}'.")
    if offloads_by_module(preset.offload) and preset.precision in QUANTIZED:
        raise UsageError(
            f"--offload {preset.offload}: quantized weights ({preset.precision}) cannot be offloaded by"
            " parts; give model."
        )
    if offloads_by_module(preset.offload) and preset.kv_storage == "latents":
        raise UsageError(f"--kv-storage latents needs the whole network; not with --offload {preset.offload}.")
    return ResolvedPreset(
        name=name,
        device=device,
        precision=precision(preset.precision, device),
        offload="model" if device == "cpu" and preset.offload != "none" else preset.offload,  # nothing to move
        kv_storage=preset.kv_storage,
        kv_dtype=preset.kv_dtype,
        kv_resident=preset.kv_resident,
        vae_dtype=torch.float32 if preset.vae_dtype == "fp32" else _vae_dtype(device),
        vae_tiling=preset.vae_tiling,
        text_device="cpu" if preset.text_encoder == "cpu" else device,
    )


def _vae_dtype(device: str) -> torch.dtype:
    """What a VAE computes in; Apple's devices have no convolutions over time in half precision."""
    return torch.float32 if device_kind(device) == "mps" else half_precision(device)


def usual_presets(device: str, options: RuntimeOptions) -> list[str]:
    """The presets that ``auto`` chooses from on a device: on an accelerator, its usual precision is half."""
    names = list(PRESETS) if device_kind(device) == "cpu" else list(PRESETS)[1:]
    possible = []
    for name in names:
        precision_ = PRESETS[name].precision if options.precision == "auto" else "auto"
        if precision_ not in QUANTIZED or device_kind(device) in QUANTIZING:
            possible.append(name)
    return possible


def next_lower_preset(preset: ResolvedPreset, options: RuntimeOptions) -> str | None:
    """The next preset that needs less and allows a person's options; None below the last."""
    names = list(PRESETS)
    for name in names[names.index(preset.name) + 1 :]:
        with suppress(UsageError):
            return resolve_preset(name, preset.device, options).name
    return None
