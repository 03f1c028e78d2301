"""A chunk drawn again between neighbours that stay: block after block, the last beside the first block after it, clean.

block 0  1 2 3 4
block 1          1 2 3 4
block 2                  1 2 3 4
after                    = = = =        = held: looked at, not moved
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from blockvid_cli.rollout.schedules.step import Step


@dataclass(frozen=True)
class InfillSchedule:
    """Only the last block sees what comes after: further away it would be told of as if it came at once."""

    joint: ClassVar[bool] = False

    def steps(self, blocks: int, levels: Sequence[float]) -> Iterator[Step]:
        """See ``Schedule``; the block after is number ``blocks``."""
        clean = levels[-1]
        for block in range(blocks):
            for now, then in itertools.pairwise(levels):
                if block < blocks - 1:
                    yield Step((block,), (now,), (then,))
                else:
                    yield Step((block, blocks), (now, clean), (then, clean))
