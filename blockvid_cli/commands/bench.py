"""``blockvid bench``: how fast a model draws on this machine, and where the time goes."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from blockvid_cli.commands import display as show
from blockvid_cli.commands import options
from blockvid_cli.commands.options import recipe_of
from blockvid_cli.errors import UsageError


def bench(
    model: options.Model = None,
    seconds: Annotated[int | None, typer.Option(min=4, help="of film to draw; 20, or 60 with --quality")] = None,
    size: options.Size = None,
    memory: options.Memory = None,
    device: options.Device = "auto",
    precision: options.Precision = "auto",
    profile: options.Profile = "auto",
    offload: options.Offload = None,
    memory_storage: options.MemoryStorage = None,
    memory_dtype: options.MemoryDtype = None,
    quality: Annotated[bool, typer.Option("--quality", help="measure what is drawn, not how fast")] = False,
    films: Annotated[int | None, typer.Option(min=2, help="with --quality: held-out stories to draw; 100")] = None,
    as_json: options.AsJson = False,
) -> None:
    """Draw a film and measure it, all in one run: seconds by phase, film seconds a second, peak memory, time a block,
    and the denoiser's rate beside a matrix product of the same dtype.

    With --quality a picture-book model draws held-out stories, and its probe reads whether the films show what their
    captions asked for, to the last second. 100 stories of a minute take about half an hour on two cores.

    Example: blockvid bench --model storybook --seconds 60

    Example: blockvid bench --model storybook --quality --films 10 --seconds 20
    """
    from blockvid_cli.runtime.presets import RuntimeOptions

    means = RuntimeOptions(profile, precision, offload, memory_storage, memory_dtype)
    if quality:
        from blockvid_cli.evaluation.bench.quality import measure_quality

        if size:
            raise UsageError("--size: --quality measures a model at the size of its edition.")
        recipe = recipe_of(memory=memory)
        figures = measure_quality(
            model or "storybook", films or 100, seconds or 60, device, means, recipe, tell_progress=_tell
        )
    else:
        from blockvid_cli.evaluation.bench.speed import measure_speed

        if films:
            raise UsageError("--films goes with --quality.")
        figures = measure_speed(model, seconds or 20, size, device, means, recipe_of(memory=memory))
    print(json.dumps(figures) if as_json else show.lines(figures))


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
