"""``blockvid bench``: how fast a model draws on this machine, and where the time goes."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from blockvid_cli.commands import options
from blockvid_cli.commands.render import recipe_of


def bench(
    model: options.Model = None,
    seconds: Annotated[int, typer.Option(min=4, help="of film to draw")] = 20,
    size: options.Size = None,
    memory: options.Memory = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    as_json: options.AsJson = False,
) -> None:
    """Draw a film and measure it, all in one run: seconds by phase, film seconds a second, peak memory, time a block,
    and the denoiser's rate beside a matrix product of the same dtype.

    Example: blockvid bench --model storybook --seconds 60
    """
    from blockvid_cli.evaluation.speed import measure

    figures = measure(model, seconds, size, device, dtype, recipe_of(memory=memory))
    print(json.dumps(figures) if as_json else _table(figures))


def _table(figures: dict[str, Any], indent: str = "") -> str:
    """Figures as lines, nested ones indented."""
    lines = []
    for name, value in figures.items():
        if isinstance(value, dict):
            lines += [f"{indent}{name.replace('_', ' ')}", _table(value, indent + "  ")]
        else:
            lines.append(f"{indent}{name.replace('_', ' '):28} {value}")
    return "\n".join(lines)
