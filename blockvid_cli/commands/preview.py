"""``blockvid preview``: what a chunk will look like, before the long render."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from blockvid_cli.commands import last, options, show
from blockvid_cli.errors import Interrupted, UsageError
from blockvid_cli.story.storyboard import read_storyboard

if TYPE_CHECKING:
    from blockvid_cli.order import Job
    from blockvid_cli.preview import Look

ACROSS = 8  # stills of a chunk in its sheet


def preview(
    story: Annotated[Path | None, typer.Argument(help="default: story.yaml here, or the last one rendered")] = None,
    chunk: Annotated[int | None, typer.Option(min=1, help="which chunk; without, the whole film in stills")] = None,
    takes: Annotated[int, typer.Option(min=1, max=9, help="of the chunk, side by side: other seeds")] = 1,
    draft: Annotated[bool, typer.Option("--draft", help="fewer steps: faster, and not what the film will be")] = False,
    gif: Annotated[bool, typer.Option("--gif", help="write an animated GIF too")] = False,
    output: options.Output = None,
    model: options.Model = None,
    seed: options.Seed = None,
    set_: options.Set = None,
    device: options.Device = "auto",
    profile: options.Profile = "auto",
    progress: Annotated[show.ProgressForm, typer.Option(help="on stderr")] = show.ProgressForm.AUTO,
    as_json: options.AsJson = False,
    allow_outside: options.AllowOutside = False,
) -> None:
    """Look at one chunk as it will be in the film: same seeds, same memory. What is drawn for it is kept for the render.

    Without --chunk the whole film is drawn as a draft, and shown as a sheet of stills.

    Example: blockvid preview storyboards/swan.yaml --chunk 5
    """
    story = story or last.storyboard(Path.cwd())
    read_storyboard(story, set_ or (), allow_outside)  # a mistake is told before torch is loaded
    if chunk is None and takes > 1:
        raise UsageError("--takes: of which chunk? Name it with --chunk.")
    from blockvid_cli.order import Order, prepare
    from blockvid_cli.preview import look, stills
    from blockvid_cli.zoo.profile import Means

    job = prepare(
        Order(
            story,
            output,
            model,
            seed,
            overrides=tuple(set_ or ()),
            device=device,
            means=Means(profile),
            allow_outside=allow_outside,
        )
    )
    try:
        with show.progress(job, progress) as tell:
            if chunk is None:
                files = _sheet(job, stills(job, tell))
            else:
                files = _written(job, look(job, chunk, takes, draft, tell), draft, gif)
    except KeyboardInterrupt as stop:
        raise Interrupted("interrupted; everything finished is kept, the same command goes on.") from stop
    show.result({"files": [str(file) for file in files]}, "\n".join(map(str, files)), as_json)
