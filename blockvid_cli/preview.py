"""A preview before the long render: one chunk as it will be in the film, its takes, or one still of every chunk.

    chunk 5    chunks 1-4 from the project, or rendered and saved there  ->  5 rendered and saved  ->  its frames
    draft      what the project has, else all in fewer steps, saved in a project of its own beside it

What a preview renders in full quality is what the render would: the render finds it and resumes from there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch

from blockvid_cli.job import RenderJob, prepare, with_takes
from blockvid_cli.models.preview_decoders import load_preview_decoder
from blockvid_cli.models.registry import has_wan21_latents
from blockvid_cli.models.vae import LatentDecoder, to_uint8
from blockvid_cli.project.identity import TakeChoice
from blockvid_cli.project.project import DRAFT_FOLDER
from blockvid_cli.render import notify_of_notes, open_project
from blockvid_cli.retake import existing_takes
from blockvid_cli.session import (
    Event,
    EventListener,
    RenderSession,
    finished_blocks,
    load,
    no_grad_oom_guard,
    stream_latents,
)

DRAFT_STEPS_DIVISOR = 3  # a draft has this share of the steps, and two at least


@dataclass(frozen=True)
class ChunkPreview:
    """The frames (H, W, 3) uint8 of a chunk's take."""

    chunk: int
    take: int
    frames: tuple[np.ndarray, ...]


@dataclass(frozen=True)
class PreviewOptions:
    """How a preview is made: ``draft``, in fewer steps; ``exact``, by the model's own VAE, however slow."""

    draft: bool = False
    exact: bool = False


def preview_chunk(
    job: RenderJob,
    chunk: int,
    takes: int = 1,
    options: PreviewOptions = PreviewOptions(),
    notify: EventListener = lambda event: None,
) -> list[ChunkPreview]:
    """The chunk as it will be in the film; with ``takes``, also as its other takes would be, from the chosen one on.

    Raises:
        BlockvidError: as ``render``; what is finished is kept.
    """
    existing_takes(job, chunk)
    notify_of_notes(job, notify)
    first = job.plan.chunks[chunk - 1].take
    previews = []
    for take in range(first, first + takes):
        if takes > 1:
            notify(Event(f"take {take - first + 1} of {takes}"))
        choice = replace(job.takes.get(chunk, TakeChoice()), take=take)
        variant = job if take == first else with_takes(job, {**job.takes, chunk: choice})
        frames = tuple(frame for number, frame in _frames(variant, chunk, options, notify) if number == chunk)
        previews.append(ChunkPreview(chunk, take, frames))
    return previews


def preview_stills(
    job: RenderJob, exact: bool = False, notify: EventListener = lambda event: None
) -> dict[int, np.ndarray]:
    """The middle frame of every chunk, generated as a draft where the project does not have it."""
    notify_of_notes(job, notify)
    middles = {(chunk.first_frame + chunk.end_frame) // 2: chunk.number for chunk in job.plan.chunks}
    options = PreviewOptions(draft=True, exact=exact)
    frames = enumerate(_frames(job, len(job.plan.chunks), options, notify))
    return {middles[index]: frame for index, (_, frame) in frames if index in middles}


def _frames(
    job: RenderJob, until: int, options: PreviewOptions, notify: EventListener
) -> Iterator[tuple[int, np.ndarray]]:
    """The frames of the film up to a chunk, each with the number of its chunk."""
    blocks = job.plan.chunks[until - 1].blocks[-1].number + 1
    with open_project(job) as project:
        session = RenderSession(job, project, notify)
        decoder, latents = _draft(session, blocks) if options.draft else _full_quality(session, blocks)
        if has_wan21_latents(job.card) and not options.exact:
            device = job.preset.device
            decoder = load_preview_decoder(job.card, device, job.preset.vae_dtype, linear=device == "cpu").decoder
        ends = [chunk.end_frame for chunk in job.plan.chunks]
        index = 0
        for part in no_grad_oom_guard("decode", decoder.stream(latents)):
            for frame in to_uint8(part):
                number = sum(end <= index for end in ends) + 1
                if number > until:
                    return
                yield number, frame
                index += 1


def _full_quality(session: RenderSession, blocks: int) -> tuple[LatentDecoder, Iterator[torch.Tensor]]:
    """VAE and latents as the render has them."""
    model = load(session.job, session.notify)
    return model.vae, stream_latents(session, model, blocks)


def _draft(session: RenderSession, blocks: int) -> tuple[LatentDecoder, Iterator[torch.Tensor]]:
    """VAE and latents of a draft: finished blocks from the project, the others in fewer steps."""
    job, steps = session.job, session.job.recipe_values["steps"]
    fewer = max(2, (len(steps) if isinstance(steps, list) else steps) // DRAFT_STEPS_DIVISOR)
    output, recipe = (session.project.folder / DRAFT_FOLDER).with_suffix(".mp4"), job.request.recipe | {"steps": fewer}
    draft = prepare(replace(job.request, output=output, recipe=recipe, takes=job.takes), job.storyboard)
    finished = finished_blocks(session)
    model = load(draft, session.notify)

    def latents() -> Iterator[torch.Tensor]:
        with open_project(draft) as project:
            yield from stream_latents(RenderSession(draft, project, session.notify), model, blocks, finished)

    return model.vae, latents()
