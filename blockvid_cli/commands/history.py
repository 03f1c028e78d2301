"""``blockvid history``: the renders of a project, and any one of them again."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from blockvid_cli.commands import completion as complete
from blockvid_cli.commands import display as show
from blockvid_cli.commands import film, options
from blockvid_cli.commands.history_log import again
from blockvid_cli.errors import UsageError

if TYPE_CHECKING:
    from blockvid_cli.project.history import RenderRecord

PROJECT = ".blockvid"
Place = Annotated[
    Path,
    typer.Argument(
        metavar="[STORY|FOLDER]",
        help="a storyboard, a film, a project, or a folder of projects; default: here",
        autocompletion=complete.projects,
    ),
]


def history(
    place: Place = Path("."),
    redraw: Annotated[int | None, typer.Option(min=1, metavar="NUMBER", help="draw that render again")] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="with --redraw: the film")] = None,
    progress: options.Progress = show.ProgressForm.AUTO,
    quiet: options.Quiet = False,
    as_json: options.AsJson = False,
) -> None:
    """List what was rendered from a storyboard: when, by which options, what came of it.

    With --redraw the storyboard is written out as it was then, beside what it has become (story-3.yaml), and drawn with
    the same options; nothing is overwritten.

    Example: blockvid history storyboards/swan.yaml

    Example: blockvid history storyboards/swan.yaml --redraw 1 -o then.mp4
    """
    found = projects_of(place)
    if redraw is not None:
        _redraw(found, place, redraw, output, show.ProgressForm.NONE if quiet else progress, as_json)
    elif output is not None:
        raise UsageError("-o goes with --redraw.")
    else:
        _list(found, as_json)


def projects_of(place: Path) -> list[Path]:
    """Project folders: this one, those in a folder, or those that drew a storyboard, its namesake first.

    Raises:
        UsageError: there is none.
    """
    if place.is_dir():
        found = [place] if place.suffix == PROJECT else sorted(place.glob(f"*{PROJECT}"))
    else:
        own, beside = place.with_suffix(PROJECT), sorted(place.parent.glob(f"*{PROJECT}"))
        others = [] if place.suffix == ".mp4" else [p for p in beside if p != own and _drew(p, place)]
        found = [own] * own.is_dir() + others
    if not found:
        where = place if place.is_dir() else place.parent
        raise UsageError(f"there is no project of {place} in {where.resolve()}; blockvid render STORY begins one.")
    return found


def _drew(project: Path, story: Path) -> bool:
    """Whether a project's history names a storyboard."""
    renders = _read(project).values()
    return any(_source(project, render) == story.resolve() for render in renders)


def _source(project: Path, render: RenderRecord) -> Path:
    """Where the storyboard of a render lay."""
    return (project.parent.resolve() / render.storyboard).resolve()


def _read(project: Path, tell: bool = False) -> dict[int, RenderRecord]:
    """A project's renders by number; what cannot be read is told of on stderr."""
    from blockvid_cli.project.history import read_history

    found = read_history(project)
    for note in found.notes if tell else ():
        print(f"note: {note}", file=sys.stderr)
    return dict(found.renders)


def _list(projects: list[Path], as_json: bool) -> None:
    """Every render, a table a film."""
    all_renders = {project: _read(project, tell=True) for project in projects}
    if as_json:
        rows = [
            {"number": number, "project": str(project), **asdict(render)}
            for project, renders in all_renders.items()
            for number, render in renders.items()
        ]
        print(json.dumps(rows, ensure_ascii=False))
        return
    for project, renders in all_renders.items():
        print(f"{project.with_suffix('.mp4')}: " + ("" if renders else "no render is recorded"))
        if renders:
            names = ("number", "time (UTC)", "seed", "model", "options", "chunks drawn", "took", "result")
            show.table(names, [_cells(number, render) for number, render in renders.items()])


def _cells(number: int, render: RenderRecord) -> tuple[str, ...]:
    chunks = f"{render.rendered} of {render.chunks}" + (f", {render.resumed} kept" if render.resumed else "")
    when = render.time.replace("T", " ").removesuffix("Z")
    options = ", ".join(_said(render.options)) or "-"
    return str(number), when, str(render.seed), render.model, options, chunks, f"{render.seconds:g} s", render.result


def _said(given: Any) -> Iterator[str]:  # noqa: ANN401
    """Options as ``name value``; those inside another by their own name. Seed and model have columns."""
    for name, value in given.items():
        if name in ("runtime", "recipe"):
            yield from _said(value)
        elif name == "overrides":
            yield from value
        elif name not in ("seed", "model"):
            yield f"{name.replace('_', '-')} {_plain(value)}"


def _plain(value: Any) -> str:  # noqa: ANN401
    """A value in the form in which it may be given: ``{name: window, sink: 3}``."""
    return f"{{{', '.join(f'{k}: {_plain(v)}' for k, v in value.items())}}}" if isinstance(value, dict) else str(value)


def _redraw(
    projects: list[Path], place: Path, number: int, output: Path | None, form: show.ProgressForm, as_json: bool
) -> None:
    """Writes a storyboard as it was, and draws it as it was drawn."""
    from blockvid_cli.models.hub import fingerprint
    from blockvid_cli.project.history import read_storyboard_text

    project = projects[0]
    if len(projects) > 1 and (place.is_dir() or project != place.with_suffix(PROJECT)):
        films = ", ".join(p.with_suffix(".mp4").name for p in projects)
        raise UsageError(f"--redraw: name the film that is meant: blockvid history FILM --redraw {number}; {films}.")
    renders = _read(project, tell=True)
    if number not in renders:
        known = ", ".join(map(str, renders)) or "none"
        raise UsageError(f"--redraw: there is no render {number} of {project.with_suffix('.mp4')}; there are: {known}.")
    render = renders[number]
    if output is not None and output.exists():
        raise UsageError(f"-o: {output} is there already; give another name.")
    source, text = _source(project, render), read_storyboard_text(project, render)
    home = source.parent if source.parent.is_dir() else project.parent
    story = _written(home / f"{project.stem}-{number}{source.suffix}", text, output is None)
    if form is not show.ProgressForm.NONE:
        print(f"{story}: the storyboard as it was", file=sys.stderr)
    job = again(render, story, output)
    if fingerprint(job.card) != render.weights:
        print(f"note: the weights of '{job.card.name}' are others than then; the film will differ.", file=sys.stderr)
    film.report(film.draw(job, form), form, as_json)


def _written(wanted: Path, text: bytes, beside: bool) -> Path:
    """A storyboard in a new file, ``wanted`` or one named like it; or in the one that a redraw which broke off wrote.

    ``beside``: its film will lie beside it, so that the film's name must be free as well.
    """
    for number in count(1):
        story = wanted if number == 1 else wanted.with_stem(f"{wanted.stem}-{number}")
        if beside and any(story.with_name(f"{story.stem}{end}").exists() for end in (".mp4", "-film.mp4")):
            continue
        if not story.exists():
            with story.open("xb") as file:
                file.write(text)
        if story.read_bytes() == text:
            break
    return story
