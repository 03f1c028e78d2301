"""``blockvid history``: lists the renders of a project, and renders any one of them again."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import TypeAdapter, ValidationError

from blockvid_cli.commands import display, film, options, terminal
from blockvid_cli.errors import BlockvidError, UsageError
from blockvid_cli.files import read_regular_file
from blockvid_cli.storyboard.seconds import format_duration

if TYPE_CHECKING:
    from blockvid_cli.job import RenderJob, RenderRequest
    from blockvid_cli.project.history import RenderRecord

Target = Annotated[
    Path,
    typer.Argument(
        metavar="[STORY|FOLDER]",
        help="a storyboard, a film, a project, or a folder of projects; default: this folder",
        autocompletion=options.complete_project,
    ),
]

STORYBOARD_SUFFIXES = (".yaml", ".yml", ".json", ".srt", ".vtt", ".txt")


@dataclass(frozen=True)
class RerenderRequest:
    """Which render is rendered again: of what, its number, to which film, and whether files outside may be named."""

    target: Path
    number: int
    output: Path | None
    allow_outside: bool


def history(
    target: Target = Path("."),
    rerender: Annotated[int | None, typer.Option(min=1, metavar="NUMBER", help="render that one again")] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="the film to list; with --rerender, to write"),
    ] = None,
    progress: options.Progress = display.ProgressForm.AUTO,
    quiet: options.Quiet = False,
    as_json: options.AsJson = False,
    allow_outside: options.AllowOutside = False,
) -> None:
    """List the renders of a storyboard: when, with which options, and with what result.

    With --rerender 3 the storyboard of render 3 is written to story-3.yaml, and rendered with the same options.

    --allow-outside is not taken over from then, because a project may have come from somebody else; give it again.

    Example: blockvid history storyboards/swan.yaml

    Example: blockvid history storyboards/swan.yaml --rerender 1 -o first.mp4
    """
    projects = _find_projects(target if rerender is not None or output is None else output)
    if rerender is not None:
        form = display.ProgressForm.NONE if quiet else progress
        request = RerenderRequest(target, rerender, output, allow_outside)
        _rerender(projects, request, form, as_json)
    else:
        _print_list(projects, as_json)


def _find_projects(target: Path) -> list[Path]:
    """Returns project folders: the target itself, those in a folder, or those that rendered a storyboard.

    Raises:
        UsageError: there is none.
    """
    suffix = options.PROJECT_SUFFIX
    if target.is_dir():
        projects = [target] if target.suffix == suffix else sorted(target.glob(f"*{suffix}"))
    else:
        namesake, all_beside = target.with_suffix(suffix), sorted(target.parent.glob(f"*{suffix}"))
        others = [] if target.suffix == ".mp4" else [p for p in all_beside if p != namesake and _rendered(p, target)]
        projects = [namesake] * namesake.is_dir() + others
    if not projects:
        folder = target if target.is_dir() else target.parent
        what = "no film was rendered" if target.is_dir() else f"there is no project of {target}"
        raise UsageError(f"{what} in {folder.resolve()}; 'blockvid render STORY' begins one.")
    return projects


def _rendered(project: Path, story: Path) -> bool:
    """Whether a project's history names a storyboard; one that cannot be read names none."""
    with suppress(BlockvidError):
        return any(_source(project, record) == story.resolve() for record in _read(project).values())
    return False


def _source(project: Path, record: RenderRecord) -> Path:
    """The path of a render's storyboard."""
    return (project.parent.resolve() / record.storyboard).resolve()


def _read(project: Path, print_notes: bool = False) -> dict[int, RenderRecord]:
    """Returns a project's renders by number; notes on stderr which lines cannot be read."""
    from blockvid_cli.project.history import read_history

    records = read_history(project)
    for note in records.notes if print_notes else ():
        terminal.note(f"note: {note}")
    return dict(records.renders)


def _print_list(projects: list[Path], as_json: bool) -> None:
    """Prints every render, a table per film; of several projects, a note where one cannot be read."""
    records_of = {}
    for project in projects:
        try:
            records_of[project] = _read(project, print_notes=True)
        except BlockvidError as error:
            if len(projects) == 1:
                raise
            terminal.note(f"note: {error}")
    if as_json:
        rows = [
            {"number": number, "project": str(project), **asdict(record)}
            for project, records in records_of.items()
            for number, record in records.items()
        ]
        terminal.write_json(rows)
        return
    for project, records in records_of.items():
        terminal.write(f"{project.with_suffix('.mp4')}" + ("" if records else ": no render is recorded"))
        if records:
            names = ("", "time (UTC)", "seed", "chunks", "took", "result", "options")
            display.table(names, [_cells(number, record) for number, record in records.items()], shortened=2)


def _cells(number: int, record: RenderRecord) -> tuple[str, ...]:
    """A render in one line; how many of its chunks were rendered, and which options were given."""
    from blockvid_cli.retake import option_words

    options = {name: value for name, value in record.options.items() if name != "seed"}
    if isinstance(model := options.pop("model", None), str):
        options["model"] = Path(model).name  # at the end, since of a long line the end is cut off
    return (
        str(number),
        record.time.replace("T", " ").removesuffix("Z")[:16],
        str(record.seed),
        f"{record.rendered} of {record.chunks}",
        format_duration(record.seconds),
        record.result,
        " ".join([*option_words(options), *_take_words(record.options)]) or "-",
    )


def _take_words(values: Mapping[str, Any]) -> Iterator[str]:
    """``take 2 of chunk 5``, for each chunk that is in the film by another take than the first."""
    takes = values.get("takes")
    for chunk, choice in takes.items() if isinstance(takes, dict) else ():
        if isinstance(choice, dict):
            yield f"take {choice.get('take')} of chunk {chunk}"


def _rerender(projects: list[Path], request: RerenderRequest, form: display.ProgressForm, as_json: bool) -> None:
    """Writes the storyboard of a render to a new file, and renders it with the same options."""
    from blockvid_cli.models.hub import fingerprint
    from blockvid_cli.project.history import read_storyboard_text

    project, target, number = projects[0], request.target, request.number
    if len(projects) > 1 and (target.is_dir() or project != target.with_suffix(options.PROJECT_SUFFIX)):
        films = ", ".join(p.with_suffix(".mp4").name for p in projects)
        raise UsageError(f"--rerender: of which film? Write: blockvid history FILM --rerender {number}; {films}.")
    records = _read(project, print_notes=True)
    if number not in records:
        known, name = ", ".join(map(str, records)) or "none", project.with_suffix(".mp4")
        raise UsageError(f"--rerender: there is no render {number} of {name}; there are: {known}.")
    record = records[number]
    output = request.output
    if output is not None and output.exists():
        raise UsageError(f"-o: {output} is there already; give another name.")
    source, text = _source(project, record), read_storyboard_text(project, record)
    if output is None and (there := _film_of(record, project, text, request.allow_outside)):
        display.result(
            {"film": str(there), "rendered": 0}, f"{there} is render {number} already; nothing is rendered.", as_json
        )
        return
    expected = source == target.resolve() or source.is_relative_to(project.parent.resolve())
    folder = source.parent if expected and source.parent.is_dir() else project.parent
    suffix = source.suffix if source.suffix.lower() in STORYBOARD_SUFFIXES else ".yaml"
    story = _write_copy(folder / f"{project.stem}-{number}{suffix}", text, film_beside=output is None)
    if form is not display.ProgressForm.NONE:
        terminal.note(f"{story}: the storyboard of render {number}")
    job = repeat_job(record, story, output, request.allow_outside)
    if fingerprint(job.card) != record.weights:
        terminal.note(f"note: the weights of '{job.card.name}' have changed since; the film will differ.")
    film.print_result(film.render_film(job, form), form, as_json)


def _film_of(record: RenderRecord, project: Path, text: bytes, allow_outside: bool) -> Path | None:
    """Returns the film of a project, if it is still that of a render: of its storyboard, options and weights."""
    from blockvid_cli.models.hub import fingerprint
    from blockvid_cli.retake import film_is_current

    source, made = _source(project, record), project.with_suffix(".mp4")
    with suppress(OSError, BlockvidError):  # the storyboard, the model or the options are not there any more
        if read_regular_file(source, len(text)) == text:
            job = repeat_job(record, source, made, allow_outside)
            return made if fingerprint(job.card) == record.weights and film_is_current(job) else None
    return None


def _write_copy(path: Path, text: bytes, film_beside: bool) -> Path:
    """Writes a storyboard to ``path`` or a numbered name like it; reuses a file that holds this very text already.

    With ``film_beside`` the film's name beside it must be free as well.
    """
    for number in count(1):
        story = path if number == 1 else path.with_stem(f"{path.stem}-{number}")
        if film_beside and any(story.with_name(f"{story.stem}{end}").exists() for end in (".mp4", "-film.mp4")):
            continue
        if not os.path.lexists(story):
            with story.open("xb") as file:
                file.write(text)
        with suppress(OSError):  # another, larger file, or none that can be read
            if read_regular_file(story, len(text)) == text:
                return story
    raise AssertionError("count() does not end")


def repeat_job(record: RenderRecord, story: Path, output: Path | None, allow_outside: bool = False) -> RenderJob:
    """Returns the job of a recorded render, for a storyboard that holds the text of then.

    It uses the options of then; where these have come to mean something else (another card, another machine), it uses
    the values that they had then. Only ``allow_outside`` is what is asked for now.

    Raises:
        UsageError: it was recorded by a blockvid that had other options, or they are not available here.
    """
    from blockvid_cli.job import prepare

    request = replace(_request(record, story, output), allow_outside=allow_outside)
    job = prepare(request)
    same_plan = (job.plan.seed, job.plan.size, job.plan.fps) == (record.seed, record.size, record.fps)
    same_runtime = (job.preset.precision.name, job.preset.kv_dtype) == (record.precision, record.kv_dtype)
    if same_plan and same_runtime and job.recipe_values == record.recipe:
        return job
    request = replace(
        request,
        seed=record.seed,
        size="x".join(map(str, record.size)),
        fps=record.fps,
        recipe=dict(record.recipe),
        runtime=replace(request.runtime, precision=record.precision, kv_dtype=record.kv_dtype),
    )
    return prepare(request, job.storyboard)


def _request(record: RenderRecord, story: Path, output: Path | None) -> RenderRequest:
    """The request of then."""
    from blockvid_cli.job import RenderRequest

    unknown = sorted(set(record.options) - {field.name for field in fields(RenderRequest)})
    if not unknown:
        values = {"untrained_size": True, **record.options, "storyboard": story, "output": output}
        try:
            return TypeAdapter(RenderRequest).validate_python(values)
        except ValidationError as error:
            unknown = [".".join(str(part) for part in problem["loc"]) for problem in error.errors()]
    raise UsageError(f"this render was made with options that blockvid does not know now: {', '.join(unknown)}.")
