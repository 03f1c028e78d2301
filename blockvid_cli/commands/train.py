"""``blockvid train``: the bundled model from nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from blockvid_cli.commands import options, terminal

app = typer.Typer(
    no_args_is_help=True,
    help="Train a model.\n\nExample: blockvid train storybook --run runs/storybook --vae-steps 20 --network-steps 20",
)


@app.callback()
def root() -> None:
    """Keeps ``storybook`` a sub-command."""


@app.command()
def storybook(
    run: Annotated[Path, typer.Option(help="where state, latents, samples and logs go")] = Path("runs/storybook"),
    vae_steps: Annotated[int | None, typer.Option(min=1, help="steps of the VAE")] = None,
    network_steps: Annotated[int | None, typer.Option(min=1, help="steps of the network")] = None,
    probe_steps: Annotated[int | None, typer.Option(min=1, help="steps of the probe that measures quality")] = None,
    stories: Annotated[int | None, typer.Option(min=1, help="stories the network learns from")] = None,
    objective: Annotated[
        str | None,
        typer.Option(
            help="own-rollout, teacher-forcing or diffusion-forcing", autocompletion=options.complete_objective
        ),
    ] = None,
    card: Annotated[str | None, typer.Option(help="a folder with card, edition and words of another edition")] = None,
    seed: Annotated[int, typer.Option(min=0, help="of the initial weights")] = 0,
    device: options.Device = "auto",
    output: Annotated[Path | None, typer.Option("-o", help="a folder for card and weights; default: RUN/model")] = None,
) -> None:
    """Retrain the bundled model from nothing: stories are rendered, then VAE, network and probe are trained.

    The same command continues where it stopped. The defaults are those of the bundled model.

    RUN holds log.jsonl, sample images, and TensorBoard's events where it is installed.

    Example: blockvid train storybook --run runs/storybook
    """
    from blockvid_cli.models.devices import resolve_device
    from blockvid_cli.training.storybook import TrainConfig, retrain

    options: dict[str, Any] = {
        "vae_steps": vae_steps,
        "network_steps": network_steps,
        "probe_steps": probe_steps,
        "stories": stories,
        "objective": objective,
        "card": card,
    }
    amounts = {name: value for name, value in options.items() if value is not None}
    config = TrainConfig(**amounts, seed=seed, device=resolve_device(device))
    folder = retrain(config, run, output or run / "model", terminal.note_json)
    terminal.write(f"{folder}: card and weights; render with it: blockvid render STORY --model {folder}")
