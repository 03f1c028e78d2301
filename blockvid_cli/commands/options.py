"""Options that several commands share, with their help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Story = Annotated[Path, typer.Argument(help="a storyboard, or captions that can be imported")]
Output = Annotated[Path | None, typer.Option("-o", "--output", help="the film; default: beside the storyboard")]
Model = Annotated[str | None, typer.Option(help="a bundled model, or a folder with a card.yaml")]
Seed = Annotated[int | None, typer.Option(min=0, help="the same seed draws the same film")]
Steps = Annotated[int | None, typer.Option(min=1, help="evaluations of the network a block")]
Guidance = Annotated[float | None, typer.Option(help="classifier-free guidance; 1 is none")]
Size = Annotated[str | None, typer.Option(help="WIDTHxHEIGHT in pixels")]
Fps = Annotated[float | None, typer.Option(help="frames a second")]
Memory = Annotated[
    str | None, typer.Option(help="everything, window or semantic; or with options: '{name: window, sink: 3}'")
]
Set = Annotated[list[str] | None, typer.Option("--set", help="change a field: chunks.4.seed=7")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda:0")]
Dtype = Annotated[str, typer.Option(help="auto, fp32, bf16 or fp16")]
AllowOutside = Annotated[bool, typer.Option("--allow-outside", help="let the storyboard name files elsewhere")]
AsJson = Annotated[bool, typer.Option("--json", help="print the result as JSON")]
