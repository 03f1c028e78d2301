"""Speed, measured in one run: seconds by phase, time a block, peak memory, and how much of the machine is used.

The denoiser's rate is its floating-point operations (counted by torch on a sample of its calls) over the seconds its
other calls took; the yardstick is a matrix product of the same dtype on the same device in the same process.
"""

from __future__ import annotations

import itertools
import platform
import resource
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from blockvid_cli.job import RenderJob, RenderRequest, prepare
from blockvid_cli.models.wan.attention import LayerQKV, KVSource
from blockvid_cli.models.wan.denoiser import Denoiser
from blockvid_cli.render import render
from blockvid_cli.runtime.presets import RuntimeOptions
from blockvid_cli.runtime.time_estimate import matmul_flops, synchronize
from blockvid_cli.session import Event
from blockvid_cli.timing import PhaseTimer

COUNTED = 17  # one call in so many is counted, not timed


def attention_flops(
    query: torch.Size, key: torch.Size, value: torch.Size, *rest: object, out_shape: object = None, **options: object
) -> int:
    """Operations of a fused attention from its shapes; torch's counter does not know the CPU's."""
    return sdpa_flop_count(query, key, value)


CPU_ATTENTION = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention_flops}


@dataclass
class Tally:
    """What was counted: calls, those that were timed, and the operations of the others."""

    flops: list[int] = field(default_factory=list)
    calls: int = 0
    timed: int = 0


@dataclass
class Measured:
    """A denoiser around a denoiser that times its calls; those at or below ``clean`` are commits."""

    denoiser: Denoiser
    clean: float
    clock: PhaseTimer
    device: str
    tally: Tally

    def __call__(
        self, x: torch.Tensor, level: torch.Tensor, context: torch.Tensor, times: torch.Tensor, memory: KVSource
    ) -> tuple[torch.Tensor, list[LayerQKV]]:
        """See ``Denoiser``."""
        self.tally.calls += 1
        if self.tally.calls % COUNTED == 0:
            with self.clock.phase("counting"), FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION) as counter:
                out = self.denoiser(x, level, context, times, memory)
            self.tally.flops.append(counter.get_total_flops())
            return out
        self.tally.timed += 1
        with self.clock.phase("commit" if float(level.max()) <= self.clean + 1e-6 else "denoise"):
            out = self.denoiser(x, level, context, times, memory)
            synchronize(self.device)
        return out


def measure_speed(
    model: str | None, seconds: int, size: str | None, device: str, means: RuntimeOptions, recipe: dict[str, Any]
) -> dict[str, Any]:
    """Draws a film of ``seconds`` with made-up captions in a temporary folder, and says what it took."""
    captions = [
        f"A red boat {what} on the lake {when}."
        for when in ("by day", "at sunset", "at night")
        for what in ("rests", "glides to the left", "glides to the right", "hops up and down")
    ]
    with TemporaryDirectory() as folder:
        lengths = [4] * (seconds // 4) + ([seconds % 4] if seconds % 4 else [])
        lines = [f"- caption: {captions[i % len(captions)]}\n  duration: {length}s" for i, length in enumerate(lengths)]
        story = Path(folder) / "bench.yaml"
        story.write_text("version: 1\nchunks:\n" + "\n".join(lines) + "\n", encoding="utf-8")
        job = prepare(RenderRequest(story, model=model, size=size, device=device, runtime=means, recipe=recipe))
        return _measured(job)


def _measured(job: RenderJob) -> dict[str, Any]:
    clock, tally, ends = PhaseTimer(), Tally(), []

    def around(denoiser: Denoiser) -> Denoiser:
        return Measured(denoiser, job.recipes[0].cache_update.sigma, clock, job.device, tally)

    def tell(event: Event) -> None:
        if event.step and event.step.finished:
            ends.append(clock.seconds.get("denoise", 0.0) + clock.seconds.get("commit", 0.0))

    film = render(job, tell, clock, around)
    phases = {name: round(seconds, 3) for name, seconds in clock.seconds.items() if name != "counting"}
    blocks = [after - before for before, after in itertools.pairwise(ends)] or [0.0]
    rate = tally.timed * statistics.mean(tally.flops or [0])
    rate /= clock.seconds["denoise"] + clock.seconds.get("commit", 0.0)
    peak = matmul_flops(job.device, job.preset.precision.dtype)
    spent, counted = sum(phases.values()), job.preset.precision.quantise is None
    tenth = max(len(blocks) // 10, 1)
    return {
        "model": job.card.name,
        "size": "x".join(map(str, job.plan.size)),
        "precision": job.preset.precision.name,
        "profile": job.preset.name,
        "device": _device_name(job.device),
        "threads": torch.get_num_threads(),
        "film_seconds": film.seconds,
        "blocks": len(job.plan.blocks),
        "phases": phases,
        "rendering_seconds": round(spent, 2),
        "film_seconds_a_second": round(film.seconds / spent, 2),
        "peak_memory_mib": round(peak_memory(job.device) / 2**20),
        "block_seconds": {
            "median": round(statistics.median(blocks), 4),
            "first_tenth": round(statistics.median(blocks[:tenth]), 4),
            "last_tenth": round(statistics.median(blocks[-tenth:]), 4),
            "last_over_middle": round(
                statistics.median(blocks[-tenth:]) / statistics.median(blocks[len(blocks) // 3 : -tenth] or blocks),
                3,
            ),
        },
        "denoiser_gflops": round(rate / 1e9, 4) if counted else None,  # quantised products are not counted
        "matrix_product_gflops": round(peak / 1e9, 1),
        "denoiser_share": round(rate / peak, 6) if counted else None,
    }


def peak_memory(device: str) -> int:
    """Bytes: of the device where it has memory of its own, else of this process."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated()
    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _device_name(device: str) -> str:
    return torch.cuda.get_device_name() if device.startswith("cuda") else (platform.processor() or platform.machine())
