"""All blocks together, as a bidirectional model draws a whole clip.

block 0  1 2 3 4
block 1  1 2 3 4
block 2  1 2 3 4
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from blockvid_cli.rollout.schedules.step import Step


@dataclass(frozen=True)
class JointSchedule:
    """One window over the whole film; cost and memory grow with its length."""

    joint: ClassVar[bool] = True

    def steps(self, blocks: int, levels: Sequence[float]) -> Iterator[Step]:
        """See ``Schedule``."""
        for now, then in itertools.pairwise(levels):
            yield Step(tuple(range(blocks)), (now,) * blocks, (then,) * blocks)
