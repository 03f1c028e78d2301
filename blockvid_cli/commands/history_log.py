"""A render goes into its project's history, however it ends; and comes out of it as an order again."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from blockvid_cli.errors import BlockvidError, UsageError, from_os_error

if TYPE_CHECKING:
    from blockvid_cli.job import RenderJob, RenderRequest
    from blockvid_cli.project.history import RenderRecord
    from blockvid_cli.render import Event, EventListener

NOT_KEPT = ("storyboard", "output", "fresh", "retry")  # where a film lies, and what a second try does otherwise


@contextmanager
def recorded(job: RenderJob, tell: EventListener) -> Iterator[EventListener]:
    """Around a render that tells its events to what is yielded: a line is added to the history of its project.

    What was refused before anything was drawn, or never had a project folder, is not recorded. A history that cannot be
    written costs no film: it is a note.
    """
    from blockvid_cli.project.history import DONE, FAILED, INTERRUPTED
    from blockvid_cli.project.project import project_folder

    text, began, since = job.storyboard.source.read_bytes(), datetime.now(UTC), time.monotonic()
    tally, result = Tally(tell), f"{FAILED}: it broke off"
    try:
        yield tally
        result = DONE
    except KeyboardInterrupt:
        result = INTERRUPTED
        raise
    except OSError as error:
        result = f"{FAILED}: {from_os_error(error)}"
        raise
    except UsageError:
        result = ""
        raise
    except BlockvidError as error:
        result = f"{FAILED}: {error}"
        raise
    finally:
        if result and project_folder(job.output).is_dir():
            _add(job, text, began, round(time.monotonic() - since, 1), tally, result)


class Tally:
    """Passes events on, and counts chunks: those with a block drawn now, and those that were there."""

    def __init__(self, tell: EventListener) -> None:
        self.tell = tell
        self.drawn: set[int] = set()
        self.resumed: set[int] = set()

    def __call__(self, event: Event) -> None:
        """Counts what is finished."""
        if event.step:
            chunks = {block.chunk for block, _ in event.step.finished}
            (self.resumed if event.step.resumed else self.drawn).update(chunks)
        self.tell(event)


def _add(job: RenderJob, text: bytes, began: datetime, seconds: float, tally: Tally, result: str) -> None:
    from blockvid_cli.models.hub import fingerprint
    from blockvid_cli.project.history import DONE, RenderRecord, append_record, save_storyboard_text
    from blockvid_cli.project.project import project_folder
    from blockvid_cli.render import Event

    folder, source = project_folder(job.output), job.storyboard.source
    try:
        render = RenderRecord(
            time=began.strftime("%Y-%m-%dT%H:%M:%SZ"),
            film=job.output.name,
            storyboard=_seen_from(source.resolve(), folder.parent.resolve()),
            text=save_storyboard_text(folder, text, source.suffix),
            options=_given(job),
            model=job.card.name,
            weights=fingerprint(job.card),
            seed=job.plan.seed,
            size=job.plan.size,
            fps=job.plan.fps,
            recipe=job.recipe_values,
            precision=job.preset.precision.name,
            kv_dtype=job.preset.kv_dtype,
            chunks=len(job.plan.chunks),
            rendered=len(tally.drawn),
            resumed=(len(job.plan.chunks) - len(tally.drawn)) if result == DONE else len(tally.resumed - tally.drawn),
            seconds=seconds,
            result=result,
        )
        append_record(folder, render)
    except BlockvidError as error:
        tally.tell(Event("note", f"this render is missing in the history: {error}"))


def _given(job: RenderJob) -> dict[str, Any]:
    """The options that differ from leaving them out; a model that is a folder or a file, by where it lies."""
    from blockvid_cli.job import RenderRequest

    order, blank = asdict(job.request), asdict(RenderRequest(job.request.storyboard))
    given = {name: value for name, value in order.items() if name not in NOT_KEPT and value != blank[name]}
    if "runtime" in given:
        given["runtime"] = {name: value for name, value in given["runtime"].items() if value != blank["runtime"][name]}
    if job.takes:
        given["takes"] = {str(chunk): asdict(choice) for chunk, choice in job.takes.items()}
    if "model" in given and job.card.origin != "bundled":
        given["model"] = str(Path(given["model"]).resolve())
    return given


def _seen_from(place: Path, folder: Path) -> str:
    """The way from a folder to a place, so that both may move together."""
    try:
        return Path(os.path.relpath(place, folder)).as_posix()
    except ValueError:  # another drive
        return place.as_posix()


def again(render: RenderRecord, story: Path, output: Path | None) -> RenderJob:
    """A render once more, of a storyboard that holds what it held then: by the options that were given; and where these
    have come to mean something else (another card, another machine), by what they meant.

    Raises:
        UsageError: it was recorded by a blockvid that had other options, or they cannot be had here.
    """
    from blockvid_cli.job import prepare

    order = _order(render, story, output)
    job, meant = prepare(order), (render.seed, render.size, render.fps, render.recipe)
    kept = (render.precision, render.kv_dtype)
    same = (job.plan.seed, job.plan.size, job.plan.fps, job.recipe_values) == meant
    if same and (job.preset.precision.name, job.preset.kv_dtype) == kept:
        return job
    size = "x".join(map(str, render.size))
    means = replace(order.runtime, precision=render.precision, kv_dtype=render.kv_dtype)
    recipe = dict(render.recipe)
    return prepare(replace(order, seed=render.seed, size=size, fps=render.fps, recipe=recipe, runtime=means))


def _order(render: RenderRecord, story: Path, output: Path | None) -> RenderRequest:
    """What was asked for then."""
    from blockvid_cli.job import RenderRequest

    known = {field.name for field in fields(RenderRequest)}
    unknown = [name for name in render.options if name not in known]
    try:
        order = TypeAdapter(RenderRequest).validate_python({**render.options, "storyboard": story, "output": output})
    except ValidationError as error:
        unknown = [".".join(str(part) for part in fault["loc"]) for fault in error.errors()]
    if unknown:
        raise UsageError(f"this render was made with options that blockvid does not know now: {', '.join(unknown)}.")
    return order
