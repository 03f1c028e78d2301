"""Other takes of single chunks, and what the next render of a film would draw.

redraw 5               5 by its next take, and all that follow it
redraw 5 alone         5 by its next take; its neighbours stay, and it is drawn between them
redraw from 5          5 and all after it, each by its next take
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from blockvid_cli.errors import UsageError
from blockvid_cli.job import RenderJob, prepare
from blockvid_cli.manifest import content, manifest
from blockvid_cli.project.cache_keys import TakeChoice
from blockvid_cli.project.project import project_folder, stored_frames, takes_on_disk


@dataclass(frozen=True)
class RetakeRequest:
    """A chunk to be drawn again: by which take (None: the next), ``alone`` or with all ``to_end`` by new takes."""

    chunk: int
    take: int | None = None
    alone: bool = False
    to_end: bool = False


def retake(job: RenderJob, redo: RetakeRequest) -> RenderJob:
    """The same film with other takes; as it is, if the takes that were asked for last are not finished yet.

    Raises:
        UsageError: there is no such chunk; or its neighbours cannot stay, because they were never drawn or were edited.
    """
    chunks, folder = len(job.plan.chunks), project_folder(job.output)
    existing_takes(job, redo.chunk)
    if redo.take is None and _under_way(job, redo):
        return job
    last = chunks if redo.to_end else redo.chunk
    choices = dict(job.takes)
    for number in range(redo.chunk, last + 1):
        take = redo.take or max([*takes_on_disk(folder, number), 1 if number > redo.chunk else 0]) + 1
        choices[number] = _between(job, number, take) if redo.alone else TakeChoice(take)
    return prepare(replace(job.request, takes=choices, fresh=False))


def _under_way(job: RenderJob, redo: RetakeRequest) -> bool:
    """Whether a render of other takes from this chunk on was begun and not finished."""
    choice = job.takes.get(redo.chunk, TakeChoice())
    if choice.take == 1 or choice.alone != redo.alone:
        return False
    last = redo.chunk if redo.alone else len(job.plan.chunks)
    return any(change.action != "kept" for change in chunk_changes(job)[redo.chunk - 1 : last])


def choose_take(job: RenderJob, chunk: int, take: int) -> RenderJob:
    """The same film with a take that is there already; neighbours that stayed still stay.

    Raises:
        UsageError: there is no such chunk or take.
    """
    there = existing_takes(job, chunk)
    if take not in there:
        known = f"there are {', '.join(map(str, there))}" if there else "none is drawn yet"
        raise UsageError(f"chunk {chunk} has no take {take}; {known}.")
    before = job.takes.get(chunk, TakeChoice())
    return prepare(replace(job.request, takes={**job.takes, chunk: replace(before, take=take)}))


def existing_takes(job: RenderJob, chunk: int) -> list[int]:
    """The takes there are of a chunk.

    Raises:
        UsageError: there is no such chunk.
    """
    chunks = len(job.plan.chunks)
    if not 1 <= chunk <= chunks:
        raise UsageError(f"there is no chunk {chunk}; the storyboard has {chunks}, counted from 1.")
    return takes_on_disk(project_folder(job.output), chunk)


def _between(job: RenderJob, chunk: int, take: int) -> TakeChoice:
    """The choice of a take that is drawn between the neighbours that the last render left."""
    if any(2 in recipe.schedule.needs(1, 2) for recipe in job.recipes):
        raise UsageError(f"--only {chunk}: this recipe's schedule draws chunks together, so none can be drawn alone.")
    old, now = _drawn_last(job), content(job).links
    links = old.get("links", [])
    if len(links) < chunk or not stored_frames(project_folder(job.output), chunk):
        raise UsageError(f"--only {chunk}: chunk {chunk} was never drawn, so no neighbours can stay; render first.")
    before = links[chunk - 2] if chunk > 1 else ""
    choice = TakeChoice(take, before, links[chunk - 1])
    kept = content(prepare(replace(job.request, takes={**job.takes, chunk: choice}))).links
    changed = [n for n, (a, b) in enumerate(zip(links, kept, strict=False), start=1) if a != b and n != chunk]
    if changed or (now[: chunk - 1] != tuple(links[: chunk - 1])):
        first = min(changed, default=chunk)
        raise UsageError(
            f"--only {chunk}: chunk {first} was edited too since the last render; render it first, or undo the edit."
        )
    return choice


def _drawn_last(job: RenderJob) -> dict[str, Any]:
    """The manifest of the last render; empty where there is none."""
    try:
        found = json.loads((project_folder(job.output) / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


@dataclass(frozen=True)
class ChunkChange:
    """What a render would do with a chunk: it is ``kept``, ``finished`` (some blocks lack) or ``drawn``; and why."""

    chunk: int
    action: str
    reason: str = ""


def chunk_changes(job: RenderJob) -> list[ChunkChange]:
    """What the next render of a film would draw, chunk by chunk, and why; nothing is drawn or loaded."""
    folder, old, now = project_folder(job.output), _drawn_last(job), manifest(job)
    before, found = old.get("chunks", []), content(job)
    film = _edited(old, now, ("model", "weights", "seed", "size", "fps", "style", "negative", "recipe", "precision"))
    changes: list[ChunkChange] = []
    for chunk, key in zip(job.plan.chunks, found.keys, strict=True):
        number = chunk.number
        there, needed = stored_frames(folder, number).get(key, 0), sum(block.frames for block in chunk.blocks)
        if there:
            changes.append(
                ChunkChange(number, "kept") if there >= needed else ChunkChange(number, "finished", "some blocks lack")
            )
            continue
        edited = _edited(before[number - 1], now["chunks"][number - 1]) if number <= len(before) else ""
        follows = next((c.chunk for c in reversed(changes) if c.action == "drawn"), None)
        why = film or edited or ("new" if number > len(before) else "")
        why = why or (f"follows chunk {follows}" if follows else "" if before else "new")
        changes.append(ChunkChange(number, "drawn", why or "its latents are missing"))
    return changes


def _edited(old: Mapping[str, Any], now: Mapping[str, Any], names: tuple[str, ...] | None = None) -> str:
    """Which fields are no longer what they were."""
    names = names or tuple(now)
    past = json.loads(json.dumps(dict(now), default=str))
    changed = [name for name in names if name in old and old[name] != past.get(name)]
    return f"{', '.join(changed)} changed" if changed else ""


def remove_take(job: RenderJob, chunk: int, take: int) -> list[Path]:
    """Removes a take that is not in the film; returns the files that are gone.

    Raises:
        UsageError: there is no such take, or it is in the film.
    """
    if take not in existing_takes(job, chunk):
        raise UsageError(f"chunk {chunk} has no take {take}.")
    if job.plan.chunks[chunk - 1].take == take:
        raise UsageError(f"take {take} of chunk {chunk} is in the film; choose another first: blockvid takes choose.")
    home = project_folder(job.output) / "chunks" / f"{chunk:03d}"
    gone = [path for path in home.glob(f"take-{take}.*") if path.suffix == ".safetensors"]
    for path in gone:
        path.unlink()
    return gone
