"""Options that several commands share, with their help, and what they say of a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from blockvid_cli.commands import completion as complete
from blockvid_cli.commands.display import ProgressForm
from blockvid_cli.errors import UsageError

STORY = typer.Argument(
    metavar="STORY", help="a storyboard, or captions that can be imported", autocompletion=complete.storyboards
)
Story = Annotated[Path, STORY]
Stories = Annotated[list[Path], STORY]
OfFilm = Annotated[Path | None, typer.Option("-o", "--output", help="of which film, if it lies elsewhere")]
Output = Annotated[
    Path | None,
    typer.Option("-o", "--output", help="the film; a folder, if several; default: beside the storyboard"),
]
Model = Annotated[
    str | None,
    typer.Option(help="a model's name (blockvid models list), folder or file", autocompletion=complete.models),
]
Seed = Annotated[int | None, typer.Option(min=0, help="the same seed draws the same film")]
Seeds = Annotated[str | None, typer.Option(help="a film for each: 1..4, or 3,5,9; story-seed-3.mp4")]
Steps = Annotated[int | None, typer.Option(min=1, help="evaluations of the network a block")]
Guidance = Annotated[float | None, typer.Option(help="classifier-free guidance; 1 is none")]
Size = Annotated[str | None, typer.Option(help="WIDTHxHEIGHT in pixels")]
Fps = Annotated[float | None, typer.Option(help="frames a second")]
Memory = Annotated[
    str | None,
    typer.Option(
        help="everything, window, semantic or nothing; or with options: '{name: window, sink: 3}'",
        autocompletion=complete.memories,
    ),
]
Set = Annotated[list[str] | None, typer.Option("--set", help="change a field: chunks.4.seed=7")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda:0", autocompletion=complete.devices)]
Precision = Annotated[
    str, typer.Option(help="of the network: auto, fp32, bf16, int8 or nf4", autocompletion=complete.precisions)
]
Profile = Annotated[
    str,
    typer.Option(help="auto, or h20, 24gb, 16gb, 12gb, 8gb, least: what fits a card", autocompletion=complete.profiles),
]
Offload = Annotated[
    str | None,
    typer.Option(help="none, model, group or sequential: what waits in main memory", autocompletion=complete.offloads),
]
MemoryStorage = Annotated[
    str | None,
    typer.Option(help="device, host, disk or latents: where remembered tokens lie", autocompletion=complete.storages),
]
MemoryDtype = Annotated[
    str | None,
    typer.Option(help="as-drawn, bf16 or int8: what they are kept in", autocompletion=complete.memory_dtypes),
]
Chunk = Annotated[int | None, typer.Option(min=1, help="draw this chunk again by its next take, and what follows it")]
Take = Annotated[int | None, typer.Option(min=1, help="which take, with --chunk or --only")]
FromChunk = Annotated[int | None, typer.Option(min=1, help="draw this chunk and all after it again, by new takes")]
Only = Annotated[int | None, typer.Option(min=1, help="draw this chunk alone again; its neighbours stay")]
AllowOutside = Annotated[bool, typer.Option("--allow-outside", help="let the storyboard name files elsewhere")]
AsJson = Annotated[bool, typer.Option("--json", help="print the result as JSON")]
Progress = Annotated[ProgressForm, typer.Option(help="on stderr")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="no progress, no notes")]


def recipe_of(steps: int | None = None, guidance: float | None = None, memory: str | None = None) -> dict[str, Any]:
    """What options say of a recipe; a memory is a name, or a YAML mapping of name and options."""
    given = {"steps": steps, "guidance": guidance, "kv_cache": _memory(memory)}
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
