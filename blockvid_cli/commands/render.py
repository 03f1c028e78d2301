"""``blockvid render``: a storyboard becomes a film."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml

from blockvid_cli.clock import Clock
from blockvid_cli.commands import options, show
from blockvid_cli.errors import Interrupted, UsageError
from blockvid_cli.story.storyboard import read_storyboard

if TYPE_CHECKING:
    from blockvid_cli.film.mux import Film
    from blockvid_cli.order import Job


def render(
    story: options.Story,
    output: options.Output = None,
    model: options.Model = None,
    seed: options.Seed = None,
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
    metadata: Annotated[bool, typer.Option(help="storyboard, recipe and seeds inside the film")] = True,
    allow_outside: options.AllowOutside = False,
    progress: Annotated[show.ProgressForm, typer.Option(help="on stderr")] = show.ProgressForm.AUTO,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="no progress, no notes")] = False,
    as_json: options.AsJson = False,
) -> None:
    """Draw a storyboard, chunk by chunk. Interrupted or edited, the same command goes on with what is missing.

    Example: blockvid render storyboards/swan.yaml --seed 7 -o swan.mp4
    """
    read_storyboard(story, set_ or (), allow_outside)  # a mistake is told before torch is loaded
    from blockvid_cli.order import Order, prepare
    from blockvid_cli.pipeline import render as draw
    from blockvid_cli.zoo.profile import Means

    order = Order(
        story=story,
        output=output,
        model=model,
        seed=seed,
        size=size,
        fps=fps,
        recipe=recipe_of(steps, guidance_scale, memory),
        overrides=tuple(set_ or ()),
        device=device,
        means=Means(profile, precision, offload, memory_storage, memory_dtype),
        retry=retry,
        fresh=fresh,
        metadata=metadata,
        allow_outside=allow_outside,
    )
    job, clock = prepare(order), Clock()
    try:
        with show.progress(job, show.ProgressForm.NONE if quiet else progress) as tell:
            film = draw(job, tell, clock)
    except KeyboardInterrupt as stop:
        raise Interrupted("interrupted; everything finished is kept, the same command goes on.") from stop
    _report(film, job, clock, as_json)


def _report(film: Film, job: Job, clock: Clock, as_json: bool) -> None:
    """What came of it, to stdout."""
    spent = sum(clock.seconds.values())
    values = {
        "film": str(film.path),
        "seconds": film.seconds,
        "frames": film.frames,
        "seed": job.plan.seed,
        "rendering_seconds": round(spent, 1),
        "phases": {name: round(seconds, 2) for name, seconds in clock.seconds.items()},
    }
    sentence = f"{film.path}: {film.seconds:.3f} s, {film.frames} frames, seed {job.plan.seed}, drawn in {spent:.1f} s"
    show.result(values, sentence, as_json)


def recipe_of(steps: int | None = None, guidance: float | None = None, memory: str | None = None) -> dict[str, Any]:
    """What options say of a recipe; a memory is a name, or a YAML mapping of name and options."""
    given = {"steps": steps, "guidance": guidance, "memory": _memory(memory)}
    return {name: value for name, value in given.items() if value is not None}


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
