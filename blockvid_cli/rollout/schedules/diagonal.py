"""Neighbouring blocks on a staircase of levels: each begins ``lag`` steps after the one before it.

lag 2:   block 0  1 2 3 4
         block 1      1 2 3 4
         block 2          1 2 3 4
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from blockvid_cli.errors import UsageError
from blockvid_cli.rollout.schedules.step import Step


@dataclass(frozen=True)
class DiagonalSchedule:
    """A lag of 0 is all at once; a lag of as many steps as there are (or more) is block by block."""

    lag: int = 2
    joint: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.lag < 0:
            raise UsageError(f"the staircase's lag is a number of steps, 0 or more; not {self.lag}.")

    def steps(self, blocks: int, levels: Sequence[float]) -> Iterator[Step]:
        """See ``Schedule``."""
        count = len(levels) - 1
        lag = min(self.lag, count)
        for moment in range(count + lag * (blocks - 1)):
            last = blocks - 1 if lag == 0 else min(moment // lag, blocks - 1)
            first = 0 if lag == 0 else max(-(-(moment - count + 1) // lag), 0)
            active = range(first, last + 1)
            index = [moment - lag * block for block in active]
            yield Step(tuple(active), tuple(levels[i] for i in index), tuple(levels[i + 1] for i in index))
