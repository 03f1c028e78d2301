"""A look before the long render: one chunk as it will be in the film, its takes side by side, or the film in stills.

    chunk 5    chunks 1-4 from the project, or drawn and kept there  ->  5 drawn and kept  ->  its pictures
    draft      what the project has, else all in fewer steps, kept in a project of its own beside it

What a look draws in full quality is what the render would draw: the render finds it and goes on from there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch

from blockvid_cli.job import Job, prepare
from blockvid_cli.manifest import content
from blockvid_cli.models.preview_decoders import quick_decoder
from blockvid_cli.models.taew import is_wan21
from blockvid_cli.models.vae import Codec, as_pictures
from blockvid_cli.project.cache_keys import Choice
from blockvid_cli.project.project import DRAFTS
from blockvid_cli.render import opened
from blockvid_cli.retake import existing
from blockvid_cli.session import Tell, Work, finished, guarded, latents_of, load
from blockvid_cli.timing import Clock

DRAFT = 3  # a draft has this share of the steps, and two at least


@dataclass(frozen=True)
class Look:
    """The pictures (H, W, 3) uint8 of a chunk's take, one a frame."""

    chunk: int
    take: int
    pictures: tuple[np.ndarray, ...]


@dataclass(frozen=True)
class How:
    """How a look is taken: as a ``draft``, in fewer steps; ``exact``: by the model's own codec, however slow."""

    draft: bool = False
    exact: bool = False


def look(job: Job, chunk: int, takes: int = 1, how: How = How(), tell: Tell = lambda event: None) -> list[Look]:
    """The chunk as it will be in the film; with ``takes``, also as its other takes would be, from the chosen one on.

    Raises:
        BlockvidError: as ``render``; what is finished is kept.
    """
    existing(job, chunk)
    first = job.plan.chunks[chunk - 1].take
    looks = []
    for take in range(first, first + takes):
        asked = job if take == first else _with(job, chunk, take)
        pictures = tuple(picture for number, picture in _drawn(asked, chunk, how, tell) if number == chunk)
        looks.append(Look(chunk, take, pictures))
    return looks


def stills(job: Job, exact: bool = False, tell: Tell = lambda event: None) -> dict[int, np.ndarray]:
    """The middle picture of every chunk, the film drawn as a draft where the project has it not."""
    middles = {(chunk.first_frame + chunk.end_frame) // 2: chunk.number for chunk in job.plan.chunks}
    found = {}
    for frame, (_, picture) in enumerate(_drawn(job, len(job.plan.chunks), How(True, exact), tell)):
        if frame in middles:
            found[middles[frame]] = picture
    return found


def _with(job: Job, chunk: int, take: int) -> Job:
    choice = replace(job.choices.get(chunk, Choice()), take=take)
    return prepare(replace(job.order, choices={**job.choices, chunk: choice}))


def _drawn(job: Job, until: int, how: How, tell: Tell) -> Iterator[tuple[int, np.ndarray]]:
    """The pictures of the film up to a chunk, each with the number of its chunk."""
    chain, blocks = content(job), job.plan.chunks[until - 1].blocks[-1].number + 1
    with opened(job) as project:
        work = Work(job, chain, project, tell, Clock())
        if how.draft:
            codec, latents = _drafted(work, blocks)
        else:
            loaded = load(job, tell, alone=chain.alone)
            codec, latents = loaded[2], latents_of(work, loaded, blocks)
            del loaded
        if is_wan21(job.card) and not how.exact:
            codec = quick_decoder(job.card, job.device, job.drawn.codec_dtype, linear=job.device == "cpu").decoder
        ends = [chunk.end_frame for chunk in job.plan.chunks]
        frame = 0
        for part in guarded("decode", codec.stream(latents)):
            for picture in as_pictures(part):
                number = sum(end <= frame for end in ends) + 1
                if number > until:
                    return
                yield number, picture
                frame += 1


def _drafted(work: Work, blocks: int) -> tuple[Codec, Iterator[torch.Tensor]]:
    """Codec and latents of a draft: finished blocks from the project, the others in fewer steps."""
    job, steps = work.job, work.job.values["steps"]
    fewer = max(2, (len(steps) if isinstance(steps, list) else steps) // DRAFT)
    beside, recipe = (work.project.folder / DRAFTS).with_suffix(".mp4"), job.order.recipe | {"steps": fewer}
    sketch = prepare(replace(job.order, output=beside, recipe=recipe, choices=job.choices))
    chain, whole = content(sketch), dict(finished(work))
    loaded = load(sketch, work.tell, alone=chain.alone)

    def latents() -> Iterator[torch.Tensor]:
        with opened(sketch) as drafts:
            yield from latents_of(Work(sketch, chain, drafts, work.tell, Clock()), loaded, blocks, whole)

    return loaded[2], latents()
