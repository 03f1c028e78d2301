"""What a film needs of a machine's memory, computed before anything is loaded: bytes on the device in each phase.

    text       the encoder, if it is on the device
    denoise    weights + the activations of one pass + the tokens attended to (+ all cached tokens, if they stay there)
    decode     the VAE, its state and its largest activation (+ the weights, if the transformer stays)

Phases do not overlap where transformer and VAE are offloaded in turn. Tokens are counted exactly; activations and
decoding are lines through what diffusers' networks allocate (``models.registry.MemoryConstants``). The networks' sizes
come from the model's card, so that nothing has to be built.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from blockvid_cli.models.card import ModelCard
from blockvid_cli.models.offload import offloads_by_module
from blockvid_cli.models.registry import family_of, model_sizes
from blockvid_cli.rollout.recipe import Recipe
from blockvid_cli.runtime.presets import PRESETS, ResolvedPreset, RuntimeOptions, resolve_preset
from blockvid_cli.storyboard.plan import Plan

GIB = 2**30
WAN_VAE_CHANNELS = 96  # for which the constant of decoding was measured
TILE = 256  # pixels a side of a decoded tile
PACKED_BYTES = {"int8": 1.03, "bf16": 2.0}  # for each value of a cached token; int8 has a scale a head
RESERVED = 0.7 * GIB  # for a GPU's driver and its libraries


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes on the device by phase: text, denoise, decode.

    ``host`` are bytes of main memory beside a GPU: the text encoder, offloaded weights, cached tokens.
    """

    phases: dict[str, int]
    host: int

    @property
    def peak(self) -> int:
        """The bytes of the phase that needs most."""
        return max(self.phases.values())


def estimate_memory(card: ModelCard, plan: Plan, recipe: Recipe, rows: int, preset: ResolvedPreset) -> MemoryEstimate:
    """What a film will need of a device.

    Args:
        rows: 2 where the film is guided, else 1.
    """
    sizes, constants = model_sizes(card), family_of(card).memory
    itemsize = preset.precision.dtype.itemsize
    tokens = tokens_per_frame(card, plan)
    steps = list(recipe.schedule.steps(plan.blocks, recipe.sigmas, ()))
    frames_together = max(block.frames for block in plan.blocks) * max(len(step.blocks) for step in steps)
    attended, cached = recipe.kv_cache().max_cached_frames(plan)
    weights = sizes.transformer_params * itemsize + round(
        sizes.linear_params * (preset.precision.weight_bytes - itemsize)
    )
    resident = weights if preset.offload in ("none", "model") else 3 * weights // sizes.layers
    frame_values = rows * tokens * sizes.channels * 2 * sizes.layers  # keys and values of a latent frame
    view = 3 * frame_values * attended * itemsize // 2  # keys, values, and rotated keys
    if not preset.kv_resident and preset.kv_storage != "latents":
        view = 2 * view // sizes.layers  # one layer at a time
    packed = PACKED_BYTES.get(preset.kv_dtype, itemsize)
    kv_cache = view + (round(frame_values * cached * packed) if preset.kv_storage == "device" else 0)
    modulated = family_of(card).sigma_per_frame or any(len(set(step.sigma)) > 1 for step in steps)
    alive = constants.activations * itemsize + (4 * constants.modulation if modulated else 0)
    pass_rows = rows if recipe.kv_cache().needs_update else 1
    phases = {
        "text": card.text.parameters * 2 if preset.text_device == preset.device else 0,
        "denoise": resident + kv_cache + pass_rows * frames_together * tokens * sizes.channels * alive,
        "decode": _decoding_bytes(card, plan, preset) + (0 if preset.frees_transformer else resident + kv_cache),
    }
    host = 0 if preset.device == "cpu" else _host_bytes(card, preset, weights, frame_values * cached)
    return MemoryEstimate(phases, host)


def tokens_per_frame(card: ModelCard, plan: Plan) -> int:
    """How many tokens a latent frame of the film is."""
    return plan.latent[1] // card.patch[1] * (plan.latent[2] // card.patch[2])


def _host_bytes(card: ModelCard, preset: ResolvedPreset, weights: int, cached_values: int) -> int:
    """Bytes of main memory; the text encoder is freed before the transformer is loaded."""
    text = card.text.parameters * 2 if preset.text_device == "cpu" else 0
    packed = PACKED_BYTES.get(preset.kv_dtype, preset.precision.dtype.itemsize)
    kv_cache = round(cached_values * packed) if preset.kv_storage == "host" else 0
    return max(text, (weights if offloads_by_module(preset.offload) else 0) + kv_cache)


def _decoding_bytes(card: ModelCard, plan: Plan, preset: ResolvedPreset) -> int:
    """Bytes of the VAE at work, in proportion to its width."""
    width, height = plan.size
    pixels = min(width, TILE) * min(height, TILE) if preset.vae_tiling else width * height
    values = family_of(card).memory.decoding * model_sizes(card).vae_channels / WAN_VAE_CHANNELS
    return round(pixels * values * preset.vae_dtype.itemsize)


def choose_preset(
    free: int, device: str, options: RuntimeOptions, estimate: Callable[[ResolvedPreset], MemoryEstimate]
) -> ResolvedPreset:
    """The first preset whose peak fits into ``free`` bytes, or the last; a named preset is used in any case."""
    usual = list(PRESETS) if device == "cpu" else list(PRESETS)[1:]  # a GPU's usual precision is half
    for name in usual if options.preset == "auto" else []:
        preset = resolve_preset(name, device, options)
        if fits(estimate(preset).peak, free, device):
            return preset
    return resolve_preset(usual[-1] if options.preset == "auto" else options.preset, device, options)


def fits(peak: int, free: int, device: str) -> bool:
    """Whether there is room for a phase, beside what a GPU's driver takes."""
    return peak + (0 if device == "cpu" else RESERVED) <= free


def free_memory(device: str) -> int:
    """Bytes that are free on a device; for the CPU, of main memory (half of all where the system does not say)."""
    if device.startswith("cuda"):
        return torch.cuda.mem_get_info(device)[0]
    with suppress(OSError, StopIteration, ValueError):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return int(next(line for line in lines if line.startswith("MemAvailable")).split()[1]) * 1024
    with suppress(ValueError, OSError, AttributeError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    return 8 * GIB


def format_plan(preset: ResolvedPreset, estimate: MemoryEstimate, free: int) -> str:
    """One line: whether the film fits, and with which preset."""
    verdict = "fits" if fits(estimate.peak, free, preset.device) else "may not fit"
    where = "main memory" if preset.device == "cpu" else preset.device
    host = f", and {estimate.host / GIB:.1f} GiB of main memory" if estimate.host else ""
    return (
        f"{verdict}: {estimate.peak / GIB:.1f} of {free / GIB:.1f} GiB free in {where}{host}"
        f" (preset {preset.name}: {preset})."
    )
