"""``blockvid data``: films to measure with."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from blockvid_cli.commands import display as show
from blockvid_cli.commands import options
from blockvid_cli.errors import UsageError

app = typer.Typer(
    no_args_is_help=True,
    help="Make films to measure with.\n\nExample: blockvid data demo --bench runs/drifts",
)


@app.callback()
def root() -> None:
    """Keeps ``demo`` a sub-command."""


@app.command()
def demo(
    bench: Annotated[Path | None, typer.Option(help="the folder to make")] = None,
    stories: Annotated[int, typer.Option(min=1, max=100, help="each is drawn once without drift, then with each")] = 3,
    seconds: Annotated[int, typer.Option(max=600, help="of each film; at least 20")] = 60,
    size: Annotated[str, typer.Option(help="WIDTHxHEIGHT in pixels, from 160x96 to 640x384")] = "160x96",
    seed: Annotated[int, typer.Option(min=0, help="other numbers tell other stories")] = 0,
    fresh: Annotated[bool, typer.Option("--fresh", help="draw what is there again")] = False,
    as_json: options.AsJson = False,
) -> None:
    """Draw picture-book films whose drift is known, to see whether a measure puts them in order.

    A story is drawn as it is, and then with blur, turning colours, shaking, a standing picture, another subject, and
    cuts to another place, each at four severities. bench.json says which film is which. Run it again and it goes on.

    Example: blockvid data demo --bench runs/drifts
    """
    if bench is None:
        raise UsageError(
            "--bench DIR is what 'blockvid data demo' makes, a folder of films; name it: --bench runs/drifts."
        )
    from blockvid_cli.evaluation.demo import plan_demo, write_bench

    values = write_bench(plan_demo(stories, seconds, size, seed), bench, fresh, _tell)
    told = f"{bench}: {values['films']} films of {seconds} s, {values['drawn']} of them drawn now"
    show.result(values, f"{told}; measure them: blockvid eval --suite {bench}", as_json)


def _tell(line: str) -> None:
    """Progress, a line a film, on stderr."""
    print(line, file=sys.stderr, flush=True)
