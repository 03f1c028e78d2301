"""Windows of blocks that need no KV cache: finished blocks are context beside new ones (SkyReels-V2's step matrix).

window 4, overlap 1, lag 0:             window 3, lag 2, four steps:
block 0  1 2 3 4                        block 0  1 2 3 4 = =
block 1  1 2 3 4                        block 1      1 2 3 4 = = = =
block 2  1 2 3 4                        block 2          1 2 3 4 = =
block 3  1 2 3 4 = = = =                block 3              1 2 3 4
block 4          1 2 3 4
block 5          1 2 3 4                = context: finished, does not move

A window never reaches over a cut. Blocks that another recipe finished before these are context like their own.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from blockvid_cli.errors import UsageError
from blockvid_cli.rollout.schedules.block import diagonal_steps
from blockvid_cli.rollout.schedules.step import CLEAN, JointlyDenoised, Step, moving_step, preceding, split_shots
from blockvid_cli.storyboard.plan import Block


@dataclass(frozen=True)
class MatrixSchedule(JointlyDenoised):
    """Args:
    window: the most blocks in one pass.
    overlap: with lag 0, how many finished blocks are context of the next window, at the sigma ``context_sigma``.
    lag: steps between the beginnings of neighbouring blocks; finished blocks stay in the window, clean.
    """

    window: int = 5
    overlap: int = 1
    lag: int = 0
    context_sigma: float = 0.02

    def __post_init__(self) -> None:
        if not 0 <= self.overlap < self.window or self.lag < 0 or not 0 <= self.context_sigma < 1:
            raise UsageError(
                "a matrix needs an overlap of 0 or more and below its window, a lag of 0 or more, and a context_sigma"
                f" from 0 to below 1; not {self.overlap}, {self.window}, {self.lag} and {self.context_sigma}."
            )

    def check(self, sigmas: Sequence[float]) -> None:
        """Refuses a lag by which more blocks would be under way at once than the window holds."""
        steps = len(sigmas) - 1
        if self.lag and -(-steps // self.lag) > self.window:
            raise UsageError(
                f"recipe.schedule: {steps} steps at a lag of {self.lag} need a window of"
                f" {-(-steps // self.lag)} blocks or more; not {self.window}."
            )

    def steps(self, blocks: Sequence[Block], sigmas: Sequence[float], before: Sequence[Block]) -> Iterator[Step]:
        """Windows of each shot."""
        self.check(sigmas)
        for shot in split_shots(blocks):
            yield from (self._sliding if self.lag else self._windows)(shot, sigmas, before)

    def _windows(self, shot: Sequence[Block], sigmas: Sequence[float], before: Sequence[Block]) -> Iterator[Step]:
        numbers = [block.number for block in shot]
        context = preceding(shot, before, self.overlap)
        while numbers:
            size = self.window - (self.overlap if context else 0)
            new, numbers = numbers[:size], numbers[size:]
            for pair in itertools.pairwise(sigmas):
                yield moving_step(context, self.context_sigma, new, pair)
            context = (*context, *new)[max(len(context) + len(new) - self.overlap, 0) :]

    def _sliding(self, shot: Sequence[Block], sigmas: Sequence[float], before: Sequence[Block]) -> Iterator[Step]:
        first = min([*preceding(shot, before, self.window), shot[0].number])
        for step in diagonal_steps([block.number for block in shot], sigmas, self.lag):
            context = tuple(range(max(step.blocks[-1] + 1 - self.window, first), step.blocks[0]))
            still = (CLEAN,) * len(context)
            yield Step(context + step.blocks, still + step.sigma, still + step.sigma_next)
