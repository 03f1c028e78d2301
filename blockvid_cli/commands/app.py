"""All commands of ``blockvid``; nothing here imports torch."""

from __future__ import annotations

from typing import Annotated

import typer

from blockvid_cli import __version__
from blockvid_cli.commands import bench, data, doctor, eval, history, models, preview, render, storyboard, takes, train

app = typer.Typer(
    name="blockvid",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="A storyboard of timed captions becomes a coherent, minute-long video.\n\n"
    "Try first: [bold]blockvid storyboard new my.yaml[/] writes a small storyboard, [bold]blockvid storyboard check "
    "my.yaml[/] shows its plan, [bold]blockvid render my.yaml[/] renders it, on a laptop.\n\n"
    "Example: blockvid render storyboards/swan.yaml",
)
app.command()(render.render)
app.command()(preview.preview)
app.add_typer(takes.app, name="takes")
app.command()(history.history)
app.add_typer(storyboard.app, name="storyboard")
app.add_typer(models.app, name="models")
app.command()(doctor.doctor)
app.command("eval")(eval.evaluate)
app.add_typer(data.app, name="data")
app.command()(bench.bench)
app.add_typer(train.app, name="train")


def _version(requested: bool) -> None:
    if requested:
        typer.echo(f"blockvid {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version and exit")
    ] = False,
) -> None:
    """Options before a command."""
