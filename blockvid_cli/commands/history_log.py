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

from blockvid_cli.errors import BlockvidError, UsageError, of_system

if TYPE_CHECKING:
    from blockvid_cli.job import Job, Order
    from blockvid_cli.project.history import Render
    from blockvid_cli.render import Event, Tell

NOT_KEPT = ("story", "output", "fresh", "retry")  # where a film lies, and what a second try does otherwise


@contextmanager
def recorded(job: Job, tell: Tell) -> Iterator[Tell]:
    """Around a render that tells its events to what is yielded: a line is added to the history of its project.

    What was refused before anything was drawn, or never had a project folder, is not recorded. A history that cannot be
    written costs no film: it is a note.
    """
    from blockvid_cli.project.history import DONE, FAILED, INTERRUPTED
    from blockvid_cli.project.project import folder_beside

    text, began, since = job.storyboard.source.read_bytes(), datetime.now(UTC), time.monotonic()
    tally, result = Tally(tell), f"{FAILED}: it broke off"
    try:
        yield tally
        result = DONE
    except KeyboardInterrupt:
        result = INTERRUPTED
        raise
    except OSError as error:
        result = f"{FAILED}: {of_system(error)}"
        raise
    except UsageError:
        result = ""
        raise
    except BlockvidError as error:
        result = f"{FAILED}: {error}"
        raise
    finally:
        if result and folder_beside(job.output).is_dir():
            _add(job, text, began, round(time.monotonic() - since, 1), tally, result)


class Tally:
    """Passes events on, and counts chunks: those with a block drawn now, and those that were there."""

    def __init__(self, tell: Tell) -> None:
        self.tell = tell
        self.drawn: set[int] = set()
        self.resumed: set[int] = set()

    def __call__(self, event: Event) -> None:
        """Counts what is finished."""
        if event.moment:
            chunks = {block.chunk for block, _ in event.moment.finished}
            (self.resumed if event.moment.resumed else self.drawn).update(chunks)
        self.tell(event)


def _add(job: Job, text: bytes, began: datetime, seconds: float, tally: Tally, result: str) -> None:
    from blockvid_cli.models.hub import fingerprint
    from blockvid_cli.project.history import DONE, Render, add, keep_text
    from blockvid_cli.project.project import folder_beside
    from blockvid_cli.render import Event

    folder, source = folder_beside(job.output), job.storyboard.source
    try:
        render = Render(
            time=began.strftime("%Y-%m-%dT%H:%M:%SZ"),
            film=job.output.name,
            storyboard=_seen_from(source.resolve(), folder.parent.resolve()),
            text=keep_text(folder, text, source.suffix),
            options=_given(job),
            model=job.card.name,
            weights=fingerprint(job.card),
            seed=job.plan.seed,
            size=job.plan.size,
            fps=job.plan.fps,
            recipe=job.values,
            precision=job.drawn.precision.name,
            memory_dtype=job.drawn.storage_dtype,
            chunks=len(job.plan.chunks),
            drawn=len(tally.drawn),
            resumed=(len(job.plan.chunks) - len(tally.drawn)) if result == DONE else len(tally.resumed - tally.drawn),
            seconds=seconds,
            result=result,
        )
        add(folder, render)
    except BlockvidError as error:
        tally.tell(Event("note", f"this render is missing in the history: {error}"))


def _given(job: Job) -> dict[str, Any]:
    """The options that differ from leaving them out; a model that is a folder or a file, by where it lies."""
    from blockvid_cli.job import Order

    order, blank = asdict(job.order), asdict(Order(job.order.story))
    given = {name: value for name, value in order.items() if name not in NOT_KEPT and value != blank[name]}
    if "means" in given:
        given["means"] = {name: value for name, value in given["means"].items() if value != blank["means"][name]}
    if job.choices:
        given["choices"] = {str(chunk): asdict(choice) for chunk, choice in job.choices.items()}
    if "model" in given and job.card.origin != "bundled":
        given["model"] = str(Path(given["model"]).resolve())
    return given


def _seen_from(place: Path, folder: Path) -> str:
    """The way from a folder to a place, so that both may move together."""
    try:
        return Path(os.path.relpath(place, folder)).as_posix()
    except ValueError:  # another drive
        return place.as_posix()


def again(render: Render, story: Path, output: Path | None) -> Job:
    """A render once more, of a storyboard that holds what it held then: by the options that were given; and where these
    have come to mean something else (another card, another machine), by what they meant.

    Raises:
        UsageError: it was recorded by a blockvid that had other options, or they cannot be had here.
    """
    from blockvid_cli.job import prepare

    order = _order(render, story, output)
    job, meant = prepare(order), (render.seed, render.size, render.fps, render.recipe)
    kept = (render.precision, render.memory_dtype)
    same = (job.plan.seed, job.plan.size, job.plan.fps, job.values) == meant
    if same and (job.drawn.precision.name, job.drawn.storage_dtype) == kept:
        return job
    size = "x".join(map(str, render.size))
    means = replace(order.means, precision=render.precision, storage_dtype=render.memory_dtype)
    recipe = dict(render.recipe)
    return prepare(replace(order, seed=render.seed, size=size, fps=render.fps, recipe=recipe, means=means))


def _order(render: Render, story: Path, output: Path | None) -> Order:
    """What was asked for then."""
    from blockvid_cli.job import Order

    known = {field.name for field in fields(Order)}
    unknown = [name for name in render.options if name not in known]
    try:
        order = TypeAdapter(Order).validate_python({**render.options, "story": story, "output": output})
    except ValidationError as error:
        unknown = [".".join(str(part) for part in fault["loc"]) for fault in error.errors()]
    if unknown:
        raise UsageError(f"this render was made with options that blockvid does not know now: {', '.join(unknown)}.")
    return order
