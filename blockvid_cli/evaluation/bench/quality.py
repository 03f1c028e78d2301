"""Quality of a picture-book model, measured against ground truth: whether the films show what the captions ask for.

    held-out stories  ->  storyboards  ->  films (the real rollout and VAE)  ->  probe  ->  shares of right readings

* accuracy: over chunks for the action, over frames of chunks for subject, colour, setting and light
* drift: the accuracy of chunks in the last ten seconds over that of chunks in the first ten
* first block: the accuracy of the films' first blocks beside that of all others
* return: a subject that was away for 30 s comes back, its captions name no colour: is it the same, in its colour? With
  the model's own KV cache, and with a window of as many tokens; before it left, for comparison
* Fréchet distance of the probe's features to those of the world's own films of the same stories
* flicker: mean change between neighbouring frames, at block borders over inside blocks, beside the world's own
* takes: how much the takes of a chunk that begins a shot differ from one another (latents, and the subject's place in
  pixels), over how much films of other seeds differ there: below 1, takes are less of an alternative than seeds
* vae: PSNR of held-out minutes, and how many seconds of film it decodes per second

In every other story of a minute the subject leaves for a while, by a cut, and comes back.
"""

from __future__ import annotations

import os
import pickle
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import yaml

from blockvid_cli.errors import UsageError
from blockvid_cli.evaluation.bench.probe_scores import (
    ProbeScores,
    Shares,
    accuracy,
    block_accuracy,
    end_chunks,
    flicker,
    frechet_distance,
    probe_film,
    ratios,
    spread,
    subject_and_colour,
)
from blockvid_cli.evaluation.films import worker_pool
from blockvid_cli.job import RenderJob, RenderRequest, prepare, with_takes
from blockvid_cli.models.card import ModelCard
from blockvid_cli.models.find import find_model
from blockvid_cli.models.loading import load_probe, load_vae
from blockvid_cli.project.identity import TakeChoice
from blockvid_cli.render import stream_frames
from blockvid_cli.rollout.kv_cache.semantic import SemanticCache
from blockvid_cli.rollout.recipe import make_recipe
from blockvid_cli.runtime.presets import AUTO, RuntimeOptions
from blockvid_cli.session import load
from blockvid_cli.storybook.edition import Edition, read_edition
from blockvid_cli.storybook.probe import Probe
from blockvid_cli.storybook.rendering import render_story
from blockvid_cli.storybook.stories import HELD_OUT, Story, make_story, opening_story, returning_story

END_SECONDS = 10  # at either end, which drift compares
AWAY_SECONDS = 30
LEAD_BLOCKS, BACK_BLOCKS = 8, 6  # before the subject leaves and after it is back
PROBE_SEED = HELD_OUT + 500_000  # the first seed of the stories that the probe is tested with
PROBE_STORIES, VAE_STORIES = 40, 6
TAKES, TAKE_STORIES = 8, 3
TAKE_BLOCKS = 5, 3, 4  # of a story with takes: before the subject leaves, while it is away, after it is back


@dataclass(frozen=True)
class Task:
    """One film to render and read; ``recipe`` over the card's."""

    story: Story
    seed: int
    model: str
    device: str
    runtime: RuntimeOptions
    recipe: dict[str, Any]


def measure_quality(
    model: str,
    films: int,
    seconds: int,
    device: str = "auto",
    runtime: RuntimeOptions = AUTO,
    recipe: dict[str, Any] | None = None,
    workers: int | None = None,
    notify: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Renders ``films`` held-out stories of ``seconds`` and half as many returns with either KV cache, and reads them.

    Raises:
        UsageError: the model renders no picture book, or its KV cache retrieves nothing.
    """
    card = find_model(model)
    probe, edition = load_probe(card), _edition(card)
    recipe, blocks_per_second = recipe or {}, edition.fps / edition.period
    window = {"kv_cache": window_of_equal_size(card)}
    away = round(AWAY_SECONDS * blocks_per_second)
    stories = [opening_story(edition, HELD_OUT + n, round(seconds * blocks_per_second)) for n in range(films)]
    returns = [
        returning_story(edition, HELD_OUT + n, LEAD_BLOCKS, away, BACK_BLOCKS) for n in range(max(films // 2, 1))
    ]
    tasks = [
        Task(story, number, model, device, runtime, used)
        for group, used in ((stories, recipe), (returns, recipe), (returns, recipe | window))
        for number, story in enumerate(group)
    ]
    scores: list[ProbeScores] = []
    for result in _run(tasks, workers or _default_workers()):
        scores.append(result)
        notify(f"{len(scores)} of {len(tasks)} films")
    rendered, others = scores[:films], scores[films:]
    return {
        "model": card.name,
        "films": films,
        "seconds": seconds,
        "chunks": sum(len(film.action) for film in rendered),
        "probe_held_out": probe_accuracy(probe, edition),
        **_story_figures(probe, edition, stories, rendered),
        "return_accuracy": {
            **_return_figures(others[: len(returns)], others[len(returns) :]),
            "window_frames": window["kv_cache"]["window"],
        },
        "takes": measure_takes(model, min(films, TAKE_STORIES), TAKES, device, runtime, recipe),
        "vae": vae_figures(card, edition, round(seconds * blocks_per_second)),
    }


def _story_figures(
    probe: Probe, edition: Edition, stories: Sequence[Story], rendered: Sequence[ProbeScores]
) -> dict[str, Any]:
    """What films of stories show, beside the world's own films of the same stories."""
    world = [probe_film(probe, edition, story, render_story(story, edition)[0]) for story in stories]
    parts = [end_chunks(story, round(END_SECONDS * edition.fps / edition.period)) for story in stories]
    first, last = (
        accuracy([film.select(part[end]) for film, part in zip(rendered, parts, strict=True)]) for end in (0, 1)
    )
    return {
        "caption_accuracy": accuracy(rendered),
        "last_ten_seconds": last,
        "drift_ratio": ratios(last, first),
        "first_block": block_accuracy(rendered, slice(0, 1)),
        "other_blocks": block_accuracy(rendered, slice(1, None)),
        "frechet_distance": {
            "rendered": _distance(rendered, world),
            "world_halves": _distance(world[::2], world[1::2]),
        },
        "flicker": {"border_over_inner": flicker(rendered), "world": flicker(world)},
    }


def _return_figures(own: Sequence[ProbeScores], windowed: Sequence[ProbeScores]) -> dict[str, Any]:
    """Whether a subject that was away comes back the same: by the model's own KV cache, and by a window."""
    return {
        "films": len(own),
        "before": subject_and_colour(own, slice(0, LEAD_BLOCKS)),
        "own_kv_cache": subject_and_colour(own, slice(-BACK_BLOCKS, None)),
        "window": subject_and_colour(windowed, slice(-BACK_BLOCKS, None)),
    }


def window_of_equal_size(card: ModelCard) -> dict[str, Any]:
    """A window of as many latent frames as the card's semantic KV cache: recent, retrieved, the block before.

    Raises:
        UsageError: the card's KV cache is another, or caches whole chunks.
    """
    cache = make_recipe(card.recipe).kv_cache()
    if not isinstance(cache, SemanticCache) or cache.last_blocks is None:
        raise UsageError(f"the KV cache of '{card.name}' is not semantic with last_blocks; nothing to compare.")
    entries = (cache.recent + cache.top + 1) * cache.last_blocks
    return {"name": "window", "window": (entries + 1) * card.block, "sink": 0}


def probe_accuracy(probe: Probe, edition: Edition) -> Shares:
    """The probe's accuracy on the world's own held-out films."""
    stories = [make_story(edition, PROBE_SEED + n, 24) for n in range(PROBE_STORIES)]
    return accuracy([probe_film(probe, edition, story, render_story(story, edition)[0]) for story in stories])


@torch.inference_mode()
def vae_figures(card: ModelCard, edition: Edition, blocks: int) -> dict[str, float]:
    """PSNR in dB over held-out stories: of all, of the subject, and of the first, middle and last second; and speed."""
    vae, errors, subject_errors, seconds, frame_count = load_vae(card, "cpu"), [], [], 0.0, 0
    for number in range(VAE_STORIES):
        frames, subject = render_story(opening_story(edition, HELD_OUT + number, blocks), edition)
        latents, start = vae.encode(frames), time.perf_counter()
        decoded = torch.cat(list(vae.stream(latents.split(edition.block))))
        seconds, frame_count = seconds + time.perf_counter() - start, frame_count + len(frames)
        error = (decoded - frames).square()
        errors.append(error.mean((1, 2, 3)))
        subject_errors.append(error[(subject > 0.5).expand_as(error)])
    every, middle = torch.stack(errors), len(errors[0]) // 2
    parts = {
        "psnr": every,
        "subject": torch.cat(subject_errors),
        "first_second": every[:, : edition.fps],
        "middle_second": every[:, middle : middle + edition.fps],
        "last_second": every[:, -edition.fps :],
    }
    figures = {name: round(float(-10 * torch.log10(error.mean())), 2) for name, error in parts.items()}
    return {**figures, "decoded_seconds_a_second": round(frame_count / edition.fps / seconds, 1)}


def render_and_probe(task: Task) -> ProbeScores:
    """Renders one story by the real rollout and reads it."""
    probe, edition = _probe_and_edition(task.model)
    with TemporaryDirectory() as folder:
        frames = torch.cat([part.float().cpu() for part in stream_frames(_prepare(task, Path(folder)))])
    return probe_film(probe, edition, task.story, frames)


def _prepare(task: Task, folder: Path) -> RenderJob:
    """The job of a story, whose storyboard is written into ``folder``."""
    edition = _probe_and_edition(task.model)[1]
    second = edition.period / edition.fps
    chunks = [{"caption": c.caption, "duration": f"{c.blocks * second:g}s", "cut": c.cut} for c in task.story.chunks]
    file = folder / "story.yaml"
    file.write_text(yaml.safe_dump({"version": 1, "seed": task.seed, "chunks": chunks}), encoding="utf-8")
    return prepare(RenderRequest(file, model=task.model, device=task.device, runtime=task.runtime, recipe=task.recipe))


def measure_takes(
    model: str,
    stories: int = TAKE_STORIES,
    takes: int = TAKES,
    device: str = "auto",
    runtime: RuntimeOptions = AUTO,
    recipe: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The spread of takes over the spread of as many film seeds, in chunks that begin a shot and in all others.

    Raises:
        UsageError: the model renders no picture book.
    """
    probe, edition = _probe_and_edition(model)
    spreads = dict[bool, list[dict[str, float]]]()
    for number in range(stories):
        story = returning_story(edition, HELD_OUT + number, *TAKE_BLOCKS)
        task = Task(story, number, model, device, runtime, recipe or {})
        with TemporaryDirectory() as folder:
            first = _prepare(task, Path(folder))
            seeds = [_prepare(replace(task, seed=1000 * (number + 1) + n), Path(folder)) for n in range(takes)]
            by_seed, done = [_render_chunks(job, probe) for job in seeds], dict[int, torch.Tensor]()
            for chunk, planned in enumerate(first.plan.chunks):
                choices = [{planned.number: TakeChoice(take)} for take in range(1, takes + 1)]
                by_take = [
                    _render_chunks(with_takes(first, choice), probe, done, chunk + 1)[chunk] for choice in choices
                ]
                figures = _spreads([film[chunk] for film in by_seed], "seeds") | _spreads(by_take, "takes")
                spreads.setdefault(planned.cut or chunk == 0, []).append(figures)
                latents = by_take[0][0].split(planned.block_frames)
                done |= {block.number: part for block, part in zip(planned.blocks, latents, strict=True)}
    names = {True: "begins_a_shot", False: "inside_a_shot"}
    return {"takes": takes, **{names[begins]: _mean_ratios(figures) for begins, figures in spreads.items()}}


def _spreads(variants: Sequence[tuple[torch.Tensor, torch.Tensor]], name: str) -> dict[str, float]:
    latents, places = ([variant[part] for variant in variants] for part in (0, 1))
    return {f"latents_{name}": spread(latents), f"place_{name}": spread(places)}


def _mean_ratios(figures: Sequence[dict[str, float]]) -> dict[str, float]:
    """Mean spreads of several chunks, and the takes' over the seeds'."""
    means = {name: sum(each[name] for each in figures) / len(figures) for name in figures[0]}
    over = {name: means[f"{name}_takes"] / max(means[f"{name}_seeds"], 1e-9) for name in ("latents", "place")}
    return {name: round(value, 4) for name, value in {**means, **over, "chunks": len(figures)}.items()}


@torch.inference_mode()
def _render_chunks(
    job: RenderJob, probe: Probe, done: Mapping[int, torch.Tensor] | None = None, chunks: int | None = None
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Of each of the first ``chunks`` its latents (F, C, H, W) and the subject's places (frames, 2); saves nothing.

    Args:
        done: clean latents by block, which are not generated.
    """
    loaded, latents, planned = load(job), dict(done or {}), job.plan.chunks[:chunks]
    for result in loaded.run(done):
        latents |= {block.number: value for block, value in result.finished}
        if all(block.number in latents for chunk in planned for block in chunk.blocks):
            break
    loaded.vae.to(job.preset.device)
    frames = torch.cat([part.float().cpu() for part in loaded.vae.stream(latents[n] for n in sorted(latents))])
    places = probe.places(frames)
    return [
        (torch.cat([latents[block.number] for block in chunk.blocks]), places[chunk.first_frame : chunk.end_frame])
        for chunk in planned
    ]


def _run(tasks: Sequence[Task], workers: int) -> Iterator[ProbeScores]:
    """Yields the readings of each task's film, in order."""
    if workers == 1:
        yield from map(render_and_probe, tasks)
        return
    threads = max(1, (os.cpu_count() or 1) // workers)
    with worker_pool(workers, torch.set_num_threads, threads) as pool:
        yield from map(pickle.loads, pool.map(_pickled, tasks))


def _pickled(task: Task) -> bytes:
    """As bytes: tensors between processes would each hold a file open."""
    return pickle.dumps(render_and_probe(task))


def _default_workers() -> int:
    """One process per core on a CPU (small matrices share cores badly), one with a GPU."""
    return 1 if torch.cuda.is_available() else os.cpu_count() or 1


def _distance(films: Sequence[ProbeScores], others: Sequence[ProbeScores]) -> float | None:
    a, b = (torch.cat([film.features for film in group]) for group in (films, others))
    return round(frechet_distance(a, b), 3) if min(len(a), len(b)) > 1 else None


@lru_cache(maxsize=1)
def _probe_and_edition(model: str) -> tuple[Probe, Edition]:
    card = find_model(model)
    return load_probe(card), _edition(card)


def _edition(card: ModelCard) -> Edition:
    return read_edition(card.folder / str(card.edition))
