"""What a film needs of a machine's memory, computed before anything is loaded: bytes in each phase.

               on the device                                         in main memory, beside an accelerator
    text       the encoder, if it is there                           the encoder: it is read into main memory first
    denoise    weights + the activations of one pass                 the VAE, offloaded weights, and the cached
               + the tokens attended to (+ all cached tokens,        tokens that are stored there
               if they stay there)
    decode     the VAE, its state and its largest activation         what stays of these
               (+ the weights, if the transformer stays)

On the CPU all of it is main memory, and counted as the device's.
Phases do not overlap where transformer and VAE are offloaded in turn. Tokens are counted exactly; activations and
decoding are lines through what diffusers' networks allocate (``models.registry.MemoryConstants``). The networks' sizes
come from the model's card, so that nothing has to be built.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from blockvid_cli.models.card import ModelCard
from blockvid_cli.models.devices import free_memory, offloads_by_module
from blockvid_cli.models.registry import family_of, model_sizes
from blockvid_cli.rollout.recipe import Recipe
from blockvid_cli.runtime.presets import ResolvedPreset, RuntimeOptions, resolve_preset, usual_presets
from blockvid_cli.storyboard.plan import Plan

GIB = 2**30
WAN_VAE_CHANNELS = 96  # for which the constant of decoding was measured
TILE = 256  # pixels a side of a decoded tile
PACKED_BYTES = {"int8": 1.03, "bf16": 2.0}  # for each value of a cached token; int8 has a scale a head
TEXT_ITEMSIZE = 2  # bytes a weight: text encoders compute in bfloat16
RESERVED = 0.7 * GIB  # for a GPU's driver and its libraries


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes by phase (text, denoise, decode): on the device, and of main memory beside it; none where that is one."""

    phases: dict[str, int]
    host: dict[str, int]

    @property
    def peak(self) -> int:
        """The bytes of the phase that needs most."""
        return max(self.phases.values())

    @property
    def host_peak(self) -> int:
        """The bytes of main memory of the phase that needs most of it."""
        return max(self.host.values(), default=0)


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
        "text": card.text.parameters * TEXT_ITEMSIZE if preset.text_device == preset.device else 0,
        "denoise": resident + kv_cache + pass_rows * frames_together * tokens * sizes.channels * alive,
        "decode": _decoding_bytes(card, plan, preset) + (0 if preset.frees_transformer else resident + kv_cache),
    }
    host = {} if preset.device == "cpu" else _host_bytes(card, preset, weights, frame_values * cached)
    return MemoryEstimate(phases, host)


def tokens_per_frame(card: ModelCard, plan: Plan) -> int:
    """How many tokens a latent frame of the film is."""
    return plan.latent[1] // card.patch[1] * (plan.latent[2] // card.patch[2])


def _host_bytes(card: ModelCard, preset: ResolvedPreset, weights: int, cached_values: int) -> dict[str, int]:
    """Bytes of main memory by phase; the text encoder is freed before the transformer is loaded."""
    packed = PACKED_BYTES.get(preset.kv_dtype, preset.precision.dtype.itemsize)
    offloaded = weights if offloads_by_module(preset.offload) else 0
    offloaded += round(cached_values * packed) if preset.kv_storage == "host" else 0
    vae = model_sizes(card).vae_params * preset.vae_dtype.itemsize if preset.frees_transformer else 0
    return {
        "text": card.text.parameters * TEXT_ITEMSIZE,
        "denoise": offloaded + vae,
        "decode": 0 if preset.frees_transformer else offloaded,
    }


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
    usual = usual_presets(device, options)
    for name in usual if options.preset == "auto" else []:
        preset = resolve_preset(name, device, options)
        if fits(estimate(preset).peak, free, device):
            return preset
    return resolve_preset(usual[-1] if options.preset == "auto" else options.preset, device, options)


def fits(peak: int, free: int, device: str) -> bool:
    """Whether there is room for a phase, beside what a GPU's driver takes."""
    return peak + (0 if device == "cpu" else RESERVED) <= free


def format_plan(preset: ResolvedPreset, estimate: MemoryEstimate, free: int) -> str:
    """One line: whether the film fits, and with which preset."""
    host_free = free_memory("cpu") if estimate.host_peak else 0
    there = fits(estimate.peak, free, preset.device) and estimate.host_peak <= host_free
    where = "main memory" if preset.device == "cpu" else preset.device
    host = f", and {_of_free(estimate.host_peak, host_free)} in main memory" if estimate.host_peak else ""
    return (
        f"{'fits' if there else 'may not fit'}: {_of_free(estimate.peak, free)} in {where}{host}"
        f" (preset {preset.name}: {preset})."
    )


def _of_free(needed: int, free: int) -> str:
    return f"{needed / GIB:.1f} of {free / GIB:.1f} GiB free"
