"""Other takes of single chunks, and what the next render of a film would do.

retake 5               5 by its next take, and all that follow it
retake 5 alone         5 by its next take; its neighbours stay, and it is generated between them
retake from 5          5 and all after it, each by its next take
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from blockvid_cli.errors import UsageError
from blockvid_cli.job import RenderJob, with_takes
from blockvid_cli.project.identity import TakeChoice, changed_fields, context_hash, neighbours_hash
from blockvid_cli.project.project import project_folder, read_manifest, stored_frames, takes_on_disk


@dataclass(frozen=True)
class RetakeRequest:
    """A chunk to be rendered by another take (None: the next), ``alone`` or with all ``to_end`` by new takes."""

    chunk: int
    take: int | None = None
    alone: bool = False
    to_end: bool = False


def retake(job: RenderJob, request: RetakeRequest) -> RenderJob:
    """The same film with other takes; unchanged, if the takes that were asked for last are not finished yet.

    Raises:
        UsageError: there is no such chunk; or its neighbours cannot stay, because they were never rendered or were
            edited.
    """
    chunks, folder = len(job.plan.chunks), project_folder(job.output)
    existing_takes(job, request.chunk)
    if request.take is None and _is_under_way(job, request):
        return job
    last = chunks if request.to_end else request.chunk
    choices = dict(job.takes)
    for number in range(request.chunk, last + 1):
        take = request.take or max([*takes_on_disk(folder, number), 1 if number > request.chunk else 0]) + 1
        choices[number] = _choice_between(job, number, take) if request.alone else TakeChoice(take)
    return with_takes(job, choices)


def _is_under_way(job: RenderJob, request: RetakeRequest) -> bool:
    """Whether a render of other takes from this chunk on was begun and not finished."""
    choice = job.takes.get(request.chunk, TakeChoice())
    chunks = len(job.plan.chunks)
    if choice.take == 1 or choice.between != (request.alone and request.chunk < chunks):
        return False
    last = request.chunk if request.alone else chunks
    return any(change.action != "keep" for change in chunk_changes(job)[request.chunk - 1 : last])


def choose_take(job: RenderJob, chunk: int, take: int) -> RenderJob:
    """The same film with a take that is on disk; neighbours that stayed still stay.

    Raises:
        UsageError: there is no such chunk or take.
    """
    takes = existing_takes(job, chunk)
    if take not in takes:
        known = f"there are {', '.join(map(str, takes))}" if takes else "none is rendered yet"
        raise UsageError(f"chunk {chunk} has no take {take}; {known}.")
    choice = replace(job.takes.get(chunk, TakeChoice()), take=take)
    return with_takes(job, {**job.takes, chunk: choice})


def existing_takes(job: RenderJob, chunk: int) -> list[int]:
    """The takes of a chunk that are on disk.

    Raises:
        UsageError: there is no such chunk.
    """
    chunks = len(job.plan.chunks)
    if not 1 <= chunk <= chunks:
        raise UsageError(f"there is no chunk {chunk}; the storyboard has {chunks}, counted from 1.")
    return takes_on_disk(project_folder(job.output), chunk)


def _choice_between(job: RenderJob, chunk: int, take: int) -> TakeChoice:
    """The choice of a take that is generated between the neighbours that the last render left."""
    folder, keys, chunks = project_folder(job.output), job.keys, len(job.plan.chunks)
    if any(other > number for number, needed in enumerate(keys.needs, start=1) for other in needed):
        raise UsageError(f"--only {chunk}: this recipe's schedule renders chunks together, so none can be done alone.")
    manifest = read_manifest(folder)
    bases = manifest.bases
    if len(bases) < chunk or not stored_frames(folder, chunk):
        raise UsageError(f"--only {chunk}: chunk {chunk} was never rendered, so no neighbours can stay; render first.")
    pairs = enumerate(zip(bases, keys.bases, strict=False), start=1)
    edited = [number for number, (old, new) in pairs if old != new and number != chunk]
    if edited:
        raise UsageError(
            f"--only {chunk}: chunk {edited[0]} was edited too since the last render; render it first,"
            " or undo the edit."
        )
    if chunk == chunks:
        return TakeChoice(take)  # nothing follows that would have to stay
    cuts = [identity.cut for identity in keys.identities]
    return TakeChoice(
        take=take,
        replaces=bases[chunk - 1],
        context=context_hash(chunk, keys.bases, keys.needs[chunk - 1], cuts),
        neighbours=neighbours_hash(chunk, manifest.keys, cuts),
    )


@dataclass(frozen=True)
class ChunkChange:
    """What a render would do with a chunk, and why: ``keep`` it, ``finish`` it (some blocks lack) or ``render`` it."""

    chunk: int
    action: str
    reason: str = ""


def chunk_changes(job: RenderJob) -> list[ChunkChange]:
    """What the next render of a film would do, chunk by chunk, and why; nothing is rendered or loaded."""
    folder, keys = project_folder(job.output), job.keys
    recorded, recorded_keys = job.recorded.identities, job.recorded.keys
    edited = [
        changed_fields(recorded[n], identity) if n < len(recorded) else ["new"]
        for n, identity in enumerate(keys.identities)
    ]
    changes: list[ChunkChange] = []
    for chunk, key in zip(job.plan.chunks, keys.keys, strict=True):
        number, needed = chunk.number, sum(block.frames for block in chunk.blocks)
        stored = stored_frames(folder, number).get(key, 0)
        own = edited[number - 1]
        if stored >= needed:
            changes.append(ChunkChange(number, "keep"))
        elif stored:
            changes.append(ChunkChange(number, "finish", "some blocks lack"))
        elif own:
            changes.append(ChunkChange(number, "render", "new" if own == ["new"] else f"{', '.join(own)} changed"))
        else:
            others = sorted(other for other in keys.needs[number - 1] if edited[other - 1])
            same = number <= len(recorded_keys) and recorded_keys[number - 1] == key
            reason = "its latents are missing" if same or not others else f"follows chunk {others[-1]}"
            changes.append(ChunkChange(number, "render", reason))
    return changes


def remove_take(job: RenderJob, chunk: int, take: int) -> list[Path]:
    """Removes a take that is not in the film; returns the files that were removed.

    Raises:
        UsageError: there is no such take, or it is in the film.
    """
    if take not in existing_takes(job, chunk):
        raise UsageError(f"chunk {chunk} has no take {take}.")
    if job.plan.chunks[chunk - 1].take == take:
        raise UsageError(f"take {take} of chunk {chunk} is in the film; choose another first: blockvid takes choose.")
    folder = project_folder(job.output) / "chunks" / f"{chunk:03d}"
    removed = [path for path in folder.glob(f"take-{take}.*") if path.suffix == ".safetensors"]
    for path in removed:
        path.unlink()
    return removed
