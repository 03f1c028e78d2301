"""``blockvid finetune``: post-trains a model on a dataset of captioned long videos."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from blockvid_cli.commands import display, options, terminal
from blockvid_cli.errors import UsageError

Data = Annotated[Path, typer.Option(help="a dataset folder; 'blockvid data demo' writes a first one")]
Run = Annotated[Path, typer.Option(help="where states, logs, samples and the trained model go")]
Stage = Annotated[str, typer.Option(help="1 (windows of long videos), 2 (whole minute-long videos) or both")]
Method = Annotated[str, typer.Option(help="blockvid, or error-free for the second paper's")]
Steps = Annotated[int | None, typer.Option(min=2, help="steps in all stages together; without this, epochs")]
Chunks = Annotated[int | None, typer.Option(min=1, help="chunks of a film in a step; without this, the stage's")]
Batch = Annotated[int | None, typer.Option(min=1, help="films in a batch")]
Accumulate = Annotated[int | None, typer.Option(min=1, help="batches of a step")]
Rate = Annotated[
    float | None, typer.Option(min=1e-9, max=1, help="learning rate; half of it in the second half of a stage")
]
Losses = Annotated[
    list[str] | None,
    typer.Option("--loss", help="NAME or NAME=WEIGHT, several times: flow, block-forcing, self-forcing, dmd"),
]
Gamma = Annotated[float | None, typer.Option(min=0, max=1, help="weight of block forcing's semantic reference")]
Target = Annotated[str | None, typer.Option(help="block forcing's formula: anchored or paper")]
Optimizer = Annotated[str | None, typer.Option(help="adamw, or adamw-8bit (bitsandbytes)")]
Lora = Annotated[int | None, typer.Option(min=1, max=1024, help="train LoRA pairs of this rank instead")]
Seed = Annotated[int, typer.Option(min=0, help="of the order of films, of noise and of new weights")]
Resume = Annotated[bool, typer.Option("--resume", help="continue the run where it stopped")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="check everything, and train nothing")]


def finetune(
    data: Data,
    model: options.Model = None,
    run: Run = Path("runs/finetune"),
    stage: Stage = "both",
    method: Method = "blockvid",
    steps: Steps = None,
    chunks: Chunks = None,
    batch: Batch = None,
    accumulate: Accumulate = None,
    rate: Rate = None,
    loss: Losses = None,
    gamma: Gamma = None,
    target: Target = None,
    optimizer: Optimizer = None,
    lora: Lora = None,
    seed: Seed = 0,
    device: options.Device = "auto",
    resume: Resume = False,
    dry_run: DryRun = False,
    as_json: options.AsJson = False,
) -> None:
    """Post-train a model on long videos: stage 1 on windows of long takes, stage 2 on minute-long videos.

    The losses are Block Forcing and Self Forcing with chunk-wise noise and the model's own KV cache (BlockVid).

    The dataset is prepared first: blockvid data prepare FOLDER.

    RUN/model is a model that 'blockvid render STORY --model RUN/model' uses at once.

    Example: blockvid finetune --data lv1m-demo --stage both --steps 200
    """
    from blockvid_cli.training.finetune import FinetuneRequest, prepare
    from blockvid_cli.training.finetune import finetune as train

    changes = _changes(stage, steps, rate, loss, optimizer, lora)
    changes |= {"chunks": chunks, "batch": batch, "accumulate": accumulate, "gamma": gamma, "target": target}
    changes = {name: value for name, value in changes.items() if value is not None}
    request = FinetuneRequest(data=data, run=run, method=method, stage=stage, changes=changes, device=device)
    request = replace(request, model=model or request.model, seed=seed, resume=resume)
    job = prepare(request, write=not dry_run)
    for config in job.stages:
        terminal.note(f"stage {config.name}: {', '.join(config.losses)}; {config.chunks or 'all'} chunks a film")
    if dry_run:
        display.result({"run": str(run)}, f"{run}: everything is ready; nothing was trained", as_json)
        return
    folder = train(job, terminal.note_json)
    values = {"run": str(run), "model": str(folder)}
    display.result(values, f"{folder}: render with it: blockvid render STORY --model {folder}", as_json)


def _changes(
    stage: str,
    steps: int | None,
    rate: float | None,
    loss: list[str] | None,
    optimizer: str | None,
    lora: int | None,
) -> dict[str, Any]:
    """Options as fields of a stage; None where nothing was asked for."""
    from blockvid_cli.training.stages import OPTIMIZERS, LoraConfig

    if optimizer not in (None, *OPTIMIZERS):
        raise UsageError(f"--optimizer {optimizer}: give {' or '.join(OPTIMIZERS)}.")
    return {
        "steps": None if steps is None else max(steps // (2 if stage == "both" else 1), 1),
        "rate": rate,
        "late_rate": None if rate is None else rate / 2,
        "losses": _losses(loss),
        "optimizer": optimizer,
        "lora": None if lora is None else LoraConfig(rank=lora),
    }


def _losses(texts: list[str] | None) -> dict[str, float] | None:
    """``block-forcing=1`` and the like as weights by name."""
    if not texts:
        return None
    weights = {}
    for text in texts:
        name, _, weight = text.partition("=")
        try:
            weights[name.strip()] = float(weight or 1)
        except ValueError as error:
            raise UsageError(f"--loss {text}: a weight is a number, as in block-forcing=0.5.") from error
    return weights
