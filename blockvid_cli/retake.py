"""Other takes of single chunks, and what the next render of a film would do.

retake 5               5 by its next take, and all that follow it
retake 5 alone         5 by its next take; its neighbours stay, and it is generated between them
retake from 5          5 and all after it, each by its next take
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from blockvid_cli.errors import UsageError, ranges
from blockvid_cli.job import RenderJob, RenderRequest, with_takes
from blockvid_cli.project.identity import TakeChoice, changed_fields, context_hash, neighbours_hash
from blockvid_cli.project.project import MANIFEST, project_folder, read_manifest, stored_frames, takes_on_disk

OPTION_NAMES = {"guidance": "guidance_scale"}  # of a recipe, where the command line has another name
NOT_TYPED = ("storyboard", "output", "takes")


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
    unfinished = any(change.action != "keep" for change in chunk_changes(job)[request.chunk - 1 : last])
    return unfinished or (job.recorded.keys == tuple(job.keys.keys) and not _film_is_finished(job))


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
            f"--only {chunk}: its neighbours cannot stay, because {ranges('chunk', edited)} changed since the last"
            f" render. First bring the film up to date: {render_command(job)}"
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
            shown = recorded[number - 1].get("take") if "take" in own else None
            chosen = f"take {chunk.take} was chosen; the film shows take {shown}" if "take" in own else ""
            changes.append(ChunkChange(number, "keep", chosen))
        elif stored:
            changes.append(ChunkChange(number, "finish", "some blocks lack"))
        elif own:
            changes.append(ChunkChange(number, "render", "new" if own == ["new"] else f"{', '.join(own)} changed"))
        else:
            others = sorted(other for other in keys.needs[number - 1] if edited[other - 1])
            same = number <= len(recorded_keys) and recorded_keys[number - 1] == key
            reason = "not rendered yet" if same or not others else f"follows chunk {others[-1]}"
            changes.append(ChunkChange(number, "render", reason))
    return changes


def _film_is_finished(job: RenderJob) -> bool:
    """Whether the film was written after its last render began, which wrote the manifest."""
    try:
        return job.output.stat().st_mtime_ns >= (project_folder(job.output) / MANIFEST).stat().st_mtime_ns
    except OSError:
        return False


def film_is_current(job: RenderJob) -> bool:
    """Whether the film on disk is the one that a render would make now: its chunks, cards, sound and subtitles."""
    return job.recorded.film == job.film_key and _film_is_finished(job)


def given_options(request: RenderRequest) -> dict[str, Any]:
    """The fields of a request that differ from their defaults."""
    values, default = asdict(request), asdict(RenderRequest(request.storyboard))
    given = {name: value for name, value in values.items() if value != default[name]}
    if "runtime" in given:
        given["runtime"] = {n: value for n, value in given["runtime"].items() if value != default["runtime"][n]}
    return given


def option_words(values: Mapping[str, Any]) -> Iterator[str]:
    """Options of a request as they are typed: ``--steps``, ``2``; takes, which are chosen otherwise, are left out."""
    for name, value in values.items():
        option = "--" + OPTION_NAMES.get(name, name).replace("_", "-")
        if name in ("runtime", "recipe"):
            yield from option_words(value)
        elif name == "overrides":
            yield from (word for override in value for word in ("--set", str(override)))
        elif isinstance(value, bool):
            yield option if value else option.replace("--", "--no-")
        elif name not in NOT_TYPED:
            yield from (option, _flow(value))


def _flow(value: object) -> str:
    """A value as it may be typed: ``{name: window, sink: 3}``."""
    return f"{{{', '.join(f'{k}: {_flow(v)}' for k, v in value.items())}}}" if isinstance(value, dict) else str(value)


def render_command(job: RenderJob) -> str:
    """The command that brings a film up to date."""
    given = {name: value for name, value in given_options(job.request).items() if name != "fresh"}
    film = ["-o", str(job.output)] if job.request.output else []
    return shlex.join(["blockvid", "render", str(job.request.storyboard), *film, *option_words(given)])


def remove_take(job: RenderJob, chunk: int, take: int) -> list[Path]:
    """Removes a take that is not in the film; returns the files that were removed.

    Raises:
        UsageError: there is no such take, or it is in the film.
    """
    if take not in existing_takes(job, chunk):
        raise UsageError(f"chunk {chunk} has no take {take}.")
    if job.plan.chunks[chunk - 1].take == take:
        raise UsageError(f"take {take} of chunk {chunk} is in the film; {_choose_first(job, chunk, take)}.")
    folder = project_folder(job.output) / "chunks" / f"{chunk:03d}"
    removed = [path for path in folder.glob(f"take-{take}.*") if path.suffix == ".safetensors"]
    for path in removed:
        path.unlink()
    return removed


def _choose_first(job: RenderJob, chunk: int, take: int) -> str:
    """How another take of a chunk comes into the film, so that ``take`` can be removed."""
    others = [other for other in existing_takes(job, chunk) if other != take]
    if not others:
        return "the chunk has no other"
    story, film = str(job.request.storyboard), ["-o", str(job.output)] if job.request.output else []
    command = shlex.join(["blockvid", "takes", "choose", story, str(chunk), str(others[0]), *film])
    return f"choose another first, and render: {command}"
