"""The whole way, in order: storyboard -> plan -> text -> rollout -> codec -> film.

    job = prepare(Order(Path("story.yaml")))      order.py: reads and checks everything; loads no weights
    film = render(job)                            draws what is missing, writes story.mp4

A chain of iterators: the first pictures are in the encoder while later blocks are still noise, and every finished block
is on disk before the next begins.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TypeVar

import numpy as np
import torch

from blockvid_cli.clock import Clock
from blockvid_cli.codec.stream import Codec
from blockvid_cli.denoiser.guidance import Guided
from blockvid_cli.denoiser.offload import brought_in_turn, waits
from blockvid_cli.denoiser.wan import Denoiser
from blockvid_cli.errors import OutOfMemoryError
from blockvid_cli.film.mux import Film, write_film
from blockvid_cli.film.pictures import pictures_of, watched
from blockvid_cli.film.project import Project, folder_beside
from blockvid_cli.film.sheet import contact_sheet
from blockvid_cli.film.subtitles import chapters_of
from blockvid_cli.hub import require
from blockvid_cli.manifest import content_keys, manifest
from blockvid_cli.order import Job
from blockvid_cli.rollout.given import encoded
from blockvid_cli.rollout.loop import Moment, Rollout, Run
from blockvid_cli.rollout.memories.storage import storage
from blockvid_cli.story.plan import Plan
from blockvid_cli.text.encoders import text_encoder
from blockvid_cli.text.script import Script
from blockvid_cli.zoo.budget import GIB, told
from blockvid_cli.zoo.load import load_codec, load_denoiser
from blockvid_cli.zoo.profile import below, profile

STARVED = ("can't allocate memory", "out of memory", "ALLOC_FAILED")  # the CPU's, CUDA's, and its libraries'
EMPTY = 1e-3  # deviation of a block's latents, which is about 1
MEMORY = ".memory"  # the folder of a memory on disk, in the project
TOLD_FROM = GIB  # films that need more are told of before anything is loaded


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
    clock, keys = clock or Clock(), content_keys(job)
    while True:
        try:
            return _render(job, keys, tell, clock, around)
        except OutOfMemoryError as error:
            lower = below(job.drawn, job.order.means) if job.order.retry else None
            if lower is None:
                raise
            tell(Event("note", f"{error} Going on with the profile {lower}; chunks drawn so far stay as they are."))
        _let_go(job.device)  # after the error, which holds on to all that was loaded
        means = replace(job.order.means, profile=lower)
        order = replace(job.order, fresh=False, means=means)
        job = replace(job, order=order, drawn=profile(lower, job.device, means))


def _render(job: Job, keys: list[str], tell: Tell, clock: Clock, around: Callable[[Denoiser], Denoiser]) -> Film:
    """One try at a film; ``keys`` are those of the profile that was asked for first."""
    plan = job.plan
    require(job.card)
    identity = {"model": job.model, "size": list(plan.size), "fps": plan.fps}
    folder = folder_beside(job.output)
    with Project.open(folder, identity, job.order.fresh) as project:
        project.write_manifest(manifest(job))
        if (needs := job.budget()).peak > TOLD_FROM:
            tell(Event("note", told(job.drawn, needs, job.free)))
        rollout, runs, codec = _load(job, tell, clock, around)
        done = dict(_finished(project, plan, keys))
        for note in (*job.notes, *project.notes):
            tell(Event("note", note))
        moments = clock.each("draw", _guarded("denoise", rollout.moments(runs, done)))
        del rollout, runs  # the moments alone hold the network now
        latents = _kept(moments, project, plan, keys, tell)
        if job.drawn.in_turns:
            latents = _after_all(latents, codec, job.device)
        stills: dict[int, np.ndarray] = {}
        decoded = clock.each("decode", _guarded("decode", codec.stream(latents)))
        pictures = pictures_of(watched(decoded, plan, lambda note: tell(Event("note", note))), plan, stills)
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
    require(job.card)
    rollout, runs, codec = _load(job)
    codec.to(job.device)
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
        script = Script(job.plan, text_encoder(job.card, job.drawn.text_device), job.rows, job.device)
    with clock.phase("load"), _memory_of("load"):
        tell(Event("load"))
        drawn = job.drawn
        denoiser = load_denoiser(job.card, "cpu" if waits(drawn.offload) else job.device, drawn.precision, job.plan.fps)
        if waits(drawn.offload):
            brought_in_turn(denoiser.network, drawn.offload, job.device)
        codec = load_codec(job.card, "cpu" if drawn.in_turns else job.device, drawn.codec_dtype, drawn.tiled)
        given = encoded({n: guide.pixels for n, guide in job.guides.items()}, codec, job.card.latent.time)
    memory = job.recipes[0].memory()
    rollout = Rollout(job.plan, memory, denoiser.rope, denoiser.patch, script, job.device, given)
    memory.storage = storage(
        drawn.storage, drawn.storage_dtype, drawn.at_hand, folder_beside(job.output) / MEMORY, rollout.again
    )
    return rollout, _runs(job, around(denoiser)), codec


def _after_all(latents: Iterator[torch.Tensor], codec: Codec, device: str) -> Iterator[torch.Tensor]:
    """The same latents once all are drawn and the network has left the device to the codec."""
    whole = list(latents)
    _let_go(device)
    codec.to(device)
    yield from whole


def _let_go(device: str) -> None:
    """Gives back what nothing holds any more."""
    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.empty_cache()


def _runs(job: Job, denoiser: Denoiser) -> list[Run]:
    """Consecutive blocks of one recipe."""
    groups = groupby(job.plan.blocks, key=lambda block: id(job.recipes[block.chunk - 1]))
    runs = []
    for _, group in groups:
        blocks = tuple(group)
        recipe = job.recipes[blocks[0].chunk - 1]
        in_turn = not recipe.memory().remembers
        runs.append(Run(blocks, recipe, Guided(denoiser, recipe.guidance, in_turn) if job.guided else denoiser))
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
            if not moment.resumed and float(latents.std((1, 2, 3)).max()) < EMPTY:
                tell(Event("note", f"chunk {block.chunk}: block {block.number + 1} came out empty."))
            if not moment.resumed:
                total = sum(part.frames for part in chunk.blocks)
                project.save_take(chunk.number, torch.cat(so_far).float().cpu(), keys[chunk.number - 1], total)
        tell(Event("draw", moment=moment))
        for _, latents in moment.finished:
            yield latents


@torch.inference_mode()
def _guarded(phase: str, items: Iterator[Item]) -> Iterator[Item]:
    """The same items, drawn without gradients; running out of memory names the phase."""
    with _memory_of(phase):
        yield from items


def starved(error: RuntimeError) -> bool:
    """Whether an error of torch means that memory ran out, on an accelerator or on the CPU."""
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in STARVED)


@contextmanager
def _memory_of(phase: str) -> Iterator[None]:
    """Turns running out of memory into a sentence that names the phase."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, RuntimeError) and not starved(error):
            raise
        raise OutOfMemoryError(
            f"not enough memory to {phase}; every finished block is kept. A lower --profile, a smaller --size, a memory"
            " that keeps less (--memory window) or --guidance-scale 1 needs less."
        ) from error
