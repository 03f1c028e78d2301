"""How long a film will take, estimated before it is rendered: operations by phase over the device's measured speed.

    operations of a phase  =  counted from the plan, the recipe and the model's sizes
    seconds                =  operations / (SHARE of what the device reaches in a matrix product, measured here)

A preset may also be estimated for a GPU that is not on this machine; then only its memory is known.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from blockvid_cli.models.card import ModelCard, ModelSizes
from blockvid_cli.models.registry import model_sizes
from blockvid_cli.rollout.recipe import Recipe
from blockvid_cli.runtime.memory_estimate import GIB, estimate_memory, fits, tokens_per_frame
from blockvid_cli.runtime.presets import ResolvedPreset
from blockvid_cli.storyboard.plan import Plan
from blockvid_cli.storyboard.seconds import format_duration

PROMPT_TOKENS = 64  # of a usual prompt
SHARE = 0.4  # of a device's matrix products that a denoiser reaches
SIDE = 2048  # of the matrices by which a device is measured


@dataclass(frozen=True)
class RenderEstimate:
    """Bytes on the device and seconds by phase; ``seconds`` and ``free`` are None for a device that is not here."""

    preset: str
    device: str
    bytes: dict[str, int]
    seconds: dict[str, float] | None
    free: int | None

    @property
    def peak(self) -> int:
        """The bytes of the phase that needs most."""
        return max(self.bytes.values())

    def __str__(self) -> str:
        phases = ", ".join(f"{name} {size / GIB:.2f}" for name, size in self.bytes.items() if size)
        out = f"needs about {phases} GiB"
        if self.free is None:
            return f"{out} with the preset {self.preset} on a GPU; there is none here to say how long it takes"
        out += f" of {self.free / GIB:.1f} GiB free (preset {self.preset} on {self.device})"
        if self.seconds is not None:
            out += f", and about {format_duration(sum(self.seconds.values()))} to render"
        return out if fits(self.peak, self.free, self.device) else f"{out}; this may not fit"


def estimate_render(
    card: ModelCard, plan: Plan, recipe: Recipe, rows: int, preset: ResolvedPreset, free: int | None
) -> RenderEstimate:
    """Counts what the film needs, and times a matrix product to say how long that takes on the preset's device.

    Args:
        rows: 2 where the film is guided, else 1.
        free: bytes that are free on the device; None for a device that is not on this machine.
    """
    phases = estimate_memory(card, plan, recipe, rows, preset).phases
    if free is None:
        return RenderEstimate(preset=preset.name, device="a GPU", bytes=phases, seconds=None, free=None)
    formats = {
        "text": (preset.text_device, torch.bfloat16),
        "denoise": (preset.device, preset.precision.dtype),
        "decode": (preset.device, preset.vae_dtype),
    }
    flops = count_flops(card, plan, recipe, rows)
    seconds = {name: count / (SHARE * matmul_flops(*formats[name])) for name, count in flops.items() if count}
    return RenderEstimate(preset=preset.name, device=preset.device, bytes=phases, seconds=seconds, free=free)


def count_flops(card: ModelCard, plan: Plan, recipe: Recipe, rows: int) -> dict[str, float]:
    """Floating-point operations of a film by phase: text, denoise, decode."""
    sizes, tokens = model_sizes(card), tokens_per_frame(card, plan)
    block = max(block.frames for block in plan.blocks)
    attended, _ = recipe.kv_cache().max_cached_frames(plan)
    steps = recipe.schedule.steps(plan.blocks, recipe.sigmas, ())
    passes = sum(_pass_flops(sizes, len(step.blocks) * block * tokens, attended * tokens) for step in steps)
    if recipe.kv_cache().needs_update and recipe.cache_update.source == "pass":
        passes += len(plan.blocks) * _pass_flops(sizes, block * tokens, attended * tokens)
    prompts = {text for chunk in plan.chunks for text in (chunk.prompt, chunk.negative_prompt)[:rows]}
    latent_pixels = plan.latent[1] * plan.latent[2] * block * len(plan.blocks)
    return {
        "text": 2.0 * card.text.parameters * PROMPT_TOKENS * len(prompts),
        "denoise": rows * passes,
        "decode": sizes.vae_decode_flops * latent_pixels,
    }


def _pass_flops(sizes: ModelSizes, new: int, cached: int) -> float:
    """Operations of a pass over ``new`` tokens that attend to ``cached`` ones: two a weight and token, four a pair."""
    return 2.0 * sizes.transformer_params * new + 4.0 * sizes.layers * sizes.channels * new * (new + cached)


def matmul_flops(device: str, dtype: torch.dtype) -> float:
    """Floating-point operations a second in a matrix product of SIDE x SIDE; the best of five."""
    a, b = (torch.randn(SIDE, SIDE, device=device).to(dtype) for _ in range(2))
    best = float("inf")
    for _ in range(6):
        synchronize(device)
        start = time.perf_counter()
        _ = a @ b
        synchronize(device)
        best = min(best, time.perf_counter() - start)
    return 2 * SIDE**3 / best


def synchronize(device: str) -> None:
    """Waits until a device has finished its work."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
