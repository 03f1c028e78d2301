"""What a film will take, told before it is drawn: bytes and seconds by phase, here or on the card a profile names."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from blockvid_cli.job import RenderJob
from blockvid_cli.runtime.memory_estimate import GIB, SHARE, count_flops, fits
from blockvid_cli.runtime.presets import resolve_preset
from blockvid_cli.runtime.yardstick import matmul_flops
from blockvid_cli.storyboard.seconds import format_duration


@dataclass(frozen=True)
class RenderEstimate:
    """Bytes on the device and seconds by phase; no seconds for a device that is not here. ``free`` bytes likewise."""

    preset: str
    device: str
    bytes: dict[str, int]
    seconds: dict[str, float] | None
    free: int | None

    @property
    def peak(self) -> int:
        """The phase that needs most."""
        return max(self.bytes.values())

    def __str__(self) -> str:
        phases = ", ".join(f"{name} {size / GIB:.2f}" for name, size in self.bytes.items() if size)
        out = f"needs about {phases} GiB"
        if self.free is None:
            return f"{out} with the preset {self.preset} on a GPU; there is none here to say how long it takes"
        out += f" of {self.free / GIB:.1f} GiB free (preset {self.preset} on {self.device})"
        if self.seconds is not None:
            out += f", and about {format_duration(sum(self.seconds.values()))} to draw"
        return out if fits(self.peak, self.free, self.device) else f"{out}; this may not fit"


def estimate_render(job: RenderJob) -> RenderEstimate:
    """Counts what the film needs, and times a matrix product to say how long that is here.

    A profile that is named is told for a GPU even where there is none.
    """
    asked = job.request.runtime.preset
    if asked != "auto" and job.device == "cpu" and job.request.device == "auto":
        there = resolve_preset(asked, "cuda", job.request.runtime)
        return RenderEstimate(asked, "a GPU", job.budget(there).phases, None, None)
    needs = job.budget()
    places = {
        "text": (job.preset.text_device, torch.bfloat16),
        "denoise": (job.device, job.preset.precision.dtype),
        "decode": (job.device, job.preset.vae_dtype),
    }
    counted = count_flops(job.card, job.plan, job.recipes[0], job.rows)
    seconds = {name: flops / (SHARE * matmul_flops(*places[name])) for name, flops in counted.items() if flops}
    return RenderEstimate(job.preset.name, job.device, needs.phases, seconds, job.free_memory)
