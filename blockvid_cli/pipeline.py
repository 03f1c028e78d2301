"""The whole way, in order: storyboard -> plan -> text -> rollout -> codec -> film.

    job = prepare(Order(Path("story.yaml")))      reads and checks everything; loads no weights
    film = render(job)                            draws what is missing, writes story.mp4

A chain of iterators: the first pictures are in the encoder while later blocks are still noise, and every finished block
is on disk before the next begins.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch

from blockvid_cli import __version__
from blockvid_cli.card import ModelCard, find_card, parse_size
from blockvid_cli.clock import Clock
from blockvid_cli.codec.stream import Codec, as_pictures
from blockvid_cli.denoiser.guidance import Guided
from blockvid_cli.denoiser.wan import Denoiser
from blockvid_cli.errors import BlockvidError, OutOfMemoryError, UsageError
from blockvid_cli.film.audio import Audio
from blockvid_cli.film.mux import Film, write_film
from blockvid_cli.film.project import Project, chunk_keys, folder_beside
from blockvid_cli.film.sheet import contact_sheet
from blockvid_cli.film.subtitles import chapters_of
from blockvid_cli.rollout.loop import Moment, Rollout, Run
from blockvid_cli.rollout.recipe import Recipe, make_recipe, overlaid
from blockvid_cli.story.plan import Plan, make_plan
from blockvid_cli.story.storyboard import Storyboard, read_storyboard
from blockvid_cli.text.encoders import text_encoder
from blockvid_cli.text.script import Script
from blockvid_cli.zoo.load import load_codec, load_denoiser

DEFAULT_MODEL = "storybook"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Order:
    """What a person asks for; None leaves it to the storyboard, and then to the model's card."""

    story: Path
    output: Path | None = None
    model: str | None = None
    seed: int | None = None
    size: str | None = None
    fps: float | None = None
    recipe: dict[str, Any] = field(default_factory=dict)  # over the card's and the storyboard's
    overrides: tuple[str, ...] = ()  # dotted: chunks.4.seed=7
    device: str = "auto"
    dtype: str = "auto"
    fresh: bool = False
    metadata: bool = True
    allow_outside: bool = False


@dataclass(frozen=True)
class Job:
    """An order, read and checked: nothing is drawn or loaded yet."""

    order: Order
    storyboard: Storyboard
    card: ModelCard
    plan: Plan
    values: dict[str, Any]  # the recipe in names and numbers
    recipes: tuple[Recipe, ...]  # one a chunk
    output: Path
    device: str
    dtype: torch.dtype

    @property
    def guided(self) -> bool:
        """Whether any chunk is drawn with guidance; then all are drawn with two rows."""
        return any(recipe.guidance != 1 for recipe in self.recipes)


@dataclass(frozen=True)
class Event:
    """Something to tell: a phase begins, a step is done, a note. ``moment`` only while drawing."""

    phase: str
    note: str = ""
    moment: Moment | None = None


Tell = Callable[[Event], None]


def prepare(order: Order) -> Job:
    """Reads the storyboard, the card and the recipe, and lays out the plan.

    Raises:
        UsageError: something in them is wrong; the sentence says what and where.
        MissingModelError: there is no such model.
    """
    storyboard = read_storyboard(order.story, order.overrides, order.allow_outside)
    card = find_card(order.model or storyboard.model or DEFAULT_MODEL)
    seed = storyboard.seed if order.seed is None else order.seed
    size = _size(order.size) or storyboard.size
    plan = make_plan(storyboard, card, seed=seed, size=size, fps=order.fps or storyboard.fps)
    values = overlaid(card.recipe, storyboard.recipe, order.recipe)
    film, recipes = make_recipe(values), []
    for chunk in storyboard.chunks:
        if chunk.image:
            raise UsageError(f"{chunk.where}: image: the model '{card.name}' cannot begin a chunk from a picture.")
        if "memory" in chunk.recipe:
            raise UsageError(f"{chunk.where}: recipe: a film has one memory; set it in the storyboard's recipe.")
        recipes.append(make_recipe(overlaid(values, chunk.recipe)) if chunk.recipe else film)
    output = order.output or storyboard.source.with_suffix(".mp4")
    device = _device(order.device)
    return Job(order, storyboard, card, plan, values, tuple(recipes), output, device, _dtype(order.dtype, device))


def render(
    job: Job,
    tell: Tell = lambda event: None,
    clock: Clock | None = None,
    around: Callable[[Denoiser], Denoiser] = lambda denoiser: denoiser,
) -> Film:
    """Draws what is missing, keeps every finished block, and writes the film; called again, it goes on.

    ``around`` may put a denoiser of its own around the model's, to measure it for instance.

    Raises:
        BlockvidError: with the exit code that fits; what is finished is kept.
    """
    clock = clock or Clock()
    plan = job.plan
    identity = {"model": job.card.name, "size": list(plan.size), "fps": plan.fps}
    with Project.open(folder_beside(job.output), identity, job.order.fresh) as project:
        project.write_manifest(_manifest(job))
        rollout, runs, codec = _load(job, tell, clock, around)
        keys = _keys(job)
        done = dict(_finished(project, plan, keys))
        for note in (*job.storyboard.notes, *project.notes):
            tell(Event("note", note))
        moments = clock.each("draw", _guarded(rollout.moments(runs, done)))
        latents = _kept(moments, project, plan, keys, tell)
        stills: dict[int, np.ndarray] = {}
        pictures = _pictures(clock.each("decode", codec.stream(latents)), plan, stills)
        with clock.phase("mux"):
            film = write_film(
                pictures,
                job.output,
                fps=plan.fps,
                size=plan.size,
                frames_total=plan.frames,
                chapters=chapters_of(plan),
                audio=_audio(job.storyboard),
                metadata=_manifest(job) if job.order.metadata else None,
                title=job.storyboard.title if job.order.metadata else "",
            )
        labels = [f"{chunk.number}. {chunk.caption}" for chunk in plan.chunks if chunk.number in stills]
        contact_sheet([stills[number] for number in sorted(stills)], labels, project.folder / "sheet.png")
    return film


def _load(
    job: Job, tell: Tell, clock: Clock, around: Callable[[Denoiser], Denoiser]
) -> tuple[Rollout, list[Run], Codec]:
    """Text, network and codec, and what is drawn by which recipe."""
    with clock.phase("text"), _memory_of("text"):
        tell(Event("text"))
        script = Script(job.plan, text_encoder(job.card.text), 2 if job.guided else 1, job.device)
    with clock.phase("load"), _memory_of("load"):
        tell(Event("load"))
        denoiser = load_denoiser(job.card, job.device, job.dtype)
        codec = load_codec(job.card, job.device)
    rollout = Rollout(job.plan, job.recipes[0].memory(), denoiser.rope, denoiser.patch, script, job.device)
    return rollout, _runs(job, around(denoiser)), codec


def _runs(job: Job, denoiser: Denoiser) -> list[Run]:
    """Consecutive blocks of one recipe."""
    groups = groupby(job.plan.blocks, key=lambda block: id(job.recipes[block.chunk - 1]))
    runs = []
    for _, group in groups:
        blocks = tuple(group)
        recipe = job.recipes[blocks[0].chunk - 1]
        runs.append(Run(blocks, recipe, Guided(denoiser, recipe.guidance) if job.guided else denoiser))
    return runs


def _finished(project: Project, plan: Plan, keys: list[str]) -> Iterator[tuple[int, torch.Tensor]]:
    """Blocks that an earlier render finished, by number; up to the first chunk that is not whole."""
    for chunk, key in zip(plan.chunks, keys, strict=True):
        latents = project.load_take(chunk.number, key)
        at = 0
        for block in chunk.blocks:
            if latents is None or len(latents) < at + block.frames or latents.shape[1:] != plan.latent:
                return
            yield block.number, latents[at : at + block.frames]
            at += block.frames


def _kept(
    moments: Iterator[Moment], project: Project, plan: Plan, keys: list[str], tell: Tell
) -> Iterator[torch.Tensor]:
    """The latents of each finished block, in order, once they are safe on disk."""
    so_far: list[torch.Tensor] = []
    for moment in moments:
        for block, latents in moment.finished:
            chunk = plan.chunks[block.chunk - 1]
            so_far = [latents] if block.number == chunk.blocks[0].number else [*so_far, latents]
            if not torch.isfinite(latents).all():
                raise BlockvidError(f"block {block.number + 1} (chunk {block.chunk}) came out as not-a-number.")
            if not moment.resumed:
                total = sum(part.frames for part in chunk.blocks)
                project.save_take(chunk.number, torch.cat(so_far).float().cpu(), keys[chunk.number - 1], total)
        tell(Event("draw", moment=moment))
        for _, latents in moment.finished:
            yield latents


def _pictures(decoded: Iterator[torch.Tensor], plan: Plan, stills: dict[int, np.ndarray]) -> Iterator[np.ndarray]:
    """Frames (H, W, 3) uint8 one by one; the middle one of each chunk is kept in ``stills``."""
    middles = {(chunk.first_frame + chunk.end_frame) // 2: chunk.number for chunk in plan.chunks}
    number = 0
    for frames in decoded:
        for picture in as_pictures(frames):
            if number in middles:
                stills[middles[number]] = picture
            yield picture
            number += 1


def _keys(job: Job) -> list[str]:
    """A content hash a chunk: it changes when anything that decides its latents does, or an earlier chunk's does.

    Where blocks are drawn beside later ones, the whole film decides.
    """
    base = {
        "weights": _sha256(job.card.path(job.card.network)),
        "recipe": job.values,
        "size": list(job.plan.size),
        "seed": job.plan.seed,
        "text": job.card.text.model_dump(),
        "dtype": str(job.dtype),
        "guided": job.guided,
    }
    parts = [
        {
            "caption": chunk.blocks[0].caption,
            "compared": chunk.caption,
            "negative": chunk.blocks[0].negative,
            "seed": chunk.seed,
            "cut": chunk.cut,
            "first": chunk.blocks[0].first,
            "blocks": len(chunk.blocks) if recipe.noise.whole_chunk else None,
            "recipe": written.recipe,
        }
        for chunk, written, recipe in zip(job.plan.chunks, job.storyboard.chunks, job.recipes, strict=True)
    ]
    joint = any(recipe.schedule.joint for recipe in job.recipes)
    return chunk_keys(parts, {**base, "film": parts if joint else None})


def _manifest(job: Job) -> dict[str, Any]:
    """Everything needed to draw the film again."""
    chunks = [
        {"caption": chunk.caption, "start": chunk.start, "end": chunk.end, "seed": chunk.seed}
        for chunk in job.plan.chunks
    ]
    return {
        "blockvid": __version__,
        "torch": torch.__version__,
        "title": job.storyboard.title,
        "model": job.card.name,
        "seed": job.plan.seed,
        "size": list(job.plan.size),
        "fps": job.plan.fps,
        "frames": job.plan.frames,
        "device": job.device.split(":")[0],
        "dtype": str(job.dtype).removeprefix("torch."),
        "style": job.storyboard.style,
        "negative": job.storyboard.negative,
        "recipe": job.values,
        "chunks": chunks,
    }


def _audio(storyboard: Storyboard) -> Audio | None:
    sound = storyboard.audio
    return Audio(sound.file, sound.start, sound.volume, sound.fade_in, sound.fade_out) if sound else None


def _guarded(moments: Iterator[Moment]) -> Iterator[Moment]:
    """The same moments; running out of memory names the phase."""
    with _memory_of("denoise"):
        yield from moments


@contextmanager
def _memory_of(phase: str) -> Iterator[None]:
    """Turns running out of memory into a sentence that names the phase."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise OutOfMemoryError(
            f"not enough memory to {phase}; every finished block is kept. A smaller --size, a memory that keeps less"
            " (--memory window) or --guidance-scale 1 needs less."
        ) from error


def _size(text: str | None) -> tuple[int, int] | None:
    try:
        return parse_size(text) if text else None
    except ValueError as error:
        raise UsageError(f"--size: {error}.") from error


def _device(name: str) -> str:
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"--device: there is no device '{name}' here; give auto, cpu or cuda:0.") from error
    return name


def _dtype(name: str, device: str) -> torch.dtype:
    if name == "auto":
        return torch.float32 if device == "cpu" else torch.bfloat16
    if name not in DTYPES:
        raise UsageError(f"--dtype: give auto, fp32, bf16 or fp16; not '{name}'.")
    return DTYPES[name]


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else ""
