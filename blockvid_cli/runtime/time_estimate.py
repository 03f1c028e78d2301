"""How long a film will take, estimated before it is rendered: operations by phase over the device's measured speed.

    operations of a phase  =  counted from the plan, the recipe and the model's sizes
    seconds                =  operations / (SHARE of what the device reaches in a matrix product, measured here)

A preset may also be estimated for a GPU that is not on this machine; then only its memory is known.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import torch

from blockvid_cli.models.card import ModelCard, ModelSizes
from blockvid_cli.models.devices import free_memory, synchronize
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
    """Bytes and seconds by phase; ``seconds`` and ``free`` are None for a device that is not here.

    Args:
        bytes: on the device.
        host_bytes: of main memory beside the device; none on the CPU, whose ``bytes`` are main memory.
        host_free: bytes of main memory that are free here.
    """

    preset: str
    device: str
    bytes: dict[str, int]
    host_bytes: dict[str, int]
    host_free: int
    seconds: dict[str, float] | None
    free: int | None

    @property
    def peak(self) -> int:
        """The bytes of the phase that needs most."""
        return max(self.bytes.values())

    def __str__(self) -> str:
        """A line about the device, and one about main memory beside it."""
        out = f"needs about {_phases(self.bytes)} GiB"
        if self.free is None:
            out += f" of GPU memory (preset {self.preset}); there is no GPU here to say how long it takes"
        else:
            where = "main memory" if self.device == "cpu" else f"{self.device} memory"
            out += f" of {self.free / GIB:.1f} GiB free {where} (preset {self.preset} on {self.device})"
            if self.seconds is not None:
                out += f", and about {format_duration(sum(self.seconds.values()))} to render"
            out += "" if fits(self.peak, self.free, self.device) else "; this may not fit"
        if any(self.host_bytes.values()):
            out += f"\nneeds about {_phases(self.host_bytes)} GiB of {self.host_free / GIB:.1f} GiB free main memory"
            out += "; this may not fit" if max(self.host_bytes.values()) > self.host_free else ""
        return out


def _phases(phases: dict[str, int]) -> str:
    return ", ".join(f"{name} {size / GIB:.2f}" for name, size in phases.items() if size)


def estimate_render(
    card: ModelCard, plan: Plan, recipe: Recipe, rows: int, preset: ResolvedPreset, free: int | None
) -> RenderEstimate:
    """Counts what the film needs, and times a matrix product to say how long that takes on the preset's device.

    Args:
        rows: 2 where the film is guided, else 1.
        free: bytes that are free on the device; None for a device that is not on this machine.
    """
    needs = estimate_memory(card, plan, recipe, rows, preset)
    estimate = RenderEstimate(
        preset=preset.name,
        device="a GPU" if free is None else preset.device,
        bytes=needs.phases,
        host_bytes=needs.host,
        host_free=free_memory("cpu"),
        seconds=None,
        free=free,
    )
    if free is None:
        return estimate
    formats = {
        "text": (preset.text_device, torch.bfloat16),
        "denoise": (preset.device, preset.precision.dtype),
        "decode": (preset.device, preset.vae_dtype),
    }
    flops = count_flops(card, plan, recipe, rows)
    seconds = {name: count / (SHARE * matmul_flops(*formats[name])) for name, count in flops.items() if count}
    return replace(estimate, seconds=seconds)


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
