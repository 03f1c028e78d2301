"""``blockvid train``: the bundled model from nothing."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    no_args_is_help=True,
    help="Train a model.\n\nExample: blockvid train storybook --run runs/storybook --codec-steps 20 --network-steps 20",
)


@app.callback()
def root() -> None:
    """Keeps ``storybook`` a sub-command."""


@app.command()
def storybook(
    run: Annotated[Path, typer.Option(help="where state, latents and logs go")] = Path("runs/storybook"),
    codec_steps: Annotated[int, typer.Option(min=1, help="steps of the codec")] = 1500,
    network_steps: Annotated[int, typer.Option(min=1, help="steps of the network")] = 1900,
    stories: Annotated[int, typer.Option(min=1, help="stories the network learns from")] = 600,
    seed: Annotated[int, typer.Option(min=0, help="of the initial weights")] = 0,
    output: Annotated[Path | None, typer.Option("-o", help="a folder for card and weights; default: RUN/model")] = None,
) -> None:
    """Retrain the bundled model from nothing: stories are drawn, then codec and network learn. Resumable.

    Example: blockvid train storybook --run runs/storybook
    """
    from blockvid_cli.training.storybook import Course, retrain

    course = Course(codec_steps=codec_steps, network_steps=network_steps, stories=stories, seed=seed)
    folder = retrain(course, run, output or run / "model", _tell)
    print(f"{folder}: card and weights; draw with it: blockvid render STORY --model {folder}")


def _tell(figures: dict[str, float]) -> None:
    """Progress as JSON lines on stderr."""
    print(json.dumps(figures), file=sys.stderr, flush=True)
