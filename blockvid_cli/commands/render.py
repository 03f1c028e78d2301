"""``blockvid render``: a storyboard becomes a film, several become several."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from blockvid_cli.commands import batch as many
from blockvid_cli.commands import display as show
from blockvid_cli.commands import film, options
from blockvid_cli.commands import retake_options as again
from blockvid_cli.commands.options import recipe_of
from blockvid_cli.storyboard.storyboard import read_storyboard


def render(
    stories: options.Stories,
    output: options.Output = None,
    model: options.Model = None,
    seed: options.Seed = None,
    seeds: options.Seeds = None,
    steps: options.Steps = None,
    guidance_scale: options.Guidance = None,
    size: options.Size = None,
    fps: options.Fps = None,
    memory: options.Memory = None,
    set_: options.Set = None,
    device: options.Device = "auto",
    precision: options.Precision = "auto",
    profile: options.Profile = "auto",
    offload: options.Offload = None,
    memory_storage: options.MemoryStorage = None,
    memory_dtype: options.MemoryDtype = None,
    retry: Annotated[bool, typer.Option(help="go on with a lower profile when memory runs out")] = True,
    fresh: Annotated[bool, typer.Option("--fresh", help="draw everything again")] = False,
    chunk: options.Chunk = None,
    take: options.Take = None,
    from_chunk: options.FromChunk = None,
    only: options.Only = None,
    report: Annotated[bool, typer.Option(help="a page beside the film: how it was drawn, how it drifts")] = True,
    metadata: Annotated[bool, typer.Option(help="storyboard, recipe and seeds inside the film")] = True,
    allow_outside: options.AllowOutside = False,
    progress: options.Progress = show.ProgressForm.AUTO,
    quiet: options.Quiet = False,
    as_json: options.AsJson = False,
) -> None:
    """Draw a storyboard, chunk by chunk. Interrupted or edited, the same command goes on with what is missing.

    Several storyboards, or several --seeds, are drawn one after another; what fails does not stop the rest.

    One bad chunk is drawn again with --chunk 5, or with --only 5 while its neighbours stay as they are.

    Example: blockvid render storyboards/swan.yaml --seed 7 -o swan.mp4

    Example: blockvid render storyboards/swan.yaml storyboards/balloon.yaml --seeds 1..4
    """
    several = many.asked(stories, seed, seeds, output)
    again.checked(chunk, take, from_chunk, only, bool(several), fresh)
    if not several:
        read_storyboard(stories[0], set_ or (), allow_outside)  # a mistake is told before torch is loaded
    from blockvid_cli.job import RenderRequest, prepare
    from blockvid_cli.runtime.presets import RuntimeOptions

    means = RuntimeOptions(profile, precision, offload, memory_storage, memory_dtype)
    recipe = recipe_of(steps, guidance_scale, memory)
    order = RenderRequest(stories[0], output, model, seed, size, fps, recipe, tuple(set_ or ()), device, means)
    order = replace(order, retry=retry, fresh=fresh, metadata=metadata, allow_outside=allow_outside)
    form = show.ProgressForm.NONE if quiet else progress
    if several:
        many.draw_all(many.orders(order, stories, seeds), form, as_json)
    else:
        job = again.redrawn(prepare(order), chunk, take, from_chunk, only)
        film.report(film.draw(job, form, report), form, as_json)
