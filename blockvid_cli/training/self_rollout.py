"""A rollout that training learns from: the recipe's own, cut short, with the graph of the last step of each block.

    exit 2      block 0   1 2 x            x  this step goes straight to clean, with gradients
                block 1         1 2 x      1 2  without; every cache update as well

Self Forcing's gradient truncation (Huang et al. 2025): the exit step is chosen at random, the same for all blocks; the
cache is detached; of a long film only the last ``frames`` latent frames have gradients.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from blockvid_cli.rollout.recipe import Recipe
from blockvid_cli.rollout.rollout import Rollout, RolloutSegment
from blockvid_cli.rollout.schedules.step import CLEAN, Schedule, Step
from blockvid_cli.rollout.verifiers import AcceptAll
from blockvid_cli.storyboard.plan import Block, Plan

LEARNING_FRAMES = 21  # latent frames; Self Forcing's window


@dataclass(frozen=True)
class ExitSchedule(Schedule):
    """One block after another, each from noise through ``exit`` steps and then straight to clean.

    Args:
        exit: how many of the recipe's steps come before the last one; 0 for a single step from noise.
        learn_from: the first latent frame whose block keeps its graph; None for no graphs.
    """

    exit: int
    learn_from: int | None = 0

    def steps(self, blocks: Sequence[Block], sigmas: Sequence[float], before: Sequence[Block]) -> Iterator[Step]:
        """``exit`` + 1 steps a block."""
        for block in blocks:
            learn = self.learn_from is not None and block.first >= self.learn_from
            for sigma, sigma_next in itertools.pairwise(sigmas[: self.exit + 1]):
                yield Step((block.number,), (sigma,), (sigma_next,))
            yield Step((block.number,), (sigmas[self.exit],), (CLEAN,), learn=learn)


def own_films(
    rollout: Rollout,
    segment: RolloutSegment,
    exit_step: int,
    learn: bool,
    frames: int = LEARNING_FRAMES,
    given: Mapping[int, torch.Tensor] | None = None,
) -> torch.Tensor:
    """The latents (B, L, C, h, w) that the network generates for a batch of films.

    Args:
        given: clean latents (B, F, C, h, w) of blocks that are not generated, by their number.
        exit_step: how many of the recipe's steps come before the last one.
        learn: whether the last ``frames`` latent frames have gradients.
    """
    schedule = ExitSchedule(exit_step, first_learning_frame(rollout.plan, frames) if learn else None)
    part = replace(segment, recipe=exit_recipe(segment.recipe, schedule))
    finished = [latents for result in rollout.run_batch([part], given) for _, latents in result.finished]
    return torch.cat(finished, 1)


def exit_recipe(recipe: Recipe, schedule: ExitSchedule) -> Recipe:
    """The recipe with another schedule, and nothing that would generate a block twice."""
    return replace(recipe, schedule=schedule, verifier=AcceptAll())


def first_learning_frame(plan: Plan, frames: int) -> int:
    """The first frame of the first block of which all frames are among a film's last ``frames``."""
    last = plan.blocks[-1]
    return max(last.first + last.frames - frames, 0)


def random_exit(recipe: Recipe, generator: torch.Generator) -> int:
    """The exit step of a training step: each of the recipe's steps equally often."""
    return int(torch.randint(len(recipe.sigmas) - 1, (), generator=generator))
