"""All commands of ``blockvid``; nothing here imports torch."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from blockvid_cli import __version__
from blockvid_cli.commands import (
    bench,
    data,
    doctor,
    eval,
    finetune,
    history,
    models,
    preview,
    render,
    storyboard,
    takes,
    terminal,
    train,
)
from blockvid_cli.errors import UsageError

UsageMistake: type[Any] = typer.BadParameter.__bases__[0]  # typer raises it, and does not export it
RENAMED = {  # options that had other names once
    "--profile": "--preset",
    "--redraw": "--rerender",
    "--memory": "--kv-cache",
    "--memory-storage": "--kv-storage",
    "--memory-dtype": "--kv-dtype",
    "--codec-steps": "--vae-steps",
}

PROGRAM = "blockvid"

app = typer.Typer(
    name=PROGRAM,
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
app.command()(finetune.finetune)
app.add_typer(train.app, name="train")


def _version(requested: bool) -> None:
    if requested:
        terminal.write(f"blockvid {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version and exit")
    ] = False,
) -> None:
    """Options before a command."""


def run() -> int:
    """Runs the command that the process was started with; returns its exit code.

    Raises:
        UsageError: there is no such command or option, or a value is of the wrong type.
        BlockvidError: as the command does.
    """
    try:
        return app(prog_name=PROGRAM, standalone_mode=False) or 0
    except UsageMistake as mistake:
        message = mistake.format_message()
        if not message:  # there were no arguments, and the help was printed instead
            return UsageError.exit_code
        old_name = getattr(mistake, "option_name", "")
        if old_name in RENAMED:
            message = f"No such option: {old_name}; it is now {RENAMED[old_name]}."
        sentence = " ".join(message.split())
        stop = "" if sentence.endswith((".", "?")) else "."
        command = mistake.ctx.command_path if mistake.ctx else PROGRAM
        raise UsageError(f"{sentence}{stop} See: {command} --help") from mistake
