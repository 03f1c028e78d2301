"""THE training loop: an objective's loss, optimisers, a moving average; resumable to the bit.

A step's batch and noise are pure functions of the step (objectives seed their own generators), so the state of a
training is its weights, their average, the optimisers' moments and the step: a resumed run = an uninterrupted one.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from blockvid_cli.training import checkpoints
from blockvid_cli.training.objectives.objective import Objective


@dataclass(frozen=True)
class Pace:
    """How long and how fast: steps, warm-up, where the cosine begins and the share of the rate it ends at."""

    steps: int
    warm_up: int = 30
    hold: float = 0.3
    floor: float = 0.02
    clip: float = 1.0
    average: float = 0.995
    save_every: int = 200
    look_every: int = 200

    def rate(self, step: int) -> float:
        """The share of the learning rate at ``step``: linear warm-up, constant, cosine."""
        if step < self.warm_up:
            return (step + 1) / self.warm_up
        late = max(step / self.steps - self.hold, 0) / (1 - self.hold)
        return self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * min(late, 1.0)))


def muon_and_adamw(module: nn.Module, matrix_rate: float, rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of transformer blocks, AdamW for everything else (both from torch.optim)."""
    matrices = {n: p for n, p in module.named_parameters() if p.ndim == 2 and "blocks." in n}
    others = [p for n, p in module.named_parameters() if n not in matrices]
    muon = torch.optim.Muon(
        list(matrices.values()),
        lr=matrix_rate,
        momentum=0.95,
        weight_decay=0.01,
        adjust_lr_fn="match_rms_adamw",
    )
    return [muon, torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.95), weight_decay=0.0)]


def adamw(module: nn.Module, rate: float) -> list[torch.optim.Optimizer]:
    """AdamW, with decay on matrices and kernels only."""
    kernels = [p for p in module.parameters() if p.ndim > 1]
    others = [p for p in module.parameters() if p.ndim <= 1]
    groups = [{"params": kernels, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}]
    return [torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.95))]


def train(
    objective: Objective,
    optimizers: Sequence[torch.optim.Optimizer],
    pace: Pace,
    run: Path,
    tell: Callable[[dict[str, float]], None] = lambda figures: None,
) -> checkpoints.Average:
    """Trains to the end of ``pace``, from where ``run/state.pt`` left off; returns the averaged weights.

    ``run/log.jsonl`` gets a line every ``look_every`` steps: step, seconds, loss and the objective's figures.
    """
    module, average = objective.module, checkpoints.Average(pace.average)
    base = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
    state = checkpoints.load(run / "state.pt")
    first, spent = 0, 0.0
    if state:
        first, spent = state["step"], state["seconds"]
        module.load_state_dict(state["module"])
        average.values = state["average"]
        for optimizer, moments in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(moments)
    began = time.monotonic() - spent
    for step in range(first, pace.steps):
        loss = _step(objective, optimizers, base, pace, step)
        average.update(module, step)
        done = step + 1
        if done % pace.save_every == 0 or done == pace.steps:
            checkpoints.save(run / "state.pt", _state(done, time.monotonic() - began, module, average, optimizers))
        if done % pace.look_every == 0 or done == pace.steps:
            figures = {
                "step": done,
                "seconds": round(time.monotonic() - began, 1),
                **loss,
                **_look(objective, average),
            }
            _log(run / "log.jsonl", figures)
            tell(figures)
    return average


def _step(
    objective: Objective,
    optimizers: Sequence[torch.optim.Optimizer],
    base: list[list[float]],
    pace: Pace,
    step: int,
) -> dict[str, float]:
    """One step of all optimisers; the loss and what the objective says of it."""
    for optimizer, rates in zip(optimizers, base, strict=True):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * pace.rate(step)
        optimizer.zero_grad(set_to_none=True)
    loss, figures = objective.loss(step, step / pace.steps)
    loss.backward()
    norm = nn.utils.clip_grad_norm_(objective.module.parameters(), pace.clip)
    if torch.isfinite(norm):
        for optimizer in optimizers:
            optimizer.step()
    return {
        "loss": round(float(loss.detach()), 5),
        **{name: round(value, 4) for name, value in figures.items()},
    }


def _look(objective: Objective, average: checkpoints.Average) -> dict[str, float]:
    """The objective's held-out figures with the averaged weights."""
    average.swap(objective.module)
    figures = objective.figures()
    average.swap(objective.module)
    return {f"held_out_{name}": round(value, 4) for name, value in figures.items()}


def _state(
    step: int,
    seconds: float,
    module: nn.Module,
    average: checkpoints.Average,
    optimizers: Sequence[torch.optim.Optimizer],
) -> dict[str, object]:
    return {
        "step": step,
        "seconds": seconds,
        "module": module.state_dict(),
        "average": average.values,
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
    }


def _log(file: Path, figures: dict[str, float]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a", encoding="utf-8") as log:
        log.write(json.dumps(figures) + "\n")
