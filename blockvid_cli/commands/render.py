"""``blockvid render``: a storyboard becomes a film."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from blockvid_cli.commands import show
from blockvid_cli.errors import UsageError


def render(
    story: Annotated[Path, typer.Argument(help="a storyboard, or captions that can be imported")],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="the film; default: beside the storyboard")] = None,
    model: Annotated[str | None, typer.Option(help="a bundled model, or a folder with a card.yaml")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="the same seed draws the same film")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="evaluations of the network a block")] = None,
    guidance_scale: Annotated[float | None, typer.Option(help="classifier-free guidance; 1 is none")] = None,
    size: Annotated[str | None, typer.Option(help="WIDTHxHEIGHT in pixels")] = None,
    fps: Annotated[float | None, typer.Option(help="frames a second")] = None,
    memory: Annotated[
        str | None, typer.Option(help="everything, window or semantic; or with options: '{name: window, sink: 3}'")
    ] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="change a field: chunks.4.seed=7")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda:0")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, fp32, bf16 or fp16")] = "auto",
    fresh: Annotated[bool, typer.Option("--fresh", help="draw everything again")] = False,
    metadata: Annotated[bool, typer.Option(help="storyboard, recipe and seeds inside the film")] = True,
    allow_outside: Annotated[bool, typer.Option("--allow-outside", help="let the storyboard name files elsewhere")] = False,
    progress: Annotated[show.ProgressForm, typer.Option(help="how progress is told, on stderr")] = show.ProgressForm.AUTO,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="no progress, no notes")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print the result as JSON")] = False,
) -> None:
    """Draw a storyboard, chunk by chunk. Interrupted or edited, the same command goes on with what is missing.

    Example: blockvid render storyboards/swan.yaml --seed 7 -o swan.mp4
    """
    from blockvid_cli.clock import Clock
    from blockvid_cli.pipeline import Order, prepare
    from blockvid_cli.pipeline import render as draw

    recipe = {"steps": steps, "guidance": guidance_scale, "memory": _memory(memory)}
    order = Order(
        story=story,
        output=output,
        model=model,
        seed=seed,
        size=size,
        fps=fps,
        recipe={name: value for name, value in recipe.items() if value is not None},
        overrides=tuple(set_ or ()),
        device=device,
        dtype=dtype,
        fresh=fresh,
        metadata=metadata,
        allow_outside=allow_outside,
    )
    job, clock = prepare(order), Clock()
    with show.progress(job, show.ProgressForm.NONE if quiet else progress) as tell:
        film = draw(job, tell, clock)
    spent = sum(clock.seconds.values())
    values: dict[str, Any] = {
        "film": str(film.path),
        "seconds": film.seconds,
        "frames": film.frames,
        "seed": job.plan.seed,
        "rendering_seconds": round(spent, 1),
        "phases": {name: round(seconds, 2) for name, seconds in clock.seconds.items()},
    }
    sentence = f"{film.path}: {film.seconds:.3f} s, {film.frames} frames, seed {job.plan.seed}, drawn in {spent:.1f} s"
    show.result(values, sentence, as_json)


def _memory(text: str | None) -> str | dict[str, Any] | None:
    """A memory's name, or its name and options as a YAML mapping."""
    if text is None:
        return None
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UsageError("--memory: this is a name, or a mapping like '{name: window, sink: 3}'.") from error
    if not isinstance(value, str | dict):
        raise UsageError(f"--memory: this is a name, or a mapping like '{{name: window, sink: 3}}'; not {text!r}.")
    return value
