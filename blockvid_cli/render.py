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
from blockvid_cli.job import Job
from blockvid_cli.manifest import content, manifest
from blockvid_cli.models.hub import fingerprint, require
from blockvid_cli.project.cache_keys import Chain, write_choices
from blockvid_cli.project.decoded_cache import Kept
from blockvid_cli.project.project import Project, folder_beside
from blockvid_cli.runtime.memory_estimate import GIB, told
from blockvid_cli.runtime.presets import below, profile
from blockvid_cli.session import Around, Event, Tell, Work, finished, guarded, latents_of, let_go, load
from blockvid_cli.timing import Clock
from blockvid_cli.video.contact_sheet import contact_sheet
from blockvid_cli.video.frames import pictures_of, watched
from blockvid_cli.video.mux import Film, assemble, draw_pictures, try_out
from blockvid_cli.video.spec import look_of

TOLD_FROM = GIB  # films that need more are told of before anything is loaded


def render(
    job: Job,
    tell: Tell = lambda event: None,
    clock: Clock | None = None,
    around: Around = lambda denoiser: denoiser,
) -> Film:
    """Draws what is missing, keeps every finished block, and writes the film; called again, it goes on.

    ``around`` may put a denoiser of its own around the model's, to measure it for instance.

    Raises:
        BlockvidError: with the exit code that fits; what is finished is kept.
    """
    clock, chain = clock or Clock(), content(job)
    while True:
        try:
            return _render(job, chain, tell, clock, around)
        except OutOfMemoryError as error:
            lower = below(job.drawn, job.order.means) if job.order.retry else None
            if lower is None:
                raise
            tell(Event("note", f"{error} Going on with the profile {lower}; chunks drawn so far stay as they are."))
        let_go(job.device)  # after the error, which holds on to all that was loaded
        means = replace(job.order.means, profile=lower)
        order = replace(job.order, fresh=False, means=means)
        job = replace(job, order=order, drawn=profile(lower, job.device, means))


def _render(job: Job, chain: Chain, tell: Tell, clock: Clock, around: Around) -> Film:
    """One try at a film; ``chain`` is that of the profile that was asked for first."""
    look = look_of(job.storyboard, job.plan, manifest(job) if job.order.metadata else None)
    try_out(look)  # a sound that cannot be played is told of before anything is drawn
    with opened(job) as project:
        work = Work(job, chain, project, tell, clock)
        write_choices(project.folder, job.choices)
        project.write_manifest({**manifest(job), "keys": chain.keys, "links": chain.links})
        kept = Kept(project.folder, chain, job.plan, fingerprint(job.card, (job.card.codec,)))
        if len(dict(finished(work))) < len(job.plan.blocks) or not kept.there():
            _draw(work, kept, around)
        for note in (*job.notes, *project.notes):
            tell(Event("note", note))
        with clock.phase("mux"):
            return assemble(kept.pictures, job.output, look)


def _draw(work: Work, kept: Kept, around: Around) -> None:
    """Draws what is missing, and keeps the film's pictures."""
    job, plan, tell, clock = work.job, work.job.plan, work.tell, work.clock
    if (needs := job.budget()).peak > TOLD_FROM:
        tell(Event("note", told(job.drawn, needs, job.free)))
    loaded = load(job, tell, clock, around, work.chain.alone)
    codec, latents = loaded[2], latents_of(work, loaded)
    del loaded  # the latents alone hold the network now
    stills: dict[int, np.ndarray] = {}
    decoded = clock.each("decode", guarded("decode", codec.stream(latents)))
    pictures = pictures_of(watched(decoded, plan, lambda note: tell(Event("note", note))), plan, stills)
    with clock.phase("mux"):
        draw_pictures(pictures, kept.pictures, fps=plan.fps, size=plan.size, frames_total=plan.frames)
    labels = [f"{chunk.number}. {chunk.caption}" for chunk in plan.chunks if chunk.number in stills]
    contact_sheet([stills[number] for number in sorted(stills)], labels, work.project.folder / "sheet.png")
    kept.seal()


def opened(job: Job) -> Project:
    """The project of a job, locked, once its model is here."""
    require(job.card)
    identity = {"model": job.model, "size": list(job.plan.size), "fps": job.plan.fps}
    return Project.open(folder_beside(job.output), identity, job.order.fresh)


@torch.inference_mode()
def frames_of(job: Job) -> Iterator[torch.Tensor]:
    """The film's frames (F, 3, H, W) in 0..1, block by block; nothing is kept or written. For measures."""
    require(job.card)
    rollout, runs, codec = load(job)
    codec.to(job.device)
    yield from codec.stream(latents for moment in rollout.moments(runs) for _, latents in moment.finished)
