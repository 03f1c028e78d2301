"""``blockvid history``: lists the renders of a project, and renders any one of them again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, fields, replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import TypeAdapter, ValidationError

from blockvid_cli.commands import display, film, options, terminal
from blockvid_cli.errors import UsageError

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


def history(
    target: Target = Path("."),
    rerender: Annotated[int | None, typer.Option(min=1, metavar="NUMBER", help="render that one again")] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="with --rerender: the film to write")] = None,
    progress: options.Progress = display.ProgressForm.AUTO,
    quiet: options.Quiet = False,
    as_json: options.AsJson = False,
) -> None:
    """List the renders of a storyboard: when, with which options, and with what result.

    With --rerender 3 the storyboard of render 3 is written to story-3.yaml, and rendered with the same options.

    Example: blockvid history storyboards/swan.yaml

    Example: blockvid history storyboards/swan.yaml --rerender 1 -o first.mp4
    """
    projects = _find_projects(target)
    if rerender is not None:
        form = display.ProgressForm.NONE if quiet else progress
        _rerender(projects, target, rerender, output, form, as_json)
    elif output is not None:
        raise UsageError("-o goes with --rerender.")
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
        raise UsageError(f"there is no project of {target} in {folder.resolve()}; 'blockvid render STORY' begins one.")
    return projects


def _rendered(project: Path, story: Path) -> bool:
    """Whether a project's history names a storyboard."""
    return any(_source(project, record) == story.resolve() for record in _read(project).values())


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
    """Prints every render, a table per film."""
    records_of = {project: _read(project, print_notes=True) for project in projects}
    if as_json:
        rows = [
            {"number": number, "project": str(project), **asdict(record)}
            for project, records in records_of.items()
            for number, record in records.items()
        ]
        terminal.write_json(rows)
        return
    for project, records in records_of.items():
        terminal.write(f"{project.with_suffix('.mp4')}: " + ("" if records else "no render is recorded"))
        if records:
            names = ("number", "time (UTC)", "seed", "model", "options", "chunks", "took", "result")
            display.table(names, [_cells(number, record) for number, record in records.items()])


def _cells(number: int, record: RenderRecord) -> tuple[str, ...]:
    resumed = f", {record.resumed} resumed" if record.resumed else ""
    return (
        str(number),
        record.time.replace("T", " ").removesuffix("Z"),
        str(record.seed),
        record.model,
        ", ".join(_option_words(record.options)) or "-",
        f"{record.rendered} of {record.chunks}{resumed}",
        f"{record.seconds:g} s",
        record.result,
    )


def _option_words(values: Mapping[str, Any]) -> Iterator[str]:
    """Options as ``name value``; nested ones by their own name. Seed and model have columns of their own."""
    for name, value in values.items():
        if name in ("runtime", "recipe"):
            yield from _option_words(value)
        elif name == "overrides":
            yield from value
        elif name not in ("seed", "model"):
            yield f"{name.replace('_', '-')} {_flow(value)}"


def _flow(value: object) -> str:
    """A value as it may be typed: ``{name: window, sink: 3}``."""
    return f"{{{', '.join(f'{k}: {_flow(v)}' for k, v in value.items())}}}" if isinstance(value, dict) else str(value)


def _rerender(
    projects: list[Path], target: Path, number: int, output: Path | None, form: display.ProgressForm, as_json: bool
) -> None:
    """Writes the storyboard of a render to a new file, and renders it with the same options."""
    from blockvid_cli.models.hub import fingerprint
    from blockvid_cli.project.history import read_storyboard_text

    project = projects[0]
    if len(projects) > 1 and (target.is_dir() or project != target.with_suffix(options.PROJECT_SUFFIX)):
        films = ", ".join(p.with_suffix(".mp4").name for p in projects)
        raise UsageError(f"--rerender: of which film? Write: blockvid history FILM --rerender {number}; {films}.")
    records = _read(project, print_notes=True)
    if number not in records:
        known, name = ", ".join(map(str, records)) or "none", project.with_suffix(".mp4")
        raise UsageError(f"--rerender: there is no render {number} of {name}; there are: {known}.")
    record = records[number]
    if output is not None and output.exists():
        raise UsageError(f"-o: {output} is there already; give another name.")
    source, text = _source(project, record), read_storyboard_text(project, record)
    folder = source.parent if source.parent.is_dir() else project.parent
    story = _write_copy(folder / f"{project.stem}-{number}{source.suffix}", text, film_beside=output is None)
    if form is not display.ProgressForm.NONE:
        terminal.note(f"{story}: the storyboard of render {number}")
    job = repeat_job(record, story, output)
    if fingerprint(job.card) != record.weights:
        terminal.note(f"note: the weights of '{job.card.name}' have changed since; the film will differ.")
    film.print_result(film.render_film(job, form), form, as_json)


def _write_copy(path: Path, text: bytes, film_beside: bool) -> Path:
    """Writes a storyboard to ``path`` or a numbered name like it; reuses a file that holds this very text already.

    With ``film_beside`` the film's name beside it must be free as well.
    """
    for number in count(1):
        story = path if number == 1 else path.with_stem(f"{path.stem}-{number}")
        if film_beside and any(story.with_name(f"{story.stem}{end}").exists() for end in (".mp4", "-film.mp4")):
            continue
        if not story.exists():
            with story.open("xb") as file:
                file.write(text)
        if story.read_bytes() == text:
            return story
    raise AssertionError("count() does not end")


def repeat_job(record: RenderRecord, story: Path, output: Path | None) -> RenderJob:
    """Returns the job of a recorded render, for a storyboard that holds the text of then.

    It uses the options of then; where these have come to mean something else (another card, another machine), it uses
    the values that they had then.

    Raises:
        UsageError: it was recorded by a blockvid that had other options, or they are not available here.
    """
    from blockvid_cli.job import prepare

    request = _request(record, story, output)
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
        values = {**record.options, "storyboard": story, "output": output}
        try:
            return TypeAdapter(RenderRequest).validate_python(values)
        except ValidationError as error:
            unknown = [".".join(str(part) for part in problem["loc"]) for problem in error.errors()]
    raise UsageError(f"this render was made with options that blockvid does not know now: {', '.join(unknown)}.")
