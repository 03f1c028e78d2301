"""``blockvid data``: makes films whose drift is known, to test metrics with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from blockvid_cli.commands import display, options, terminal
from blockvid_cli.errors import UsageError, plural

app = typer.Typer(
    no_args_is_help=True,
    help="Make films to test metrics with.\n\nExample: blockvid data demo --bench runs/drifts",
)


@app.callback()
def root() -> None:
    """Keeps ``demo`` a sub-command."""


@app.command()
def demo(
    bench: Annotated[Path | None, typer.Option(help="the folder to write")] = None,
    stories: Annotated[
        int, typer.Option(min=1, max=100, help="how many stories; each is made with every kind of drift")
    ] = 3,
    seconds: Annotated[int, typer.Option(max=600, help="length of each film; at least 20")] = 60,
    size: Annotated[str, typer.Option(help="WIDTHxHEIGHT in pixels, from 160x96 to 640x384")] = "160x96",
    seed: Annotated[int, typer.Option(min=0, help="another seed gives other stories")] = 0,
    fresh: Annotated[bool, typer.Option("--fresh", help="make existing films again")] = False,
    as_json: options.AsJson = False,
) -> None:
    """Make picture-book films whose drift is known, to test whether a metric ranks them correctly.

    Each story is made without drift, and with six kinds of drift at four severities each.

    The kinds are blur, shifting colours, shaking, a frozen image, another subject, and cuts to another place.

    bench.json says which film is which. The same command continues where it stopped.

    Example: blockvid data demo --bench runs/drifts
    """
    if bench is None:
        raise UsageError("'blockvid data demo' needs a folder for its films; name it, as in --bench runs/drifts.")
    from blockvid_cli.evaluation.demo import plan_demo, write_bench

    values = write_bench(plan_demo(stories, seconds, size, seed), bench, fresh, terminal.note)
    summary = f"{bench}: {plural(values['films'], 'film')} of {seconds} s, {values['rendered']} of them made now"
    display.result(values, f"{summary}; measure them: blockvid eval --suite {bench}", as_json)
