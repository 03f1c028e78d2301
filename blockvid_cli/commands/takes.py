"""``blockvid takes``: lists the takes of each chunk, chooses the one in the film, and removes others."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from blockvid_cli.commands import display, film, options
from blockvid_cli.storyboard.storyboard import read_storyboard

if TYPE_CHECKING:
    from blockvid_cli.job import RenderJob

app = typer.Typer(
    no_args_is_help=True,
    help="List, choose and drop takes of chunks.\n\nExample: blockvid takes list storyboards/swan.yaml",
)

Chunk = Annotated[int, typer.Argument(min=1, help="number of the chunk, counted from 1")]
Number = Annotated[int, typer.Argument(metavar="TAKE", min=1, help="number of the take, as 'takes list' shows it")]


@app.command("list")
def list_(
    story: options.Story,
    output: options.OfFilm = None,
    as_json: options.AsJson = False,
    allow_outside: options.AllowOutside = False,
) -> None:
    """List the takes of every chunk; the one in the film is in brackets.

    Example: blockvid takes list storyboards/swan.yaml
    """
    job = _job(story, output, allow_outside)
    from blockvid_cli.retake import existing_takes

    chunks = job.plan.chunks
    takes = {chunk.number: existing_takes(job, chunk.number) for chunk in chunks}
    alone = {number for number, choice in job.takes.items() if choice.between}
    if as_json:
        rows = [
            {
                "chunk": chunk.number,
                "takes": takes[chunk.number],
                "in_the_film": chunk.take,
                "alone": chunk.number in alone,
                "seed": chunk.seed,
                "caption": chunk.caption,
            }
            for chunk in chunks
        ]
        display.result({"film": str(job.output), "chunks": rows}, "", as_json)
        return
    cells = [
        (
            str(chunk.number),
            " ".join(f"[{take}]" if take == chunk.take else str(take) for take in takes[chunk.number]) or "-",
            *(["yes" if chunk.number in alone else ""] * bool(alone)),
            chunk.caption,
        )
        for chunk in chunks
    ]
    display.table(("chunk", "takes", *(["alone"] * bool(alone)), "caption"), cells)


@app.command()
def choose(
    story: options.Story,
    chunk: Chunk,
    take: Number,
    output: options.OfFilm = None,
    as_json: options.AsJson = False,
    allow_outside: options.AllowOutside = False,
) -> None:
    """Put another take of a chunk into the film; the next render writes the film.

    Chunks after it are rendered again, unless the take was rendered alone (--only).

    'blockvid render story.yaml --only 5' renders the take that this example chooses.

    Example: blockvid takes choose story.yaml 5 2
    """
    job = _job(story, output, allow_outside)
    from blockvid_cli.project.identity import write_take_choices
    from blockvid_cli.project.project import project_folder
    from blockvid_cli.retake import choose_take, chunk_changes

    job = choose_take(job, chunk, take)
    write_take_choices(project_folder(job.output), job.takes)
    pending = [change.chunk for change in chunk_changes(job) if change.action != "keep"]
    display.result(
        {"film": str(job.output), "chunk": chunk, "take": take, "to_render": pending},
        f"take {take} of chunk {chunk} is chosen. {film.what_is_out_of_date(job)}",
        as_json,
    )


@app.command()
def drop(
    story: options.Story,
    chunk: Chunk,
    take: Number,
    output: options.OfFilm = None,
    as_json: options.AsJson = False,
    allow_outside: options.AllowOutside = False,
) -> None:
    """Remove a take that is not in the film.

    Example: blockvid takes drop story.yaml 5 1
    """
    job = _job(story, output, allow_outside)
    from blockvid_cli.retake import remove_take

    files = remove_take(job, chunk, take)
    display.result({"removed": [str(file) for file in files]}, f"take {take} of chunk {chunk} is removed.", as_json)


def _job(story: Path, output: Path | None, allow_outside: bool) -> RenderJob:
    """The job of a film with the options that it was last rendered with."""
    storyboard = read_storyboard(story, (), allow_outside)  # before torch is loaded
    from blockvid_cli.job import RenderRequest, prepare

    job = prepare(RenderRequest(story, output=output, allow_outside=allow_outside), storyboard)
    request = film.last_request(job)
    return job if request == job.request else prepare(request)
