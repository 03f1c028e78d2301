"""``blockvid preview``: what a chunk will look like, before the long render."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from blockvid_cli.commands import completion as complete
from blockvid_cli.commands import display as show
from blockvid_cli.commands import last, options
from blockvid_cli.errors import Interrupted, UsageError
from blockvid_cli.storyboard.storyboard import read_storyboard

if TYPE_CHECKING:
    import numpy as np

    from blockvid_cli.job import RenderJob
    from blockvid_cli.preview import ChunkPreview

ACROSS = 8  # stills of a chunk in its sheet


def preview(
    story: Annotated[
        Path | None,
        typer.Argument(help="default: story.yaml here, or the last one rendered", autocompletion=complete.storyboards),
    ] = None,
    chunk: Annotated[int | None, typer.Option(min=1, help="which chunk; without, the whole film in stills")] = None,
    takes: Annotated[int, typer.Option(min=1, max=9, help="of the chunk, side by side: other seeds")] = 1,
    draft: Annotated[bool, typer.Option("--draft", help="fewer steps: faster, and not what the film will be")] = False,
    exact: Annotated[bool, typer.Option("--exact", help="a large model's own codec, not a quick decoder")] = False,
    pull: Annotated[bool, typer.Option("--pull", help="first bring the quick decoder of Wan 2.1's latents")] = False,
    gif: Annotated[bool, typer.Option("--gif", help="write an animated GIF too")] = False,
    output: options.OfFilm = None,
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
    progress: options.Progress = show.ProgressForm.AUTO,
    as_json: options.AsJson = False,
    allow_outside: options.AllowOutside = False,
) -> None:
    """Look at one chunk as it will be in the film: same seeds, same memory; what is drawn for it, the render finds.

    Without --chunk the whole film is drawn as a draft, and shown as a sheet of stills.

    Example: blockvid preview storyboards/swan.yaml --chunk 5
    """
    story = story or last.storyboard(Path.cwd())
    read_storyboard(story, set_ or (), allow_outside)  # a mistake is told before torch is loaded
    if chunk is None and takes > 1:
        raise UsageError("--takes: of which chunk? Name it with --chunk.")
    from blockvid_cli.job import RenderRequest, prepare
    from blockvid_cli.preview import PreviewOptions, preview_chunk, preview_stills
    from blockvid_cli.runtime.presets import RuntimeOptions

    recipe, means = options.recipe_of(steps, guidance_scale, memory), RuntimeOptions(profile, precision)
    order = RenderRequest(story, output, model, seed, size, fps, recipe, tuple(set_ or ()), device, means)
    job = prepare(replace(order, allow_outside=allow_outside))
    if pull:
        _pull(job)
    try:
        with show.progress(job, progress) as tell:
            if chunk is None:
                files = _stills(job, preview_stills(job, exact, tell))
            else:
                files = _chunk(job, preview_chunk(job, chunk, takes, PreviewOptions(draft, exact), tell), draft, gif)
    except KeyboardInterrupt as stop:
        raise Interrupted("interrupted; everything finished is kept, the same command goes on.") from stop
    if not as_json:
        _shown(files[-1])
    show.result({"files": [str(file) for file in files]}, "\n".join(map(str, files)), as_json)


def _pull(job: RenderJob) -> None:
    """Brings the quick decoder; it is said what, how large and under which licence."""
    from blockvid_cli.models.taew import TAEW21, TAEW21_BYTES, TAEW21_LICENCE, pull_taehv, has_wan21_latents

    if not has_wan21_latents(job.card):
        raise UsageError(f"--pull: the model '{job.card.name}' needs no quick decoder.")
    size = f"{TAEW21_BYTES / 1e6:.0f} MB, {TAEW21_LICENCE}"
    print(f"TAEHV ({size}), from {TAEW21.repository}", file=sys.stderr, flush=True)
    pull_taehv(job.card)


def _stills(job: RenderJob, pictures: dict[int, np.ndarray]) -> list[Path]:
    """The whole film as a sheet, a still a chunk."""
    from blockvid_cli.video.contact_sheet import contact_sheet, thumbnail

    file = _folder(job) / "film-draft.png"
    labels = [f"{number}. {job.plan.chunks[number - 1].caption}" for number in pictures]
    contact_sheet([thumbnail(picture) for picture in pictures.values()], labels, file)
    return [file]


def _chunk(job: RenderJob, looks: Sequence[ChunkPreview], draft: bool, gif: bool) -> list[Path]:
    """A chunk as a film (and a GIF) and as a sheet of stills; several takes side by side."""
    from blockvid_cli.video.contact_sheet import contact_sheet, thumbnail
    from blockvid_cli.video.ffmpeg import encode_video, exact_rate
    from blockvid_cli.video.gif import write_gif
    from blockvid_cli.video.contact_sheet import side_by_side

    kind = ("-takes" if len(looks) > 1 else "") + ("-draft" if draft else "")
    stem = _folder(job) / f"chunk-{looks[0].chunk:03d}{kind}"
    labels = [f"take {each.take}" for each in looks]
    pictures = list(side_by_side([each.frames for each in looks], labels)) if len(looks) > 1 else looks[0].frames
    size, rate = pictures[0].shape[1::-1], exact_rate(job.plan.fps)
    film, sheet = stem.with_suffix(".mp4"), stem.with_suffix(".png")
    film.parent.mkdir(parents=True, exist_ok=True)
    encode_video(pictures, film, rate=rate, size=size, total=len(pictures), crf=16)
    files = [film]
    if gif:
        write_gif(pictures, stem.with_suffix(".gif"), job.plan.fps)
        files.append(stem.with_suffix(".gif"))
    places = evenly(len(pictures), ACROSS)
    begins = job.plan.chunks[looks[0].chunk - 1].first_frame
    times = [f"{(begins + place) / job.plan.fps:.1f} s" for place in places]
    contact_sheet([thumbnail(pictures[place]) for place in places], times, sheet, columns=4)
    return [*files, sheet]


def evenly(pictures: int, number: int) -> list[int]:
    """The places of ``number`` pictures spread over so many, the first and the last among them."""
    number = min(number, pictures)
    return [round(place * (pictures - 1) / max(number - 1, 1)) for place in range(number)]


def _folder(job: RenderJob) -> Path:
    from blockvid_cli.project.project import project_folder

    return project_folder(job.output) / "preview"


def _shown(sheet: Path) -> None:
    """Draws a sheet in the terminal, where it can."""
    from blockvid_cli.commands.terminal_images import encoded, protocol

    way = protocol(os.environ, sys.stdout.isatty())
    if way is None:
        return
    import numpy
    from PIL import Image

    columns, rows = shutil.get_terminal_size()
    with Image.open(sheet) as picture:
        print(encoded(numpy.asarray(picture.convert("RGB")), way, columns, max(rows - 6, 4)))
