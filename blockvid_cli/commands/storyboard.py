"""``blockvid storyboard``: check a storyboard before anything is drawn, import captions, begin a new one."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from blockvid_cli.commands import display as show
from blockvid_cli.commands import options
from blockvid_cli.errors import UsageError
from blockvid_cli.models.card import ModelCard
from blockvid_cli.storyboard.plan import Plan
from blockvid_cli.storyboard.reading import read_text
from blockvid_cli.storyboard.storyboard import Storyboard, json_schema, read_storyboard
from blockvid_cli.storyboard.timed_captions import holds_captions
from blockvid_cli.storyboard.writing import dump_storyboard

STARTER = """\
# A film in three captions. Look at the plan:  blockvid storyboard check {name}
# Draw it:                                     blockvid render {name}
version: 1
title: A red boat
model: storybook        # comes with blockvid; draws on a laptop
seed: 7                 # the same seed draws the same film
chunk: 4s               # how long a caption lasts that says nothing

chunks:
  - caption: A red boat rests on the lake at sunset.
  - caption: The red boat glides to the right across the quiet lake at sunset.
    duration: 5s        # or at: 00:04-00:09; or 60f, with fps: 12 above
  - caption: At night, the red boat comes to rest on the calm lake.
    cut: true           # a new shot begins here
"""

app = typer.Typer(
    no_args_is_help=True,
    help="Check, import and begin storyboards.\n\nExample: blockvid storyboard check storyboards/swan.yaml",
)


@app.command()
def check(
    story: options.Story,
    model: options.Model = None,
    size: options.Size = None,
    fps: options.Fps = None,
    set_: options.Set = None,
    device: options.Device = "auto",
    profile: options.Profile = "auto",
    precision: options.Precision = "auto",
    as_json: options.AsJson = False,
    allow_outside: options.AllowOutside = False,
) -> None:
    """Show the plan of a film: its chunks, their blocks, what had to be rounded, as what a model reads a caption, and
    about how long and how much memory it will take on this machine.

    Example: blockvid storyboard check storyboards/swan.yaml --model storybook
    """
    read_storyboard(story, set_ or (), allow_outside)  # a mistake is told before torch is loaded
    from blockvid_cli.job import RenderRequest, prepare
    from blockvid_cli.rollout.kv_cache.semantic import recalled_chunks
    from blockvid_cli.runtime.presets import RuntimeOptions
    from blockvid_cli.runtime.time_estimate import estimate_render

    job = prepare(
        RenderRequest(
            story,
            model=model,
            size=size,
            fps=fps,
            overrides=tuple(set_ or ()),
            device=device,
            runtime=RuntimeOptions(profile, precision),
            allow_outside=allow_outside,
        )
    )
    storyboard, card, plan = job.storyboard, job.card, job.plan
    recalled = recalled_chunks(plan, job.recipes[0].kv_cache())
    needs = estimate_render(job)
    notes = [*job.notes, *_unread(card, plan), *plan.notes]
    if as_json:
        described = _described(storyboard, card.name, plan, recalled, notes)
        typer.echo(json.dumps(described | {"needs": asdict(needs)}, indent=2))
    else:
        show.plan_table(storyboard, card.name, plan, recalled, notes, str(needs))


def _unread(card: ModelCard, plan: Plan) -> list[str]:
    """Which captions a model reads only the beginning of; a model that is not here cannot say."""
    from blockvid_cli.models.hub import is_local
    from blockvid_cli.models.text_encoders import load_text_encoder

    if not is_local(card):
        return [f"the model '{card.name}' is not on this machine; 'blockvid models pull {card.name}' brings it"]
    reader = load_text_encoder(card)
    cut = [chunk.number for chunk in plan.chunks if not reader.fits(chunk.prompt)]
    return [f"chunk {number}: only the first {card.text.tokens} tokens of style and caption are read" for number in cut]


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
    """Say what a render would draw again, chunk by chunk, and why; nothing is drawn.

    Example: blockvid storyboard diff storyboards/swan.yaml
    """
    read_storyboard(story, set_ or (), allow_outside)  # a mistake is told before torch is loaded
    from blockvid_cli.job import RenderRequest, prepare
    from blockvid_cli.retake import chunk_changes

    asked = RenderRequest(story, output, model, seed, overrides=tuple(set_ or ()), allow_outside=allow_outside)
    changes = chunk_changes(prepare(asked))
    if as_json:
        typer.echo(json.dumps([asdict(change) for change in changes], indent=2))
        return
    show.table(("chunk", "", "why"), [(str(change.chunk), change.action, change.reason) for change in changes])
    drawn = sum(change.action != "kept" for change in changes)
    typer.echo(f"{drawn} of {len(changes)} chunks would be drawn" if drawn else "nothing would be drawn")


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="captions: .srt, .vtt, .txt, or LV-Bench's .json")],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="write here, not to stdout")] = None,
    title: Annotated[str | None, typer.Option(help="title of the film")] = None,
    seconds: Annotated[float, typer.Option(min=0.1, max=3600, help="of a caption without a time")] = 4,
    force: Annotated[bool, typer.Option("--force", help="replace a file that is there")] = False,
) -> None:
    """Make a storyboard of captions with times.

    Example: blockvid storyboard import talk.srt -o talk.yaml
    """
    if not holds_captions(read_text(file), file):
        raise UsageError(f"{file} is no list of captions; these are .srt, .vtt, .txt or LV-Bench's .json")
    named = [] if title is None else [f'title="{title}"']
    storyboard = read_storyboard(file, [f"chunk={seconds}", *named])
    text = dump_storyboard(storyboard)
    if output is None:
        typer.echo(text, nl=False)
    else:
        _write(output, text, force)
        typer.echo(f"{output}: {len(storyboard.chunks)} chunks, {float(storyboard.seconds):g} s")
    for note in storyboard.notes:
        typer.echo(note, err=True)


@app.command()
def new(
    name: Annotated[Path, typer.Argument(help="the file to write")] = Path("story.yaml"),
    force: Annotated[bool, typer.Option("--force", help="replace a file that is there")] = False,
) -> None:
    """Write a small storyboard to begin from.

    Example: blockvid storyboard new story.yaml
    """
    _write(name, STARTER.format(name=name), force)
    typer.echo(f"{name}: written; look at its plan with: blockvid storyboard check {name}")


@app.command()
def schema() -> None:
    """Print the JSON schema of storyboards, for editors that complete and check YAML.

    Example: blockvid storyboard schema > storyboard.schema.json
    """
    typer.echo(json.dumps(json_schema(), indent=2))


def _write(path: Path, text: str, force: bool) -> None:
    """Writes a new file; an old one only when told to."""
    try:
        with path.open("w" if force else "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise UsageError(f"{path} is there already; choose another name, or replace it with --force") from error
    except OSError as error:
        raise UsageError(f"{path} cannot be written ({error.strerror}); choose another place") from error


def _described(
    storyboard: Storyboard, model: str, plan: Plan, recalled: list[tuple[int, ...]], notes: list[str]
) -> dict[str, object]:
    """The plan as plain values; seconds, and pixel frames counted from 0 with the end one past the last."""
    return {
        "storyboard": str(storyboard.source),
        "title": storyboard.title,
        "model": model,
        "size": list(plan.size),
        "fps": plan.fps,
        "seed": plan.seed,
        "seconds": plan.frames / plan.fps,
        "frames": plan.frames,
        "blocks": len(plan.blocks),
        "shots": plan.chunks[-1].shot,
        "chunks": [
            {
                "chunk": chunk.number,
                "shot": chunk.shot,
                "caption": chunk.caption,
                "read": chunk.prompt,
                "start": chunk.start,
                "end": chunk.end,
                "first_frame": chunk.first_frame,
                "end_frame": chunk.end_frame,
                "first_block": chunk.first_block,
                "blocks": chunk.block_count,
                "seed": chunk.seed,
                "recalls": list(before),
            }
            for chunk, before in zip(plan.chunks, recalled, strict=True)
        ],
        "notes": notes,
    }
