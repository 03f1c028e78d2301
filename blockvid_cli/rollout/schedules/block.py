"""One block after another, each from noise to clean before the next begins.

block 0  1 2 3 4
block 1          1 2 3 4
block 2                  1 2 3 4
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from blockvid_cli.rollout.schedules.step import Step


@dataclass(frozen=True)
class BlockSchedule:
    """The order of Self Forcing and BlockVid."""

    joint: ClassVar[bool] = False

    def steps(self, blocks: int, levels: Sequence[float]) -> Iterator[Step]:
        """See ``Schedule``."""
        for block in range(blocks):
            for now, then in itertools.pairwise(levels):
                yield Step((block,), (now,), (then,))
