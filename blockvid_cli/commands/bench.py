"""``blockvid bench``: measures how fast a model is on this machine, or how good its films are."""

from __future__ import annotations

from typing import Annotated

import typer

from blockvid_cli.commands import display, options, terminal
from blockvid_cli.errors import UsageError


def bench(
    model: options.Model = None,
    seconds: Annotated[
        int | None, typer.Option(min=4, help="length of the film; else 20, or 60 with --quality")
    ] = None,
    size: options.Size = None,
    kv_cache: options.KVCache = None,
    device: options.Device = "auto",
    precision: options.Precision = "auto",
    preset: options.Preset = "auto",
    offload: options.Offload = None,
    kv_storage: options.KVStorage = None,
    kv_dtype: options.KVDtype = None,
    quality: Annotated[bool, typer.Option("--quality", help="measure how good the films are, not how fast")] = False,
    films: Annotated[int | None, typer.Option(min=2, help="with --quality: how many stories; else 100")] = None,
    as_json: options.AsJson = False,
) -> None:
    """Measure how fast a model is on this machine, or with --quality how good its films are.

    The speed: seconds by phase, film seconds per second, peak memory, time per block, the denoiser's rate.

    The quality: a picture-book model renders held-out stories, and a probe checks whether they show their captions.

    100 stories of a minute take about half an hour on two cores.

    Example: blockvid bench --model storybook --seconds 60

    Example: blockvid bench --model storybook --quality --films 10 --seconds 20
    """
    from blockvid_cli.runtime.presets import RuntimeOptions

    runtime, recipe = (
        RuntimeOptions(preset, precision, offload, kv_storage, kv_dtype),
        options.recipe_options(kv_cache=kv_cache),
    )
    if quality:
        from blockvid_cli.evaluation.bench.quality import measure_quality

        if size:
            raise UsageError("--size: --quality measures a model at the size of its edition.")
        figures = measure_quality(
            model or "storybook", films or 100, seconds or 60, device, runtime, recipe, notify=terminal.note
        )
    else:
        from blockvid_cli.evaluation.bench.speed import measure_speed

        if films:
            raise UsageError("--films goes with --quality.")
        figures = measure_speed(model, seconds or 20, size, device, runtime, recipe)
    terminal.write_json(figures) if as_json else terminal.write(display.lines(figures))
