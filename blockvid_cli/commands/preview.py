"""``blockvid preview``: shows what a chunk will look like, before the long render."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from blockvid_cli.commands import display, film, options, terminal
from blockvid_cli.errors import Interrupted, UsageError
from blockvid_cli.storyboard.storyboard import read_storyboard

if TYPE_CHECKING:
    import numpy as np

    from blockvid_cli.job import RenderJob
    from blockvid_cli.preview import ChunkPreview

STILLS = 8  # of a chunk, in its contact sheet


def preview(
    story: options.OptionalStory = None,
    chunk: Annotated[int | None, typer.Option(min=1, help="which chunk; default: the whole film, in stills")] = None,
    takes: Annotated[int, typer.Option(min=1, max=9, help="how many takes of the chunk, side by side")] = 1,
    draft: Annotated[bool, typer.Option("--draft", help="use fewer steps: faster, not what the film will be")] = False,
    exact: Annotated[bool, typer.Option("--exact", help="decode with the model's VAE, not a fast decoder")] = False,
    pull: Annotated[bool, typer.Option("--pull", help="first download the fast decoder of Wan 2.1 latents")] = False,
    gif: Annotated[bool, typer.Option("--gif", help="also write an animated GIF")] = False,
    output: options.OfFilm = None,
    model: options.Model = None,
    seed: options.Seed = None,
    steps: options.Steps = None,
    guidance_scale: options.GuidanceScale = None,
    size: options.Size = None,
    untrained_size: options.UntrainedSize = False,
    fps: options.Fps = None,
    kv_cache: options.KVCache = None,
    set_: options.Set = None,
    device: options.Device = "auto",
    precision: options.Precision = "auto",
    preset: options.Preset = "auto",
    progress: options.Progress = display.ProgressForm.AUTO,
    as_json: options.AsJson = False,
    allow_outside: options.AllowOutside = False,
) -> None:
    """Show one chunk as it will be in the film; the render reuses what is rendered here.

    Without --chunk the whole film is rendered as a draft, and shown as a sheet of stills.

    Example: blockvid preview storyboards/swan.yaml --chunk 5
    """
    story = story or options.default_storyboard(Path.cwd(), "preview {} --chunk 5")
    storyboard = read_storyboard(story, set_ or (), allow_outside)  # before torch is loaded
    if chunk is None and takes > 1:
        raise UsageError("--takes: of which chunk? Name it with --chunk.")
    from blockvid_cli.job import RenderRequest, prepare
    from blockvid_cli.preview import PreviewOptions, preview_chunk, preview_stills
    from blockvid_cli.runtime.presets import RuntimeOptions

    request = RenderRequest(storyboard=story, output=output, model=model, seed=seed, size=size, fps=fps, device=device)
    request = replace(request, recipe=options.recipe_options(steps, guidance_scale, kv_cache))
    request = replace(request, overrides=tuple(set_ or ()), runtime=RuntimeOptions(preset, precision))
    job = prepare(replace(request, allow_outside=allow_outside, untrained_size=untrained_size), storyboard)
    if pull:
        _pull_decoder(job)
    try:
        with display.progress(job, progress, plain_on_a_pipe=True) as listener:
            if chunk is None:
                files = _write_stills(job, preview_stills(job, exact, listener))
            else:
                previews = preview_chunk(job, chunk, takes, PreviewOptions(draft, exact), listener)
                files = _write_chunk(job, previews, draft, gif)
    except KeyboardInterrupt as stop:
        raise Interrupted(film.what_is_finished(job), stop) from stop
    if not as_json:
        _show_in_terminal(files[-1])
    display.result({"files": [str(file) for file in files]}, "\n".join(map(str, files)), as_json)


def _pull_decoder(job: RenderJob) -> None:
    """Downloads the fast decoder; prints its name, size and licence."""
    from blockvid_cli.models.preview_decoders import TAEW21, TAEW21_BYTES, TAEW21_LICENCE, pull_taehv
    from blockvid_cli.models.registry import has_wan21_latents

    if not has_wan21_latents(job.card):
        raise UsageError(f"--pull: the model '{job.card.name}' needs no fast decoder.")
    size = f"{TAEW21_BYTES / 1e6:.0f} MB, {TAEW21_LICENCE}"
    terminal.note(f"TAEHV ({size}), from {TAEW21.repository}")
    pull_taehv(job.card)


def _write_stills(job: RenderJob, stills: Mapping[int, np.ndarray]) -> list[Path]:
    """Writes the whole film as a sheet with one still per chunk."""
    from blockvid_cli.video.contact_sheet import contact_sheet, thumbnail

    file = _folder(job) / "film-draft.png"
    labels = [f"{number}. {job.plan.chunks[number - 1].caption}" for number in stills]
    contact_sheet([thumbnail(still) for still in stills.values()], labels, file)
    return [file]


def _write_chunk(job: RenderJob, previews: Sequence[ChunkPreview], draft: bool, gif: bool) -> list[Path]:
    """Writes a chunk as a video (and a GIF) and as a sheet of stills; several takes side by side."""
    from blockvid_cli.video.contact_sheet import contact_sheet, side_by_side, thumbnail, write_gif
    from blockvid_cli.video.ffmpeg import encode_video, exact_rate

    first, several = previews[0], len(previews) > 1
    stem = _folder(job) / f"chunk-{first.chunk:03d}{'-takes' * several}{'-draft' * draft}"
    labels = [f"take {each.take}" for each in previews]
    frames = list(side_by_side([each.frames for each in previews], labels)) if several else first.frames
    video, sheet = stem.with_suffix(".mp4"), stem.with_suffix(".png")
    video.parent.mkdir(parents=True, exist_ok=True)
    size = frames[0].shape[1::-1]
    encode_video(frames, video, rate=exact_rate(job.plan.fps), size=size, total=len(frames), crf=16)
    files = [video]
    if gif:
        write_gif(frames, stem.with_suffix(".gif"), job.plan.fps)
        files.append(stem.with_suffix(".gif"))
    indices = spread(len(frames), STILLS)
    start = job.plan.chunks[first.chunk - 1].first_frame
    times = [f"{(start + index) / job.plan.fps:.1f} s" for index in indices]
    contact_sheet([thumbnail(frames[index]) for index in indices], times, sheet, columns=4)
    return [*files, sheet]


def spread(frames: int, number: int) -> list[int]:
    """Returns the indices of ``number`` frames spread evenly over all, with the first and the last."""
    number = min(number, frames)
    return [round(index * (frames - 1) / max(number - 1, 1)) for index in range(number)]


def _folder(job: RenderJob) -> Path:
    from blockvid_cli.project.project import project_folder

    return project_folder(job.output) / "preview"


def _show_in_terminal(sheet: Path) -> None:
    """Prints a sheet in the terminal, if it can show images."""
    from blockvid_cli.video.terminal_images import choose_protocol, encode_image

    protocol = choose_protocol(os.environ, sys.stdout.isatty())
    if protocol is None:
        return
    import numpy
    from PIL import Image

    columns, rows = shutil.get_terminal_size()
    with Image.open(sheet) as image:
        terminal.write_image(encode_image(numpy.asarray(image.convert("RGB")), protocol, columns, max(rows - 6, 4)))
