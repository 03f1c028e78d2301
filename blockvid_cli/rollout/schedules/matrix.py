"""Windows of blocks without a memory: finished blocks are shown again beside new ones (SkyReels-V2's step matrix).

window 4, overlap 1, lag 0:             window 3, lag 2, four levels:
block 0  1 2 3 4                        block 0  1 2 3 4 = =
block 1  1 2 3 4                        block 1      1 2 3 4 = =
block 2  1 2 3 4                        block 2          1 2 3 4 = =
block 3  1 2 3 4 = = = =                block 3              1 2 3 4
block 4          1 2 3 4
block 5          1 2 3 4                = held: looked at, not moved
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from blockvid_cli.errors import UsageError
from blockvid_cli.rollout.schedules.diagonal import DiagonalSchedule
from blockvid_cli.rollout.schedules.step import Step


@dataclass(frozen=True)
class MatrixSchedule:
    """Args:
    window: the most blocks in one pass.
    overlap: with lag 0, how many finished blocks the next window is shown, at the sigma ``context_sigma``.
    lag: steps between the beginnings of neighbouring blocks; finished blocks stay in the window, clean.
    """

    window: int = 5
    overlap: int = 1
    lag: int = 0
    context_sigma: float = 0.02
    joint: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 <= self.overlap < self.window or self.lag < 0 or not 0 <= self.context_sigma < 1:
            raise UsageError(
                "a matrix needs an overlap of 0 or more and below its window, a lag of 0 or more, and a context sigma"
                f" from 0 to below 1; not {self.overlap}, {self.window}, {self.lag} and {self.context_sigma}."
            )

    def steps(self, blocks: int, levels: Sequence[float]) -> Iterator[Step]:
        """See ``Schedule``.

        Raises:
            UsageError: more blocks than the window holds would be on their way at once.
        """
        return self._sliding(blocks, levels) if self.lag else self._windows(blocks, levels)

    def _windows(self, blocks: int, levels: Sequence[float]) -> Iterator[Step]:
        first, end = 0, min(self.window, blocks)
        while first < blocks:
            held = tuple(range(max(first - self.overlap, 0), first))
            new = tuple(range(first, end))
            for now, then in itertools.pairwise(levels):
                still = (self.context_sigma,) * len(held)
                yield Step(held + new, still + (now,) * len(new), still + (then,) * len(new))
            first, end = end, min(end + self.window - self.overlap, blocks)

    def _sliding(self, blocks: int, levels: Sequence[float]) -> Iterator[Step]:
        if -(-(len(levels) - 1) // self.lag) > self.window:
            raise UsageError(
                f"recipe.schedule: {len(levels) - 1} steps at a lag of {self.lag} need a window of"
                f" {-(-(len(levels) - 1) // self.lag)} blocks or more; not {self.window}."
            )
        for step in DiagonalSchedule(self.lag).steps(blocks, levels):
            held = tuple(range(max(step.blocks[-1] + 1 - self.window, 0), step.blocks[0]))
            still = (levels[-1],) * len(held)
            yield Step(held + step.blocks, still + step.sigma, still + step.sigma_next)
