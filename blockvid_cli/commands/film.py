"""Renders one film for a command: progress on stderr, a line in the project's history, a report, and the result."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from blockvid_cli.commands import display, options
from blockvid_cli.errors import BlockvidError, Interrupted, UsageError, plural, ranges, to_blockvid_error
from blockvid_cli.timing import PhaseTimer

if TYPE_CHECKING:
    from blockvid_cli.job import RenderJob, RenderRequest
    from blockvid_cli.report.render_report import RenderLog
    from blockvid_cli.session import Event, EventListener
    from blockvid_cli.video.mux import Film

NOT_RECORDED = ("storyboard", "output", "fresh", "retry")  # paths, and what matters only for this attempt


@dataclass(frozen=True)
class RenderResult:
    """A finished film, its job, the seconds of each phase, and the seconds that the person waited in all."""

    film: Film
    job: RenderJob
    timer: PhaseTimer
    seconds: float
    report: Path | None = None

    def values(self) -> dict[str, Any]:
        """Returns the result as plain values, for programs."""
        return {
            "film": str(self.film.path),
            "report": str(self.report) if self.report else None,
            "seconds": self.film.seconds,
            "frames": self.film.frames,
            "seed": self.job.plan.seed,
            "render_seconds": round(self.seconds, 1),
            "phases": {name: round(seconds, 2) for name, seconds in self.timer.seconds.items()},
        }

    def __str__(self) -> str:
        film, frames, seed = self.film, plural(self.film.frames, "frame"), self.job.plan.seed
        return f"{film.path}: {film.seconds:.3f} s, {frames}, seed {seed}, rendered in {self.seconds:.1f} s"


def render_film(
    job: RenderJob, form: display.ProgressForm, with_report: bool = True, started: float | None = None
) -> RenderResult:
    """Renders the chunks of a film that are missing, and writes its report.

    Args:
        started: when the command began, by ``time.perf_counter``; None for now.

    Raises:
        Interrupted: by Ctrl-C; everything finished is kept.
        BlockvidError: with the exit code that fits. A report that cannot be written is only a note.
    """
    from blockvid_cli.render import render
    from blockvid_cli.report.render_report import RenderLog

    timer = PhaseTimer(started)
    try:
        with display.progress(job, form) as listener, recorded_in_history(job, listener, timer) as counter:
            log = RenderLog(counter)
            film = render(job, log, timer)
            counter.film_is_written = True
            report = _write_report(job, log, timer) if with_report else None
    except KeyboardInterrupt as stop:
        raise Interrupted(what_is_finished(job), stop) from stop
    options.save_last_storyboard(job.storyboard.source)
    return RenderResult(film, job, timer, timer.waited, report)


def what_is_finished(job: RenderJob) -> str:
    """Returns what an interrupted render left, and the command that goes on from there."""
    from blockvid_cli.retake import chunk_changes

    chunks = chunk_changes(job)
    finished = sum(change.action == "keep" for change in chunks)
    command = shlex.join(["blockvid", *(argument for argument in sys.argv[1:] if argument != "--fresh")])
    return f"{finished} of {plural(len(chunks), 'chunk')} finished and kept. This goes on from there: {command}"


def what_is_out_of_date(job: RenderJob) -> str:
    """Returns which chunks a render would render, and the command; or that the film is up to date."""
    from blockvid_cli.retake import chunk_changes, film_is_current, render_command

    pending = [change.chunk for change in chunk_changes(job) if change.action != "keep"]
    if not pending and film_is_current(job):
        return f"{job.output} is up to date."
    what = f"{ranges('chunk', pending)} would be rendered" if pending else "nothing would be rendered, only written"
    return f"{job.output} is out of date ({what}). This brings it up to date: {render_command(job)}"


def repeat_command(job: RenderJob, arguments: Sequence[str]) -> str:
    """Returns the command that makes this very film of its project again, where ``arguments`` may make another take.

    The take that --chunk or --only made is named. --from-chunk, which made several, and --fresh are left out: the
    project knows which takes are in its film.
    """
    words, rest = ["blockvid"], iter(arguments)
    take_is_named = any(word.partition("=")[0] == "--take" for word in arguments)
    for word in rest:
        name, equals, value = word.partition("=")
        if name in ("--chunk", "--only", "--from-chunk"):
            number = value if equals else next(rest)
            words += [name, number] if name != "--from-chunk" else []
            if name != "--from-chunk" and not take_is_named:
                words += ["--take", str(job.plan.chunks[int(number) - 1].take)]
        elif name != "--fresh":
            words.append(word)
    return shlex.join(words)


def last_request(job: RenderJob) -> RenderRequest:
    """The request of the last render of a job's film, for the storyboard and the takes of now; else the job's own."""
    from blockvid_cli.job import RenderRequest
    from blockvid_cli.project.history import read_history
    from blockvid_cli.project.project import project_folder

    records = [*read_history(project_folder(job.output)).renders.values()]
    if not records:
        return job.request
    own = {name: getattr(job.request, name) for name in ("storyboard", "output", "allow_outside")}
    given = {name: value for name, value in records[-1].options.items() if name != "takes"}
    try:
        return TypeAdapter(RenderRequest).validate_python({**given, **own})
    except ValidationError:  # of a blockvid that had other options
        return job.request


def _write_report(job: RenderJob, log: RenderLog, timer: PhaseTimer) -> Path | None:
    from blockvid_cli.report.render_report import write_render_report
    from blockvid_cli.session import Event

    try:
        return write_render_report(job, log, timer, repeat_command(job, sys.argv[1:]))
    except (BlockvidError, OSError) as error:
        log(Event("note", f"there is no report: {error}"))
        return None


def print_result(result: RenderResult, form: display.ProgressForm, as_json: bool) -> None:
    """Prints the result to stdout; after the first film on a machine also what to try next."""
    display.result(result.values(), str(result), as_json)
    if form is display.ProgressForm.AUTO and not as_json:
        display.first_film_hint(result.job.storyboard.source, result.film.path)


@contextmanager
def recorded_in_history(job: RenderJob, listener: EventListener, timer: PhaseTimer) -> Iterator[ChunkCounter]:
    """Adds a line to the project's history when the render inside ends, however it ends; yields its listener.

    A render that is refused before anything is rendered, or has no project folder yet, is not recorded. A history
    that cannot be written is only a note.
    """
    from blockvid_cli.project.history import DONE, FAILED, INTERRUPTED
    from blockvid_cli.project.project import project_folder

    began = datetime.now(UTC)
    counter, result = ChunkCounter(listener), f"{FAILED}: it broke off"
    try:
        yield counter
        result = DONE
    except KeyboardInterrupt:
        result = DONE if counter.film_is_written else INTERRUPTED
        raise
    except UsageError:
        result = ""
        raise
    except (BlockvidError, OSError, MemoryError) as error:
        result = f"{FAILED}: {to_blockvid_error(error)}"
        raise
    finally:
        if result and project_folder(job.output).is_dir():
            _append_record(job, began, round(timer.waited, 1), counter, result)


class ChunkCounter:
    """Passes events on, and counts chunks: those with a block rendered now, and those resumed from an earlier run."""

    def __init__(self, listener: EventListener) -> None:
        self.listener = listener
        self.rendered: set[int] = set()
        self.resumed: set[int] = set()
        self.film_is_written = False

    def __call__(self, event: Event) -> None:
        """Counts the chunks whose blocks are finished."""
        if event.step:
            chunks = {block.chunk for block, _ in event.step.finished}
            (self.resumed if event.step.resumed else self.rendered).update(chunks)
        self.listener(event)


def _append_record(job: RenderJob, began: datetime, seconds: float, counter: ChunkCounter, result: str) -> None:
    from blockvid_cli.models.hub import fingerprint
    from blockvid_cli.project.history import DONE, RenderRecord, append_record, save_storyboard_text
    from blockvid_cli.project.project import project_folder
    from blockvid_cli.session import Event

    folder, source, chunks = project_folder(job.output), job.storyboard.source, len(job.plan.chunks)
    resumed = chunks - len(counter.rendered) if result == DONE else len(counter.resumed - counter.rendered)
    try:
        record = RenderRecord(
            time=began.strftime("%Y-%m-%dT%H:%M:%SZ"),
            film=job.output.name,
            storyboard=_relative(source.resolve(), folder.parent.resolve()),
            text=save_storyboard_text(folder, job.storyboard.content, source.suffix),
            options=_options(job),
            model=job.card.name,
            weights=fingerprint(job.card),
            seed=job.plan.seed,
            size=job.plan.size,
            fps=job.plan.fps,
            recipe=job.recipe_values,
            precision=job.preset.precision.name,
            kv_dtype=job.preset.kv_dtype,
            chunks=chunks,
            rendered=len(counter.rendered),
            resumed=resumed,
            seconds=seconds,
            result=result,
        )
        append_record(folder, record)
    except BlockvidError as error:
        counter.listener(Event("note", f"this render is missing in the history: {error}"))


def _options(job: RenderJob) -> dict[str, Any]:
    """The fields of the request that differ from their defaults; a model in a folder or file by its absolute path."""
    from blockvid_cli.retake import given_options

    values = {name: value for name, value in given_options(job.request).items() if name not in NOT_RECORDED}
    if job.takes:
        values["takes"] = {str(chunk): asdict(choice) for chunk, choice in job.takes.items()}
    if "model" in values and job.card.origin != "bundled":
        values["model"] = str(Path(values["model"]).resolve())
    return values


def _relative(path: Path, folder: Path) -> str:
    """The path as seen from a folder, so that both may be moved together."""
    try:
        return Path(os.path.relpath(path, folder)).as_posix()
    except ValueError:  # another drive
        return path.as_posix()
