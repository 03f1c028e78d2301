"""From one level to the next: what is made of a velocity. One stepper a block, since some remember their past steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from blockvid_cli.errors import UsageError
from blockvid_cli.models.flow_matching import predict_x0, add_noise
from blockvid_cli.rollout.noise import gaussian

Stepper = Callable[[torch.Tensor, torch.Tensor, float, float], torch.Tensor]


class Solver(Protocol):
    """Makes a stepper for a block."""

    def begin(self, levels: Sequence[float], seed: tuple[int, ...]) -> Stepper:
        """A function (x, velocity, now, then) -> x at ``then`` for one block, all (F, C, H, W)."""


@dataclass(frozen=True)
class Euler:
    """x + (then - now)·v: one straight stride along the velocity."""

    def begin(self, levels: Sequence[float], seed: tuple[int, ...]) -> Stepper:
        """See ``Solver``."""
        return lambda x, velocity, now, then: x + (then - now) * velocity


@dataclass(frozen=True)
class Renoise:
    """To clean, then back to the next level with fresh noise: the few-step sampler of Self Forcing."""

    def begin(self, levels: Sequence[float], seed: tuple[int, ...]) -> Stepper:
        """See ``Solver``."""

        def step(x: torch.Tensor, velocity: torch.Tensor, now: float, then: float) -> torch.Tensor:
            clean = predict_x0(x, velocity, now)
            if then == 0:
                return clean
            return add_noise(clean, gaussian(tuple(x.shape), "renoise", *seed, round(then, 6)).to(x), then)

        return step


@dataclass(frozen=True)
class UniPC:
    """diffusers' unified predictor-corrector for flows, of second order."""

    order: int = 2

    def __post_init__(self) -> None:
        if self.order not in (1, 2, 3):
            raise UsageError(f"unipc's order is 1, 2 or 3; not {self.order}.")

    def begin(self, levels: Sequence[float], seed: tuple[int, ...]) -> Stepper:
        """See ``Solver``."""
        from diffusers import UniPCMultistepScheduler

        scheduler = UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, solver_order=self.order, flow_shift=1.0
        )
        scheduler.set_timesteps(sigmas=np.array(levels[:-1]))
        scheduler.set_begin_index(0)
        clock = iter(scheduler.timesteps)

        def step(x: torch.Tensor, velocity: torch.Tensor, now: float, then: float) -> torch.Tensor:
            return scheduler.step(velocity, next(clock), x, return_dict=False)[0]

        return step


SOLVERS: dict[str, Callable[..., Solver]] = {"euler": Euler, "renoise": Renoise, "unipc": UniPC}
