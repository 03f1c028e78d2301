"""THE training loop: an objective's loss, optimisers, a moving average; resumable to the bit.

A step's batch and noise are pure functions of the step (objectives seed their own generators), so the state of a
training is its weights, their average, the optimisers' moments and the step: a resumed run = an uninterrupted one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from blockvid_cli.training import checkpoints
from blockvid_cli.training.logger import TrainLogger
from blockvid_cli.training.objectives.objective import Objective


@dataclass(frozen=True)
class TrainerConfig:
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


def train(
    objective: Objective,
    optimizers: Sequence[torch.optim.Optimizer],
    pace: TrainerConfig,
    run: Path,
    tell: Callable[[dict[str, float]], None] = lambda figures: None,
) -> checkpoints.EMA:
    """Trains to the end of ``pace``, from where ``run/state.pt`` left off; returns the averaged weights.

    Every ``look_every`` steps ``run`` gets a line of figures and a sample picture (see ``board``).
    """
    module, average = objective.module, checkpoints.EMA(pace.average)
    base = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
    state = checkpoints.load(run / "state.pt")
    first, spent = 0, 0.0
    if state:
        first, spent = state["step"], state["seconds"]
        module.load_state_dict(state["module"])
        here = module.state_dict()
        average.values = {name: value.to(here[name].device) for name, value in state["average"].items()}
        for optimizer, moments in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(moments)
    board = TrainLogger(run)
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
            board.add(figures, _sample(objective, average))
            tell(figures)
    return average


def _step(
    objective: Objective,
    optimizers: Sequence[torch.optim.Optimizer],
    base: list[list[float]],
    pace: TrainerConfig,
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


def _sample(objective: Objective, average: checkpoints.EMA) -> torch.Tensor:
    """The objective's picture with the averaged weights."""
    average.swap(objective.module)
    picture = objective.sample()
    average.swap(objective.module)
    return picture


def _look(objective: Objective, average: checkpoints.EMA) -> dict[str, float]:
    """The objective's held-out figures with the averaged weights."""
    average.swap(objective.module)
    figures = objective.figures()
    average.swap(objective.module)
    return {f"held_out_{name}": round(value, 4) for name, value in figures.items()}


def _state(
    step: int,
    seconds: float,
    module: nn.Module,
    average: checkpoints.EMA,
    optimizers: Sequence[torch.optim.Optimizer],
) -> dict[str, object]:
    return {
        "step": step,
        "seconds": seconds,
        "module": module.state_dict(),
        "average": average.values,
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
    }
