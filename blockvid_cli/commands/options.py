"""Options that several commands share, with their help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Story = Annotated[Path, typer.Argument(help="a storyboard, or captions that can be imported")]
Output = Annotated[Path | None, typer.Option("-o", "--output", help="the film; default: beside the storyboard")]
Model = Annotated[str | None, typer.Option(help="a model's name (blockvid models list), folder or file")]
Seed = Annotated[int | None, typer.Option(min=0, help="the same seed draws the same film")]
Steps = Annotated[int | None, typer.Option(min=1, help="evaluations of the network a block")]
Guidance = Annotated[float | None, typer.Option(help="classifier-free guidance; 1 is none")]
Size = Annotated[str | None, typer.Option(help="WIDTHxHEIGHT in pixels")]
Fps = Annotated[float | None, typer.Option(help="frames a second")]
Memory = Annotated[
    str | None, typer.Option(help="everything, window, semantic or nothing; or with options: '{name: window, sink: 3}'")
]
Set = Annotated[list[str] | None, typer.Option("--set", help="change a field: chunks.4.seed=7")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda:0")]
Precision = Annotated[str, typer.Option(help="of the network: auto, fp32, bf16, int8 or nf4")]
Profile = Annotated[str, typer.Option(help="auto, or h20, 24gb, 16gb, 12gb, 8gb, least: what fits a card")]
Offload = Annotated[str | None, typer.Option(help="none, model, group or sequential: what waits in main memory")]
MemoryStorage = Annotated[str | None, typer.Option(help="device, host, disk or latents: where remembered tokens lie")]
MemoryDtype = Annotated[str | None, typer.Option(help="as-drawn, bf16 or int8: what they are kept in")]
AllowOutside = Annotated[bool, typer.Option("--allow-outside", help="let the storyboard name files elsewhere")]
AsJson = Annotated[bool, typer.Option("--json", help="print the result as JSON")]
