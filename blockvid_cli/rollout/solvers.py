"""Solvers: what a block's latents become when a step takes them from one sigma to the next.

path of a block    1.0 --v--> 0.75 --v--> 0.5 --v--> 0.0      v the velocity the denoiser predicts at each sigma
stepper            one for each block, begun for its whole path, since a multistep solver uses its past velocities
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from blockvid_cli.errors import UsageError
from blockvid_cli.models.flow_matching import add_noise, predict_x0

Stepper = Callable[[torch.Tensor, torch.Tensor, float, float], torch.Tensor]
Renoise = Callable[[float], torch.Tensor]
TOLERANCE = 1e-6  # two sigmas that differ by less are the same


class Solver:
    """Makes a stepper for a block; a new solver overrides ``begin`` and what differs below."""

    def begin(self, sigmas: Sequence[float], renoise: Renoise) -> Stepper:
        """A function (x, velocity, sigma, sigma_next) -> x at ``sigma_next`` for one block.

        Args:
            sigmas: the block's path, all sigmas it will pass, from its first to its last.
            renoise: noise of x's shape, (B, F, C, H, W), by the sigma that it is added at.
        """
        raise NotImplementedError

    def check(self, sigmas: Sequence[float]) -> None:
        """Raises UsageError where a block's path cannot be followed; called when a render is planned."""

    def stride(self, sigmas: tuple[float, ...]) -> tuple[float, ...]:
        """The recipe's sigmas at which the denoiser is called; a solver that skips some leaves them out."""
        return sigmas


@dataclass(frozen=True)
class Euler(Solver):
    """x + (sigma_next - sigma)·v: one straight step along the velocity."""

    def begin(self, sigmas: Sequence[float], renoise: Renoise) -> Stepper:
        """A stepper without state, for any sigmas."""
        return lambda x, velocity, sigma, sigma_next: x + (sigma_next - sigma) * velocity


@dataclass(frozen=True)
class RenoiseSolver(Solver):
    """To clean, then back to the next sigma with fresh noise: the few-step sampler of Self Forcing."""

    def begin(self, sigmas: Sequence[float], renoise: Renoise) -> Stepper:
        """A stepper without state, for any sigmas."""

        def step(x: torch.Tensor, velocity: torch.Tensor, sigma: float, sigma_next: float) -> torch.Tensor:
            clean = predict_x0(x, velocity, sigma)
            if sigma_next == 0:
                return clean
            return add_noise(clean, renoise(sigma_next).to(x), sigma_next)

        return step


@dataclass(frozen=True)
class UniPC(Solver):
    """diffusers' unified predictor-corrector for flows, of second order (Zhao et al. 2023)."""

    order: int = 2

    def __post_init__(self) -> None:
        if self.order not in (1, 2, 3):
            raise UsageError(f"unipc's order is 1, 2 or 3; not {self.order}.")

    def check(self, sigmas: Sequence[float]) -> None:
        """Refuses a path that does not fall to 0: the last step would not be clean."""
        if any(a <= b for a, b in itertools.pairwise(sigmas)) or sigmas[-1] != 0:
            path = ", ".join(f"{sigma:g}" for sigma in sigmas)
            raise UsageError(f"recipe.solver: unipc needs sigmas that fall to 0; the schedule asks for {path}.")

    def begin(self, sigmas: Sequence[float], renoise: Renoise) -> Stepper:
        """A stepper for exactly these sigmas, in order; it refuses any other."""
        from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler

        self.check(sigmas)
        scheduler = UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, solver_order=self.order, flow_shift=1.0
        )
        scheduler.set_timesteps(sigmas=np.array(sigmas[:-1]))  # pyright: ignore[reportArgumentType]
        scheduler.set_begin_index(0)
        planned = iter(zip(scheduler.timesteps, itertools.pairwise(sigmas), strict=True))

        def step(x: torch.Tensor, velocity: torch.Tensor, sigma: float, sigma_next: float) -> torch.Tensor:
            timestep, pair = next(planned, (None, (0.0, 0.0)))
            if timestep is None or not np.allclose(pair, (sigma, sigma_next), rtol=0, atol=TOLERANCE):
                raise UsageError(
                    f"recipe.solver: unipc was begun for the sigmas {', '.join(f'{s:g}' for s in sigmas)} and cannot"
                    f" step from {sigma:g} to {sigma_next:g} now."
                )
            out = scheduler.step(velocity, timestep, x, return_dict=False)[0]
            scheduler.model_outputs = [None if past is None else past.detach() for past in scheduler.model_outputs]
            if scheduler.last_sample is not None:
                scheduler.last_sample = scheduler.last_sample.detach()
            return out

        return step


SOLVERS: dict[str, Callable[..., Solver]] = {"euler": Euler, "renoise": RenoiseSolver, "unipc": UniPC}
