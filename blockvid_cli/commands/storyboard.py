"""``blockvid storyboard``: checks a storyboard before the render, imports captions, writes a first one."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from blockvid_cli.commands import display, film, options, terminal
from blockvid_cli.errors import UsageError, plural
from blockvid_cli.models.card import ModelCard
from blockvid_cli.project.atomic_files import write_atomically
from blockvid_cli.storyboard.exports import dump_storyboard
from blockvid_cli.storyboard.imports import is_caption_file
from blockvid_cli.storyboard.parse import decode_text, read_content
from blockvid_cli.storyboard.plan import Plan
from blockvid_cli.storyboard.schema import json_schema, keys_table
from blockvid_cli.storyboard.storyboard import Storyboard, read_storyboard
from blockvid_cli.video.spec import video_spec

if TYPE_CHECKING:
    from blockvid_cli.job import RenderJob
    from blockvid_cli.runtime.time_estimate import RenderEstimate

STARTER = """\
# A film in three captions. Look at the plan:  blockvid storyboard check {name}
# Render it:                                   blockvid render {name}
version: 1
title: A red boat
model: storybook        # comes with blockvid; runs on a laptop
seed: 7                 # the same seed gives the same film
chunk: 4s               # length of a caption that names none

chunks:
  - caption: A red boat rests on the lake at sunset.
  - caption: The red boat glides to the right across the quiet lake at sunset.
    duration: 5s        # or at: 00:04-00:09; or 60f, if the film has a line fps: 12
  - caption: At night, the red boat comes to rest on the calm lake.
    cut: true           # a new shot begins here
"""

app = typer.Typer(
    no_args_is_help=True,
    help="Check, compare, import and begin storyboards.\n\nExample: blockvid storyboard check storyboards/swan.yaml",
)


@app.command()
def check(
    story: options.Story,
    model: options.Model = None,
    size: options.Size = None,
    untrained_size: options.UntrainedSize = False,
    fps: options.Fps = None,
    set_: options.Set = None,
    device: options.Device = "auto",
    preset: options.Preset = "auto",
    precision: options.Precision = "auto",
    as_json: options.AsJson = False,
    allow_outside: options.AllowOutside = False,
) -> None:
    """Show the plan of a film, and about how much memory and time its render will take on this machine.

    The plan shows the chunks, their blocks, what had to be rounded, and prompts that differ from their captions.

    Example: blockvid storyboard check storyboards/swan.yaml --model storybook
    """
    storyboard = read_storyboard(story, set_ or (), allow_outside)  # before torch is loaded
    from blockvid_cli.job import RenderRequest, prepare
    from blockvid_cli.rollout.kv_cache.semantic import retrieved_chunks
    from blockvid_cli.runtime.presets import RuntimeOptions

    request = RenderRequest(
        storyboard=story,
        model=model,
        size=size,
        untrained_size=untrained_size,
        fps=fps,
        overrides=tuple(set_ or ()),
        device=device,
        runtime=RuntimeOptions(preset, precision),
        allow_outside=allow_outside,
    )
    job = prepare(request, storyboard)
    card, plan = job.card, job.plan
    retrieved = retrieved_chunks(plan, job.recipes[0].kv_cache())
    needs = _estimate(job)
    notes = [*job.notes, *_truncated_prompts(card, plan), *plan.notes]
    if plan.notes and storyboard.title_card:
        notes.append("the times in these notes count from the first chunk, as those in the storyboard do")
    if as_json:
        values = _plan_values(storyboard, card.name, plan, retrieved, notes)
        terminal.write_json(values | {"needs": asdict(needs)}, indent=2)
    else:
        display.plan_table(storyboard, card.name, plan, retrieved, notes, str(needs))


def _estimate(job: RenderJob) -> RenderEstimate:
    """Returns what the render needs; a preset that is named is estimated for a GPU even where there is none."""
    from blockvid_cli.runtime.presets import resolve_preset
    from blockvid_cli.runtime.time_estimate import estimate_render

    runtime, preset = job.request.runtime, job.preset
    free: int | None = job.free_memory
    if runtime.preset != "auto" and job.device == "cpu" and job.request.device == "auto":
        preset, free = resolve_preset(runtime.preset, "cuda", runtime), None
    return estimate_render(job.card, job.plan, job.recipes[0], job.rows, preset, free)


def _truncated_prompts(card: ModelCard, plan: Plan) -> list[str]:
    """Notes on prompts that are longer than a model reads; a model that is not on this machine cannot tell."""
    from blockvid_cli.models.hub import is_local
    from blockvid_cli.models.loading import load_text_encoder

    if not is_local(card):
        return [f"the model '{card.name}' is not on this machine; 'blockvid models pull {card.name}' downloads it"]
    encoder = load_text_encoder(card)
    truncated = [chunk.number for chunk in plan.chunks if not encoder.fits(chunk.prompt)]
    return [f"chunk {number}: only the first {card.text.tokens} tokens of its prompt are read" for number in truncated]


@app.command()
def diff(
    story: options.Story,
    output: options.OfFilm = None,
    model: options.Model = None,
    seed: options.Seed = None,
    set_: options.Set = None,
    as_json: options.AsJson = False,
    allow_outside: options.AllowOutside = False,
) -> None:
    """Show which chunks the next render would render again, and why; nothing is rendered.

    Example: blockvid storyboard diff storyboards/swan.yaml
    """
    storyboard = read_storyboard(story, set_ or (), allow_outside)  # before torch is loaded
    from blockvid_cli.job import RenderRequest, prepare
    from blockvid_cli.retake import chunk_changes

    request = RenderRequest(
        storyboard=story,
        output=output,
        model=model,
        seed=seed,
        overrides=tuple(set_ or ()),
        allow_outside=allow_outside,
    )
    job = prepare(request, storyboard)
    changes = chunk_changes(job)
    if as_json:
        terminal.write_json([asdict(change) for change in changes], indent=2)
        return
    display.table(("chunk", "", "why"), [(str(change.chunk), change.action, change.reason) for change in changes])
    terminal.write(film.what_is_out_of_date(job))


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="captions: .srt, .vtt, .txt, or LV-Bench's .json")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="the file to write; default: print to stdout")
    ] = None,
    title: Annotated[str | None, typer.Option(help="title of the film")] = None,
    seconds: Annotated[
        float, typer.Option(min=0.1, max=3600, help="length of a caption without a time, in seconds")
    ] = 4,
    force: Annotated[bool, typer.Option("--force", help="replace an existing file")] = False,
) -> None:
    """Make a storyboard from captions with times.

    Example: blockvid storyboard import talk.srt -o talk.yaml
    """
    if not is_caption_file(decode_text(read_content(file), file), file):
        raise UsageError(f"{file} is no list of captions; blockvid imports .srt, .vtt, .txt or LV-Bench's .json")
    overrides = [f"chunk={seconds}", *([] if title is None else [f'title="{title}"'])]
    storyboard = read_storyboard(file, overrides)
    text = dump_storyboard(storyboard)
    if output is None:
        terminal.write(text if terminal.can_write(text) else dump_storyboard(storyboard, ascii_only=True), end="")
    else:
        _write(output, text, force)
        terminal.write(f"{output}: {plural(len(storyboard.chunks), 'chunk')}, {float(storyboard.seconds):g} s")
    for note in storyboard.notes:
        terminal.note(note)


@app.command()
def new(
    name: Annotated[Path, typer.Argument(help="the file to write")] = Path("story.yaml"),
    force: Annotated[bool, typer.Option("--force", help="replace an existing file")] = False,
) -> None:
    """Write a small storyboard to begin from.

    Example: blockvid storyboard new story.yaml
    """
    _write(name, STARTER.format(name=name), force)
    terminal.write(f"{name}: written; look at its plan with: blockvid storyboard check {name}")


@app.command()
def schema(
    markdown: Annotated[bool, typer.Option("--markdown", help="print a table of all keys instead")] = False,
) -> None:
    """Print the JSON schema of storyboards, for editors that complete and check YAML.

    Example: blockvid storyboard schema > storyboard.schema.json
    """
    terminal.write(keys_table()) if markdown else terminal.write_json(json_schema(), indent=2)


def _write(path: Path, text: str, force: bool) -> None:
    """Writes a new file; replaces an existing one only with ``force``."""
    if force:
        write_atomically(path, text.encode())
        return
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise UsageError(f"{path} is there already; choose another name, or replace it with --force") from error
    except OSError as error:
        raise UsageError(f"{path} cannot be written ({error.strerror}); choose another place") from error


def _plan_values(
    storyboard: Storyboard, model: str, plan: Plan, retrieved: list[tuple[int, ...]], notes: list[str]
) -> dict[str, object]:
    """Returns the plan as plain values: seconds, and pixel frames counted from 0 with the end one past the last.

    ``seconds``, ``frames`` and ``timeline`` are the film's, cards included; those of chunks count from the first chunk.
    """
    timeline = video_spec(storyboard, plan).timeline
    return {
        "storyboard": str(storyboard.source),
        "title": storyboard.title,
        "model": model,
        "size": list(plan.size),
        "fps": plan.fps,
        "seed": plan.seed,
        "seconds": timeline.seconds,
        "frames": timeline.frames,
        "timeline": [
            {
                "kind": section.kind,
                "chunk": section.chunk or None,
                "start": section.start,
                "end": section.end,
                "first_frame": section.first_frame,
                "end_frame": section.end_frame,
            }
            for section in timeline.sections
        ],
        "audio": str(storyboard.audio.file) if storyboard.audio else None,
        "subtitles": asdict(storyboard.subtitles) if storyboard.subtitles else None,
        "blocks": len(plan.blocks),
        "shots": plan.chunks[-1].shot,
        "chunks": [
            {
                "chunk": chunk.number,
                "shot": chunk.shot,
                "caption": chunk.caption,
                "prompt": chunk.prompt,
                "start": chunk.start,
                "end": chunk.end,
                "first_frame": chunk.first_frame,
                "end_frame": chunk.end_frame,
                "first_block": chunk.first_block,
                "blocks": chunk.block_count,
                "seed": chunk.seed,
                "retrieves": list(others),
                "warnings": list(chunk.warnings),
                "transition": written.transition,
                "transition_seconds": written.transition_seconds if written.transition != "cut" else 0,
                "image": str(written.image) if written.image else None,
                "end_image": str(written.end_image) if written.end_image else None,
                "audio": str(written.audio.file) if written.audio else None,
            }
            for written, chunk, others in zip(storyboard.chunks, plan.chunks, retrieved, strict=True)
        ],
        "notes": notes,
    }
