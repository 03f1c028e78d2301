"""From a job to clean latents: what is there already, what is drawn now, kept block by block.

job -> text, network, codec -> runs -> rollout -> moments -> each finished block on disk -> latents
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import groupby, islice
from typing import TypeVar

import torch

from blockvid_cli.errors import OutOfMemoryError
from blockvid_cli.job import Job
from blockvid_cli.models.offload import brought_in_turn, waits
from blockvid_cli.models.prompt_embeddings import Script
from blockvid_cli.models.registry import load_codec, load_denoiser
from blockvid_cli.models.text_encoders import text_encoder
from blockvid_cli.models.vae import Codec
from blockvid_cli.models.wan.denoiser import Denoiser
from blockvid_cli.project.cache_keys import Chain
from blockvid_cli.project.project import Project, folder_beside
from blockvid_cli.rollout.conditioning import encoded
from blockvid_cli.rollout.guidance import Guided
from blockvid_cli.rollout.kv_cache.storage import storage
from blockvid_cli.rollout.rollout import StepResult, Rollout, Run
from blockvid_cli.rollout.schedules.block import BlockByBlock
from blockvid_cli.rollout.schedules.infill import Between
from blockvid_cli.timing import Clock

STARVED = ("can't allocate memory", "out of memory", "ALLOC_FAILED")  # the CPU's, CUDA's, and its libraries'
EMPTY = 1e-3  # deviation of a block's latents, which is about 1
MEMORY = ".memory"  # the folder of a memory on disk, in the project


@dataclass(frozen=True)
class Event:
    """Something to tell: a phase begins, a step is done, a note.

    Args:
        moment: only while drawing.
        kept: by chunk, how many of how many tokens the memory kept of it, where it chose just now.
    """

    phase: str
    note: str = ""
    moment: StepResult | None = None
    kept: Mapping[int, tuple[int, int]] = field(default_factory=dict)


Tell = Callable[[Event], None]
Item = TypeVar("Item")
Around = Callable[[Denoiser], Denoiser]
Loaded = tuple[Rollout, list[Run], Codec]


@dataclass(frozen=True)
class Work:
    """A film on its way: what is drawn, by which keys it is kept, in which project, and who hears of it."""

    job: Job
    chain: Chain
    project: Project
    tell: Tell
    clock: Clock


def latents_of(
    work: Work, loaded: Loaded, blocks: int | None = None, given: Mapping[int, torch.Tensor] | None = None
) -> Iterator[torch.Tensor]:
    """The clean latents of each block, or of so many, in order, once they are safe on disk.

    The iterator alone holds what was loaded, if the caller lets it go. ``given`` are clean latents by block that are
    used before those of the project.
    """
    rollout, runs, codec = loaded
    done = {**dict(finished(work)), **(given or {})}
    runs = [_seeing(run, done) for run in runs]
    moments = work.clock.each("draw", guarded("denoise", rollout.moments(runs, done)))
    latents = islice(_kept(moments, work, rollout.memory.shares), blocks)
    return _after_all(latents, codec, work.job.device) if work.job.drawn.in_turns else latents


def load(
    job: Job,
    tell: Tell = lambda event: None,
    clock: Clock | None = None,
    around: Around = lambda denoiser: denoiser,
    alone: frozenset[int] = frozenset(),
) -> Loaded:
    """Text, network and codec, and what is drawn by which recipe; ``alone`` are chunks whose neighbours stay."""
    clock = clock or Clock()
    with clock.phase("text"), memory_of("text"):
        tell(Event("text"))
        script = Script(job.plan, text_encoder(job.card, job.drawn.text_device), job.rows, job.device)
    with clock.phase("load"), memory_of("load"):
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
    return rollout, _runs(job, around(denoiser), alone), codec


def _after_all(latents: Iterator[torch.Tensor], codec: Codec, device: str) -> Iterator[torch.Tensor]:
    """The same latents once all are drawn and the network has left the device to the codec."""
    whole = list(latents)
    let_go(device)
    codec.to(device)
    yield from whole


def let_go(device: str) -> None:
    """Gives back what nothing holds any more."""
    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.empty_cache()


def _runs(job: Job, denoiser: Denoiser, alone: frozenset[int]) -> list[Run]:
    """Consecutive blocks of one recipe; a chunk whose neighbours stay is its own run, and sees what comes after."""
    own = {chunk: chunk for chunk in alone}
    groups = groupby(job.plan.blocks, key=lambda block: (id(job.recipes[block.chunk - 1]), own.get(block.chunk)))
    runs = []
    for _, group in groups:
        blocks = tuple(group)
        chunk, recipe = blocks[0].chunk, job.recipes[blocks[0].chunk - 1]
        if chunk in alone and chunk < len(job.plan.chunks) and not job.plan.chunks[chunk].cut:
            recipe = replace(recipe, schedule=Between())
        in_turn = not recipe.memory().remembers
        runs.append(Run(blocks, recipe, Guided(denoiser, recipe.guidance, in_turn) if job.guided else denoiser))
    return runs


def _seeing(run: Run, done: Mapping[int, torch.Tensor]) -> Run:
    """A run between neighbours sees what comes after it only if that is there."""
    if not isinstance(run.recipe.schedule, Between) or run.blocks[-1].number + 1 in done:
        return run
    return replace(run, recipe=replace(run.recipe, schedule=BlockByBlock()))


def finished(work: Work) -> Iterator[tuple[int, torch.Tensor]]:
    """Blocks that an earlier render finished, by number."""
    plan = work.job.plan
    for chunk, key in zip(plan.chunks, work.chain.keys, strict=True):
        latents = work.project.load_take(chunk.number, key, chunk.take)
        if latents is None or latents.shape[1:] != plan.latent:
            continue
        at = 0
        for block in chunk.blocks:
            if len(latents) >= at + block.frames:
                yield block.number, latents[at : at + block.frames]
            at += block.frames


def _kept(moments: Iterator[StepResult], work: Work, shares: Mapping[int, tuple[int, int]]) -> Iterator[torch.Tensor]:
    """The latents of each finished block, in order, once they are safe on disk."""
    so_far: list[torch.Tensor] = []
    for moment in moments:
        for block, latents in moment.finished:
            chunk = work.job.plan.chunks[block.chunk - 1]
            so_far = [latents] if block.number == chunk.blocks[0].number else [*so_far, latents]
            if not moment.resumed and float(latents.std((1, 2, 3)).max()) < EMPTY:
                work.tell(Event("note", f"chunk {block.chunk}: block {block.number + 1} came out empty."))
            if not moment.resumed:
                total, key = sum(part.frames for part in chunk.blocks), work.chain.keys[chunk.number - 1]
                work.project.save_take(chunk.number, torch.cat(so_far).float().cpu(), key, total, chunk.take)
        chunks = {block.chunk for block, _ in moment.finished}
        work.tell(Event("draw", moment=moment, kept={chunk: shares[chunk] for chunk in chunks & shares.keys()}))
        yield from (latents for _, latents in moment.finished)


@torch.inference_mode()
def guarded(phase: str, items: Iterator[Item]) -> Iterator[Item]:
    """The same items, drawn without gradients; running out of memory names the phase."""
    with memory_of(phase):
        yield from items


def starved(error: RuntimeError) -> bool:
    """Whether an error of torch means that memory ran out, on an accelerator or on the CPU."""
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in STARVED)


@contextmanager
def memory_of(phase: str) -> Iterator[None]:
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
