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
from blockvid_cli.job import RenderJob
from blockvid_cli.models.offload import enable_offload, offloads_by_module
from blockvid_cli.models.prompt_embeddings import PromptEmbeddings
from blockvid_cli.models.loading import load_vae, load_denoiser
from blockvid_cli.models.loading import load_text_encoder
from blockvid_cli.models.vae import VAE
from blockvid_cli.models.wan.denoiser import Denoiser
from blockvid_cli.project.cache_keys import ChunkKeys
from blockvid_cli.project.project import Project, project_folder
from blockvid_cli.rollout.conditioning import encode_frames
from blockvid_cli.rollout.kv_cache.storage import make_storage
from blockvid_cli.rollout.rollout import StepResult, Rollout, RolloutSegment
from blockvid_cli.rollout.schedules.block import InfillSchedule
from blockvid_cli.timing import PhaseTimer

OUT_OF_MEMORY_WORDS = ("can't allocate memory", "out of memory", "ALLOC_FAILED")  # the CPU's, CUDA's, and its libraries'
MIN_LATENT_STD = 1e-3  # deviation of a block's latents, which is about 1
KV_CACHE_FOLDER = ".memory"  # the folder of a memory on disk, in the project


@dataclass(frozen=True)
class Event:
    """Something to tell: a phase begins, a step is done, a note.

    Args:
        moment: only while drawing.
        kept: by chunk, how many of how many tokens the memory kept of it, where it chose just now.
    """

    phase: str
    note: str = ""
    step: StepResult | None = None
    cached_tokens: Mapping[int, tuple[int, int]] = field(default_factory=dict)


EventListener = Callable[[Event], None]
Item = TypeVar("Item")
DenoiserWrapper = Callable[[Denoiser], Denoiser]
Loaded = tuple[Rollout, list[RolloutSegment], VAE]


@dataclass(frozen=True)
class RenderSession:
    """A film on its way: what is drawn, by which keys it is kept, in which project, and who hears of it."""

    job: RenderJob
    chain: ChunkKeys
    project: Project
    notify: EventListener
    clock: PhaseTimer


def stream_latents(
    work: RenderSession, loaded: Loaded, blocks: int | None = None, given: Mapping[int, torch.Tensor] | None = None
) -> Iterator[torch.Tensor]:
    """The clean latents of each block, or of so many, in order, once they are safe on disk.

    The iterator alone holds what was loaded, if the caller lets it go. ``given`` are clean latents by block that are
    used before those of the project.
    """
    rollout, runs, codec = loaded
    done = {**dict(finished_blocks(work)), **(given or {})}
    moments = work.clock.each("denoise", no_grad_oom_guard("denoise", rollout.run(runs, done)))
    latents = islice(_kept(moments, work, rollout.kv_cache.token_counts), blocks)
    return _after_all(latents, codec, work.job.device) if work.job.preset.frees_transformer else latents


def load(
    job: RenderJob,
    tell: EventListener = lambda event: None,
    clock: PhaseTimer | None = None,
    around: DenoiserWrapper = lambda denoiser: denoiser,
    alone: frozenset[int] = frozenset(),
) -> Loaded:
    """Text, network and codec, and what is drawn by which recipe; ``alone`` are chunks whose neighbours stay."""
    clock = clock or PhaseTimer()
    with clock.phase("text"), oom_guard("text"):
        tell(Event("text"))
        script = PromptEmbeddings(job.plan, load_text_encoder(job.card, job.preset.text_device), job.rows, job.device)
    with clock.phase("load"), oom_guard("load"):
        tell(Event("load"))
        drawn = job.preset
        denoiser = load_denoiser(job.card, "cpu" if offloads_by_module(drawn.offload) else job.device, drawn.precision, job.plan.fps)
        if offloads_by_module(drawn.offload):
            enable_offload(denoiser.network, drawn.offload, job.device)
        codec = load_vae(job.card, "cpu" if drawn.frees_transformer else job.device, drawn.vae_dtype, drawn.vae_tiling)
        given = encode_frames({n: guide.pixels for n, guide in job.reference_images.items()}, codec, job.card.latent.time)
    memory = job.recipes[0].kv_cache()
    rollout = Rollout(job.plan, memory, denoiser.rope, denoiser.patch, script, job.device, given)
    memory.storage = make_storage(
        drawn.kv_storage, drawn.kv_dtype, drawn.kv_resident, project_folder(job.output) / KV_CACHE_FOLDER, rollout.recompute
    )
    return rollout, _runs(job, around(denoiser), alone), codec


def _after_all(latents: Iterator[torch.Tensor], codec: VAE, device: str) -> Iterator[torch.Tensor]:
    """The same latents once all are drawn and the network has left the device to the codec."""
    whole = list(latents)
    empty_cache(device)
    codec.to(device)
    yield from whole


def empty_cache(device: str) -> None:
    """Gives back what nothing holds any more."""
    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.empty_cache()


def _runs(job: RenderJob, denoiser: Denoiser, alone: frozenset[int]) -> list[RolloutSegment]:
    """Consecutive blocks of one recipe; a chunk whose neighbours stay is its own run, and sees what comes after."""
    own = {chunk: chunk for chunk in alone}
    groups = groupby(job.plan.blocks, key=lambda block: (job.recipes[block.chunk - 1], own.get(block.chunk)))
    runs = []
    for _, group in groups:
        blocks = tuple(group)
        chunk, recipe = blocks[0].chunk, job.recipes[blocks[0].chunk - 1]
        if chunk in alone and chunk < len(job.plan.chunks) and not job.plan.chunks[chunk].cut:
            recipe = replace(recipe, schedule=InfillSchedule())
        in_turn = not recipe.kv_cache().needs_update
        runs.append(RolloutSegment(blocks, recipe, recipe.guidance.wrap(denoiser, job.rows, in_turn)))
    return runs


def finished_blocks(work: RenderSession) -> Iterator[tuple[int, torch.Tensor]]:
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


def _kept(moments: Iterator[StepResult], work: RenderSession, shares: Mapping[int, tuple[int, int]]) -> Iterator[torch.Tensor]:
    """The latents of each finished block, in order, once they are safe on disk."""
    so_far: list[torch.Tensor] = []
    for moment in moments:
        for block, latents in moment.finished:
            chunk = work.job.plan.chunks[block.chunk - 1]
            so_far = [latents] if block.number == chunk.blocks[0].number else [*so_far, latents]
            if not moment.resumed and float(latents.std((1, 2, 3)).max()) < MIN_LATENT_STD:
                work.notify(Event("note", f"chunk {block.chunk}: block {block.number + 1} came out empty."))
            if not moment.resumed:
                total, key = sum(part.frames for part in chunk.blocks), work.chain.keys[chunk.number - 1]
                work.project.save_take(chunk.number, torch.cat(so_far).float().cpu(), key, total, chunk.take)
        chunks = {block.chunk for block, _ in moment.finished}
        work.notify(Event("denoise", step=moment, cached_tokens={chunk: shares[chunk] for chunk in chunks & shares.keys()}))
        yield from (latents for _, latents in moment.finished)


@torch.inference_mode()
def no_grad_oom_guard(phase: str, items: Iterator[Item]) -> Iterator[Item]:
    """The same items, drawn without gradients; running out of memory names the phase."""
    with oom_guard(phase):
        yield from items


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether an error of torch means that memory ran out, on an accelerator or on the CPU."""
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in OUT_OF_MEMORY_WORDS)


@contextmanager
def oom_guard(phase: str) -> Iterator[None]:
    """Turns running out of memory into a sentence that names the phase."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, RuntimeError) and not is_out_of_memory(error):
            raise
        raise OutOfMemoryError(
            f"not enough memory to {phase}; every finished block is kept. A lower --preset, a smaller --size, a memory"
            " that keeps less (--memory window) or --guidance-scale 1 needs less."
        ) from error
