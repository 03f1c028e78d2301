"""What a film will need, before anything is loaded: bytes on the device in each phase, and about how long it will take.

    text       the encoder, if it reads on the device
    denoise    weights + the activations of one pass + the tokens looked at (+ those kept, if they stay on the device)
    decode     the codec, its state and its largest activation (+ the weights, if the network stays)

Phases do not overlap where network and codec take turns. Tokens are counted exactly; activations are a line through
what diffusers' networks allocate (Wan 1.3B at 832x480: 0.2, 0.8 and 1.5 GiB for 3, 12 and 21 latent frames in half
precision), and so is the codec's peak (3.9 GiB at 832x480 in half precision, whatever the length of the film).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan
from torch.utils.flop_counter import FlopCounterMode

from blockvid_cli.models.card import ModelCard
from blockvid_cli.models.offload import offloads_by_module
from blockvid_cli.models.registry import meta_transformer, meta_vae
from blockvid_cli.models.wan.vae import WanVAE
from blockvid_cli.rollout.recipe import Recipe
from blockvid_cli.runtime.presets import PRESETS, ResolvedPreset, RuntimeOptions, resolve_preset
from blockvid_cli.storyboard.plan import Plan

GIB = 2**30
ACTIVATIONS = 16  # values a token and channel of a pass that are alive at once
MODULATION = 30  # more of them, in full precision, where frames are at levels of their own
DECODING = 5240  # values a pixel that are alive at once in Wan's codec, with its 96 channels
TILE = 256  # pixels a side of a decoded tile
KEPT_BYTES = {"int8": 1.03, "bf16": 2.0}  # a value of a remembered token; int8 has a scale a head
SPARE = 0.7 * GIB  # what a GPU's driver and its libraries take
WORDS = 64  # tokens of a usual caption
SHARE = 0.4  # of a device's matrix products that a denoiser reaches


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes on the device by phase: text, denoise, decode.

    ``main`` are bytes of main memory beside a GPU: captions' encoder, weights that wait, tokens that are remembered.
    """

    phases: dict[str, int]
    host: int

    @property
    def peak(self) -> int:
        """The phase that needs most."""
        return max(self.phases.values())


@dataclass(frozen=True)
class Sizes:
    """Of a network: all weights, those of wide layers (which may be quantised), channels, layers, patch."""

    weights: int
    wide: int
    channels: int
    layers: int
    patch: tuple[int, int, int]


def sizes(card: ModelCard) -> Sizes:
    """The true sizes of a card's network, from a build without memory."""
    return _sizes(card.model_dump_json())


@lru_cache(maxsize=16)
def _sizes(part: str) -> Sizes:
    """Built once for each network in a run; ``part`` is the card's, as JSON."""
    network = meta_transformer(ModelCard.model_validate_json(part))
    wide = sum(
        layer.weight.numel()
        for name, layer in network.named_modules()
        if isinstance(layer, torch.nn.Linear) and name.startswith("blocks.")
    )
    config = network.config
    channels = config["num_attention_heads"] * config["attention_head_dim"]
    weights = sum(value.numel() for value in network.parameters())
    return Sizes(weights, wide, channels, config["num_layers"], tuple(config["patch_size"]))


def estimate_memory(card: ModelCard, plan: Plan, recipe: Recipe, rows: int, drawn: ResolvedPreset) -> MemoryEstimate:
    """What a film will need of a device.

    Args:
        rows: 2 where the film is guided, else 1.
    """
    network = sizes(card)
    bytes_each = drawn.precision.dtype.itemsize
    grid = plan.latent[1] // network.patch[1] * (plan.latent[2] // network.patch[2])
    block = max(block.frames for block in plan.blocks)
    steps = list(recipe.schedule.steps(len(plan.blocks), recipe.sigmas))
    together = block * max(len(step.blocks) for step in steps)
    seen, kept = recipe.kv_cache().max_cached_frames(plan)
    weights = network.weights * bytes_each + round(network.wide * (drawn.precision.weight_bytes - bytes_each))
    resident = weights if drawn.offload in ("none", "model") else 3 * weights // network.layers
    frame = rows * grid * network.channels * 2 * network.layers  # remembered values of a latent frame
    packed = KEPT_BYTES.get(drawn.kv_dtype, bytes_each)
    view = 3 * frame * seen * bytes_each // 2  # keys, values, and keys as they are rotated
    if not drawn.kv_resident and drawn.kv_storage != "latents":
        view = 2 * view // network.layers  # a layer's at a time
    memory = view + (round(frame * kept * packed) if drawn.kv_storage == "device" else 0)
    own_levels = card.family == "skyreels" or any(len(set(step.sigma)) > 1 for step in steps)
    alive = ACTIVATIONS * bytes_each + (4 * MODULATION if own_levels else 0)
    passing = (rows if recipe.kv_cache().needs_update else 1) * together * grid * network.channels * alive
    phases = {
        "text": card.text.parameters * 2 if drawn.text_device == drawn.device else 0,
        "denoise": resident + memory + passing,
        "decode": _decoding(card, plan, drawn) + (0 if drawn.frees_transformer else resident + memory),
    }
    return MemoryEstimate(phases, 0 if drawn.device == "cpu" else _in_main_memory(card, drawn, weights, frame * kept))


def count_flops(card: ModelCard, plan: Plan, recipe: Recipe, rows: int) -> dict[str, float]:
    """Floating-point operations of a film by phase."""
    network = sizes(card)
    grid = plan.latent[1] // network.patch[1] * (plan.latent[2] // network.patch[2])
    block = max(block.frames for block in plan.blocks)
    steps = list(recipe.schedule.steps(len(plan.blocks), recipe.sigmas))
    seen, _ = recipe.kv_cache().max_cached_frames(plan)
    passes = sum(_flops(network, len(step.blocks) * block * grid, seen * grid) for step in steps)
    if recipe.kv_cache().needs_update:
        passes += len(plan.blocks) * _flops(network, block * grid, seen * grid)
    captions = len({text for part in plan.blocks for text in (part.prompt, part.negative_prompt)[:rows]})
    return {
        "text": 2.0 * card.text.parameters * WORDS * captions,
        "denoise": rows * passes,
        "decode": _decoding_flops(card.model_dump_json(), card.latent.channels)
        * plan.latent[1]
        * plan.latent[2]
        * block
        * len(plan.blocks),
    }


def _in_main_memory(card: ModelCard, drawn: ResolvedPreset, weights: int, values: int) -> int:
    """Captions are read, and their encoder gone, before the rest comes."""
    text = card.text.parameters * 2 if drawn.text_device == "cpu" else 0
    packed = KEPT_BYTES.get(drawn.kv_dtype, drawn.precision.dtype.itemsize)
    kept = round(values * packed) if drawn.kv_storage == "host" else 0
    return max(text, (weights if offloads_by_module(drawn.offload) else 0) + kept)


@lru_cache(maxsize=16)
def _decoding_flops(part: str, channels: int) -> float:
    """Operations the codec spends on a latent pixel, counted on a small picture without memory."""
    with torch.device("meta"):
        codec, z = meta_vae(ModelCard.model_validate_json(part)), torch.empty(3, channels, 16, 16)
        codec = WanVAE(codec) if isinstance(codec, AutoencoderKLWan) else codec
        with FlopCounterMode(display=False) as counter:
            list(codec.stream([z]))
    return counter.get_total_flops() / (3 * 16 * 16)


def _decoding(card: ModelCard, plan: Plan, drawn: ResolvedPreset) -> int:
    """Bytes of the codec at work, scaled by its width; 96 channels is Wan's."""
    width, height = plan.size
    pixels = min(width, TILE) * min(height, TILE) if drawn.vae_tiling else width * height
    channels = card.vae.config.get("base_dim", 16)
    return round(pixels * DECODING * channels / 96 * drawn.vae_dtype.itemsize)


def _flops(network: Sizes, new: int, seen: int) -> float:
    """Operations of a pass over ``new`` tokens that look at ``seen`` more: two a weight and token, four a pair."""
    return 2.0 * network.weights * new + 4.0 * network.layers * network.channels * new * (new + seen)


def choose_preset(
    free: int, device: str, means: RuntimeOptions, needs: Callable[[ResolvedPreset], MemoryEstimate]
) -> ResolvedPreset:
    """The first profile whose peak fits into ``free`` bytes, or the last; one that is named is taken as it is."""
    usual = list(PRESETS) if device == "cpu" else list(PRESETS)[1:]  # a GPU's usual precision is half
    names = usual if means.preset == "auto" else [means.preset]
    for name in names:
        found = resolve_preset(name, device, means)
        if fits(needs(found).peak, free, device):
            return found
    return resolve_preset(names[-1], device, means)


def fits(peak: int, free: int, device: str) -> bool:
    """Whether a phase has room, beside what a GPU's driver takes."""
    return peak + (0 if device == "cpu" else SPARE) <= free


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


def format_plan(drawn: ResolvedPreset, needs: MemoryEstimate, free: int) -> str:
    """The plan in a line: whether it fits, and how."""
    word = "fits" if fits(needs.peak, free, drawn.device) else "may not fit"
    where = "main memory" if drawn.device == "cpu" else drawn.device
    main = f", and {needs.host / GIB:.1f} GiB of main memory" if needs.host else ""
    return (
        f"{word}: {needs.peak / GIB:.1f} of {free / GIB:.1f} GiB free in {where}{main} (preset {drawn.name}: {drawn})."
    )
