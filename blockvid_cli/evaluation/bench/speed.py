"""Speed, measured in one run: seconds by phase, time per block, peak memory, and how much of the machine is used.

The denoiser's rate is its floating-point operations (counted by torch on a sample of its calls) over the seconds of its
other calls; it is compared with a matrix product of the same dtype on the same device in the same process.
"""

from __future__ import annotations

import itertools
import statistics
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from blockvid_cli.job import RenderJob, RenderRequest, prepare
from blockvid_cli.models.devices import device_name, peak_memory, synchronize
from blockvid_cli.models.wan.attention import KVSource, LayerQKV
from blockvid_cli.models.wan.denoiser import Denoiser
from blockvid_cli.render import render
from blockvid_cli.runtime.presets import RuntimeOptions
from blockvid_cli.runtime.time_estimate import matmul_flops
from blockvid_cli.session import Event
from blockvid_cli.timing import PhaseTimer

COUNT_EVERY = 17  # every n-th call is counted and not timed


def attention_flops(
    query: torch.Size, key: torch.Size, value: torch.Size, *rest: object, out_shape: object = None, **options: object
) -> int:
    """Operations of a fused attention from its shapes; torch's counter does not know the CPU's."""
    return sdpa_flop_count(query, key, value)


CPU_ATTENTION = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention_flops}


@dataclass
class CallCounts:
    """All calls, those that were timed, and the operations of the others."""

    flops: list[int] = field(default_factory=list)
    calls: int = 0
    timed: int = 0


@dataclass
class TimedDenoiser:
    """A wrapper that times a denoiser's calls; those at or below sigma ``clean`` are cache updates."""

    denoiser: Denoiser
    clean: float
    timer: PhaseTimer
    device: str
    counts: CallCounts

    def __call__(
        self, x: torch.Tensor, sigma: torch.Tensor, prompt: torch.Tensor, positions: torch.Tensor, view: KVSource
    ) -> tuple[torch.Tensor, list[LayerQKV]]:
        """Calls the denoiser; counts the operations of every n-th call and times the others."""
        self.counts.calls += 1
        if self.counts.calls % COUNT_EVERY == 0:
            with self.timer.phase("counting"), FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION) as counter:
                output = self.denoiser(x, sigma, prompt, positions, view)
            self.counts.flops.append(counter.get_total_flops())
            return output
        self.counts.timed += 1
        with self.timer.phase("cache update" if float(sigma.max()) <= self.clean + 1e-6 else "denoise"):
            output = self.denoiser(x, sigma, prompt, positions, view)
            synchronize(self.device)
        return output


def measure_speed(
    model: str | None, seconds: int, size: str | None, device: str, runtime: RuntimeOptions, recipe: dict[str, Any]
) -> dict[str, Any]:
    """Renders a film of ``seconds`` with made-up captions in a temporary folder, and returns what it took."""
    captions = [
        f"A red boat {action} on the lake {light}."
        for light in ("by day", "at sunset", "at night")
        for action in ("rests", "glides to the left", "glides to the right", "hops up and down")
    ]
    with TemporaryDirectory() as folder:
        lengths = [4] * (seconds // 4) + ([seconds % 4] if seconds % 4 else [])
        lines = [f"- caption: {captions[i % len(captions)]}\n  duration: {length}s" for i, length in enumerate(lengths)]
        story = Path(folder) / "bench.yaml"
        story.write_text("version: 1\nchunks:\n" + "\n".join(lines) + "\n", encoding="utf-8")
        request = RenderRequest(story, model=model, size=size, device=device, runtime=runtime, recipe=recipe)
        return _measure(prepare(replace(request, untrained_size=True)))  # nobody looks at the film


def _measure(job: RenderJob) -> dict[str, Any]:
    timer, counts, ends = PhaseTimer(), CallCounts(), []

    def wrap(denoiser: Denoiser) -> Denoiser:
        return TimedDenoiser(denoiser, job.recipes[0].cache_update.sigma or 0.0, timer, job.device, counts)

    def listen(event: Event) -> None:
        if event.step and event.step.finished:
            ends.append(timer.seconds.get("denoise", 0.0) + timer.seconds.get("cache update", 0.0))

    film = render(job, listen, timer, wrap)
    phases = {name: round(seconds, 3) for name, seconds in timer.seconds.items() if name != "counting"}
    blocks = [after - before for before, after in itertools.pairwise(ends)] or [0.0]
    rate = counts.timed * statistics.mean(counts.flops or [0])
    rate /= timer.seconds["denoise"] + timer.seconds.get("cache update", 0.0)
    peak = matmul_flops(job.device, job.preset.precision.dtype)
    total, countable = sum(phases.values()), job.preset.precision.quantize is None
    tenth = max(len(blocks) // 10, 1)
    return {
        "model": job.card.name,
        "size": "x".join(map(str, job.plan.size)),
        "precision": job.preset.precision.name,
        "preset": job.preset.name,
        "device": device_name(job.device),
        "threads": torch.get_num_threads(),
        "film_seconds": film.seconds,
        "blocks": len(job.plan.blocks),
        "phases": phases,
        "rendering_seconds": round(total, 2),
        "film_seconds_a_second": round(film.seconds / total, 2),
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
        "denoiser_gflops": round(rate / 1e9, 4) if countable else None,  # quantised products are not counted
        "matrix_product_gflops": round(peak / 1e9, 1),
        "denoiser_share": round(rate / peak, 6) if countable else None,
    }
