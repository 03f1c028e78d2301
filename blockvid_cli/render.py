"""The whole way, in order: storyboard -> plan -> text -> rollout -> codec -> film.

    job = prepare(Order(Path("story.yaml")))      order.py: reads and checks everything; loads no weights
    film = render(job)                            draws what is missing, writes story.mp4

A chain of iterators: the first pictures are in the encoder while later blocks are still noise, and every finished block
is on disk before the next begins.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch

from blockvid_cli.errors import OutOfMemoryError
from blockvid_cli.job import RenderJob
from blockvid_cli.manifest import content, manifest
from blockvid_cli.models.hub import fingerprint, require
from blockvid_cli.project.cache_keys import ChunkKeys, write_take_choices
from blockvid_cli.project.decoded_cache import DecodedVideoCache
from blockvid_cli.project.project import Project, project_folder
from blockvid_cli.runtime.memory_estimate import GIB, format_plan
from blockvid_cli.runtime.presets import next_lower_preset, resolve_preset
from blockvid_cli.session import DenoiserWrapper, Event, EventListener, RenderSession, finished_blocks, no_grad_oom_guard, stream_latents, empty_cache, load
from blockvid_cli.timing import PhaseTimer
from blockvid_cli.video.contact_sheet import contact_sheet
from blockvid_cli.video.frames import film_frames, warn_degenerate_blocks
from blockvid_cli.video.mux import Film, mux_film, write_video, check_video_spec
from blockvid_cli.video.spec import video_spec

TOLD_FROM = GIB  # films that need more are told of before anything is loaded


def render(
    job: RenderJob,
    tell: EventListener = lambda event: None,
    clock: PhaseTimer | None = None,
    around: DenoiserWrapper = lambda denoiser: denoiser,
) -> Film:
    """Draws what is missing, keeps every finished block, and writes the film; called again, it goes on.

    ``around`` may put a denoiser of its own around the model's, to measure it for instance.

    Raises:
        BlockvidError: with the exit code that fits; what is finished is kept.
    """
    clock, chain = clock or PhaseTimer(), content(job)
    while True:
        try:
            return _render(job, chain, tell, clock, around)
        except OutOfMemoryError as error:
            lower = next_lower_preset(job.preset, job.request.runtime) if job.request.retry else None
            if lower is None:
                raise
            tell(Event("note", f"{error} Going on with the profile {lower}; chunks drawn so far stay as they are."))
        empty_cache(job.device)  # after the error, which holds on to all that was loaded
        means = replace(job.request.runtime, profile=lower)
        order = replace(job.request, fresh=False, runtime=means)
        job = replace(job, order=order, drawn=resolve_preset(lower, job.device, means))


def _render(job: RenderJob, chain: ChunkKeys, tell: EventListener, clock: PhaseTimer, around: DenoiserWrapper) -> Film:
    """One try at a film; ``chain`` is that of the profile that was asked for first."""
    look = video_spec(job.storyboard, job.plan, manifest(job) if job.request.metadata else None)
    check_video_spec(look)  # a sound that cannot be played is told of before anything is drawn
    with open_project(job) as project:
        work = RenderSession(job, chain, project, tell, clock)
        write_take_choices(project.folder, job.takes)
        project.write_manifest({**manifest(job), "keys": chain.keys, "links": chain.links})
        kept = DecodedVideoCache(project.folder, chain, job.plan, fingerprint(job.card, (job.card.vae,)))
        if len(dict(finished_blocks(work))) < len(job.plan.blocks) or not kept.is_valid():
            _draw(work, kept, around)
        for note in (*job.notes, *project.notes):
            tell(Event("note", note))
        with clock.phase("mux"):
            return mux_film(kept.video, job.output, look)


def _draw(work: RenderSession, kept: DecodedVideoCache, around: DenoiserWrapper) -> None:
    """Draws what is missing, and keeps the film's pictures."""
    job, plan, tell, clock = work.job, work.job.plan, work.notify, work.clock
    if (needs := job.budget()).peak > TOLD_FROM:
        tell(Event("note", format_plan(job.preset, needs, job.free_memory)))
    loaded = load(job, tell, clock, around, work.chain.alone)
    codec, latents = loaded[2], stream_latents(work, loaded)
    del loaded  # the latents alone hold the network now
    stills: dict[int, np.ndarray] = {}
    decoded = clock.each("decode", no_grad_oom_guard("decode", codec.stream(latents)))
    pictures = film_frames(warn_degenerate_blocks(decoded, plan, lambda note: tell(Event("note", note))), plan, stills)
    with clock.phase("mux"):
        write_video(pictures, kept.video, fps=plan.fps, size=plan.size, frames_total=plan.frames)
    labels = [f"{chunk.number}. {chunk.caption}" for chunk in plan.chunks if chunk.number in stills]
    contact_sheet([stills[number] for number in sorted(stills)], labels, work.project.folder / "sheet.png")
    kept.commit()


def open_project(job: RenderJob) -> Project:
    """The project of a job, locked, once its model is here."""
    require(job.card)
    identity = {"model": job.model, "size": list(job.plan.size), "fps": job.plan.fps}
    return Project.open(project_folder(job.output), identity, job.request.fresh)


@torch.inference_mode()
def stream_frames(job: RenderJob) -> Iterator[torch.Tensor]:
    """The film's frames (F, 3, H, W) in 0..1, block by block; nothing is kept or written. For measures."""
    require(job.card)
    rollout, runs, codec = load(job)
    codec.to(job.device)
    yield from codec.stream(latents for moment in rollout.run(runs) for _, latents in moment.finished)
