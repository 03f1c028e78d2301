"""The whole way, in order: storyboard -> plan -> text -> rollout -> codec -> film.

    job = prepare(Order(Path("story.yaml")))      order.py: reads and checks everything; loads no weights
    film = render(job)                            draws what is missing, writes story.mp4

A chain of iterators: the first pictures are in the encoder while later blocks are still noise, and every finished block
is on disk before the next begins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import TypeVar

import numpy as np
import torch

from blockvid_cli.clock import Clock
from blockvid_cli.codec.stream import Codec, as_pictures
from blockvid_cli.denoiser.guidance import Guided
from blockvid_cli.denoiser.wan import Denoiser
from blockvid_cli.errors import OutOfMemoryError
from blockvid_cli.film.mux import Film, write_film
from blockvid_cli.film.project import Project, folder_beside
from blockvid_cli.film.sheet import contact_sheet, small
from blockvid_cli.film.subtitles import chapters_of
from blockvid_cli.order import Job, content_keys, manifest
from blockvid_cli.rollout.loop import Moment, Rollout, Run
from blockvid_cli.story.plan import Plan
from blockvid_cli.text.encoders import text_encoder
from blockvid_cli.text.script import Script
from blockvid_cli.zoo.load import load_codec, load_denoiser


@dataclass(frozen=True)
class Event:
    """Something to tell: a phase begins, a step is done, a note. ``moment`` only while drawing."""

    phase: str
    note: str = ""
    moment: Moment | None = None


Tell = Callable[[Event], None]
Item = TypeVar("Item")


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
    identity = {"model": job.model, "size": list(plan.size), "fps": plan.fps}
    with Project.open(folder_beside(job.output), identity, job.order.fresh) as project:
        project.write_manifest(manifest(job))
        rollout, runs, codec = _load(job, tell, clock, around)
        keys = content_keys(job)
        done = dict(_finished(project, plan, keys))
        for note in (*job.storyboard.notes, *project.notes):
            tell(Event("note", note))
        moments = clock.each("draw", _guarded("denoise", rollout.moments(runs, done)))
        latents = _kept(moments, project, plan, keys, tell)
        stills: dict[int, np.ndarray] = {}
        pictures = _pictures(clock.each("decode", _guarded("decode", codec.stream(latents))), plan, stills)
        with clock.phase("mux"):
            film = write_film(
                pictures,
                job.output,
                fps=plan.fps,
                size=plan.size,
                frames_total=plan.frames,
                chapters=chapters_of(plan),
                audio=job.storyboard.audio,
                metadata=manifest(job) if job.order.metadata else None,
                title=job.storyboard.title if job.order.metadata else "",
            )
        labels = [f"{chunk.number}. {chunk.caption}" for chunk in plan.chunks if chunk.number in stills]
        contact_sheet([stills[number] for number in sorted(stills)], labels, project.folder / "sheet.png")
    return film


@torch.inference_mode()
def frames_of(job: Job) -> Iterator[torch.Tensor]:
    """The film's frames (F, 3, H, W) in 0..1, block by block; nothing is kept or written. For measures."""
    rollout, runs, codec = _load(job)
    yield from codec.stream(latents for moment in rollout.moments(runs) for _, latents in moment.finished)


def _load(
    job: Job,
    tell: Tell = lambda event: None,
    clock: Clock | None = None,
    around: Callable[[Denoiser], Denoiser] = lambda denoiser: denoiser,
) -> tuple[Rollout, list[Run], Codec]:
    """Text, network and codec, and what is drawn by which recipe."""
    clock = clock or Clock()
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
                stills[middles[number]] = small(picture).copy()
            yield picture
            number += 1


@torch.inference_mode()
def _guarded(phase: str, items: Iterator[Item]) -> Iterator[Item]:
    """The same items, drawn without gradients; running out of memory names the phase."""
    with _memory_of(phase):
        yield from items


def starved(error: RuntimeError) -> bool:
    """Whether an error of torch means that memory ran out, on an accelerator or on the CPU."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


@contextmanager
def _memory_of(phase: str) -> Iterator[None]:
    """Turns running out of memory into a sentence that names the phase."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, RuntimeError) and not starved(error):
            raise
        raise OutOfMemoryError(
            f"not enough memory to {phase}; every finished block is kept. A smaller --size, a memory that keeps less"
            " (--memory window) or --guidance-scale 1 needs less."
        ) from error
