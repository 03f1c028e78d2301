"""Quality of a picture-book model, measured against ground truth: what a caption asks for is what the probe reads.

    held-out stories  ->  storyboards  ->  films (the real rollout and codec)  ->  probe  ->  shares of right readings

* accuracy: over chunks for the action, over frames of chunks for subject, colour, setting and light
* drift: the accuracy of chunks in the last ten seconds over that of chunks in the first ten
* first block: the accuracy of the films' first blocks beside that of all others
* return: a subject that was away for 30 s is back, its captions name no colour: is it the same subject, in its colour?
  With the model's own memory, and with a window of as many tokens; before it left, for comparison
* Fréchet distance of the probe's features to those of the world's own films of the same stories
* flicker: mean change between neighbouring frames, at block borders over inside blocks, beside the world's own
* codec: PSNR of held-out minutes, and how many seconds of film it decodes a second

Every other story of a minute is left for a while, by a cut, and comes back.
"""

from __future__ import annotations

import os
import pickle
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import yaml

from blockvid_cli.errors import UsageError
from blockvid_cli.evaluation.bench.frechet import frechet_distance
from blockvid_cli.evaluation.bench.probe_scores import (
    Seen,
    Shares,
    accuracy,
    ends,
    flicker,
    look,
    looks,
    of_blocks,
    ratios,
)
from blockvid_cli.job import RenderRequest, prepare
from blockvid_cli.models.card import ModelCard
from blockvid_cli.models.registry import find_model
from blockvid_cli.models.loading import load_vae, load_probe
from blockvid_cli.render import stream_frames
from blockvid_cli.rollout.kv_cache.semantic import SemanticCache
from blockvid_cli.rollout.recipe import make_recipe
from blockvid_cli.runtime.presets import AUTO, RuntimeOptions
from blockvid_cli.storybook.rendering import render_story
from blockvid_cli.storybook.edition import Edition, read_edition
from blockvid_cli.storybook.probe import Probe
from blockvid_cli.storybook.stories import HELD_OUT, Story, opening_story, returning_story, make_story

ENDS = 10  # seconds at either end that drift compares
AWAY = 30  # seconds a subject is away
LEAD, BACK = 8, 6  # blocks before and after
OF_PROBE = HELD_OUT + 500_000  # the first seed of the stories that the probe is judged by
PROBED = 40  # of them
CODED = 6  # minutes that the codec is judged by


@dataclass(frozen=True)
class Task:
    """One film to draw and read; ``recipe`` over the card's."""

    story: Story
    seed: int
    model: str
    device: str
    means: RuntimeOptions
    recipe: dict[str, Any]


def measure_quality(
    model: str,
    films: int,
    seconds: int,
    device: str = "auto",
    means: RuntimeOptions = AUTO,
    recipe: dict[str, Any] | None = None,
    workers: int | None = None,
    tell_progress: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Draws ``films`` held-out stories of ``seconds`` and half as many returns with either memory, and reads them.

    Raises:
        UsageError: the model draws no picture book, or its memory recalls nothing.
    """
    card = find_model(model)
    probe, edition = load_probe(card), _edition(card)
    recipe, second = recipe or {}, edition.fps / edition.period  # blocks a second
    window = {"kv_cache": as_many_tokens(card)}
    stories = [opening_story(edition, HELD_OUT + n, round(seconds * second)) for n in range(films)]
    returns = [returning_story(edition, HELD_OUT + n, LEAD, round(AWAY * second), BACK) for n in range(max(films // 2, 1))]
    tasks = [
        Task(story, number, model, device, means, used)
        for group, used in ((stories, recipe), (returns, recipe), (returns, recipe | window))
        for number, story in enumerate(group)
    ]
    shown: list[Seen] = []
    for result in _drawn(tasks, workers or _workers()):
        shown.append(result)
        tell_progress(f"{len(shown)} of {len(tasks)} films")
    drawn, own, windowed = shown[:films], shown[films : films + len(returns)], shown[films + len(returns) :]
    world = [look(probe, edition, story, render_story(story, edition)[0]) for story in stories]
    parts = [ends(story, round(ENDS * second)) for story in stories]
    first, last = (
        accuracy([film.only(part[which]) for film, part in zip(drawn, parts, strict=True)]) for which in (0, 1)
    )
    return {
        "model": card.name,
        "films": films,
        "seconds": seconds,
        "chunks": sum(len(film.action) for film in drawn),
        "probe_held_out": probe_accuracy(probe, edition),
        "caption_accuracy": accuracy(drawn),
        "last_ten_seconds": last,
        "drift_ratio": ratios(last, first),
        "first_block": of_blocks(drawn, slice(0, 1)),
        "other_blocks": of_blocks(drawn, slice(1, None)),
        "return_accuracy": {
            "films": len(returns),
            "before": looks(own, slice(0, LEAD)),
            "own_memory": looks(own, slice(-BACK, None)),
            "window": looks(windowed, slice(-BACK, None)),
            "window_frames": window["kv_cache"]["window"],
        },
        "frechet_distance": {"drawn": _distance(drawn, world), "world_halves": _distance(world[::2], world[1::2])},
        "flicker": {"border_over_inner": flicker(drawn), "world": flicker(world)},
        "codec": codec_figures(card, edition, round(seconds * second)),
    }


def as_many_tokens(card: ModelCard) -> dict[str, Any]:
    """A window that sees as many latent frames as the card's semantic memory: recent, recalled, the block before.

    Raises:
        UsageError: the card's memory is another, or remembers whole chunks.
    """
    memory = make_recipe(card.recipe).kv_cache()
    if not isinstance(memory, SemanticCache) or memory.last_blocks is None:
        raise UsageError(f"the memory of '{card.name}' is not semantic with a number of blocks; nothing to compare.")
    entries = (memory.recent + memory.top + 1) * memory.last_blocks
    return {"name": "window", "window": (entries + 1) * card.block, "sink": 0}


def probe_accuracy(probe: Probe, edition: Edition) -> Shares:
    """What the probe reads right of the world's own held-out films."""
    stories = [make_story(edition, OF_PROBE + n, 24) for n in range(PROBED)]
    return accuracy([look(probe, edition, story, render_story(story, edition)[0]) for story in stories])


@torch.inference_mode()
def codec_figures(card: ModelCard, edition: Edition, blocks: int) -> dict[str, float]:
    """PSNR in dB over held-out stories: of all, of the subject, and of the first, middle and last second; and speed."""
    codec, errors, spent, frames_total = load_vae(card, "cpu"), [], 0.0, 0
    subjects = []
    for number in range(CODED):
        frames, subject = render_story(opening_story(edition, HELD_OUT + number, blocks), edition)
        latents, began = codec.encode(frames), time.perf_counter()
        decoded = torch.cat(list(codec.stream(latents.split(edition.block))))
        spent, frames_total = spent + time.perf_counter() - began, frames_total + len(frames)
        error = (decoded - frames).square()
        errors.append(error.mean((1, 2, 3)))
        subjects.append(error[(subject > 0.5).expand_as(error)])
    every, middle = torch.stack(errors), len(errors[0]) // 2
    of = {
        "psnr": every,
        "subject": torch.cat(subjects),
        "first_second": every[:, : edition.fps],
        "middle_second": every[:, middle : middle + edition.fps],
        "last_second": every[:, -edition.fps :],
    }
    figures = {name: round(float(-10 * torch.log10(value.mean())), 2) for name, value in of.items()}
    return {**figures, "decoded_seconds_a_second": round(frames_total / edition.fps / spent, 1)}


def draw_and_look(task: Task) -> Seen:
    """Draws one story by the real rollout and reads it."""
    probe, edition = _judge(task.model)
    second = edition.period / edition.fps
    chunks = [{"caption": c.caption, "duration": f"{c.blocks * second:g}s", "cut": c.cut} for c in task.story.chunks]
    with TemporaryDirectory() as folder:
        file = Path(folder) / "story.yaml"
        file.write_text(yaml.safe_dump({"version": 1, "seed": task.seed, "chunks": chunks}), encoding="utf-8")
        order = RenderRequest(file, model=task.model, device=task.device, runtime=task.means, recipe=task.recipe)
        frames = torch.cat([part.float().cpu() for part in stream_frames(prepare(order))])
    return look(probe, edition, task.story, frames)


def _drawn(tasks: Sequence[Task], workers: int) -> Iterator[Seen]:
    """What is seen of each task's film, in order."""
    if workers == 1:
        yield from map(draw_and_look, tasks)
        return
    threads = max(1, (os.cpu_count() or 1) // workers)
    with ProcessPoolExecutor(workers, get_context("spawn"), torch.set_num_threads, (threads,)) as pool:
        yield from map(pickle.loads, pool.map(_packed, tasks))


def _packed(task: Task) -> bytes:
    """As bytes: tensors between processes would each hold a file open."""
    return pickle.dumps(draw_and_look(task))


def _workers() -> int:
    """One process a core where the CPU draws (small matrices share cores badly), one where a GPU does."""
    return 1 if torch.cuda.is_available() else os.cpu_count() or 1


def _distance(films: Sequence[Seen], others: Sequence[Seen]) -> float | None:
    a, b = (torch.cat([film.features for film in part]) for part in (films, others))
    return round(frechet_distance(a, b), 3) if min(len(a), len(b)) > 1 else None


@lru_cache(maxsize=1)
def _judge(model: str) -> tuple[Probe, Edition]:
    card = find_model(model)
    return load_probe(card), _edition(card)


def _edition(card: ModelCard) -> Edition:
    return read_edition(card.folder / str(card.edition))
