"""Schedules that go through a film's blocks one by one, one by one before a kept neighbour, together, or diagonally.

The drawings show four steps of three blocks; a number is the step a block is at, = is a finished block that is context.
Blocks of two shots are never in one step: a schedule that denoises blocks together begins again at a cut.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from blockvid_cli.errors import UsageError
from blockvid_cli.rollout.schedules.step import (
    CLEAN,
    JointlyDenoised,
    Schedule,
    Step,
    moving_step,
    preceding,
    split_shots,
)
from blockvid_cli.storyboard.plan import Block


@dataclass(frozen=True)
class BlockSchedule(Schedule):
    """One block after another, each from noise to clean before the next begins (Self Forcing, BlockVid).

    block 0  1 2 3 4
    block 1          1 2 3 4
    block 2                  1 2 3 4
    """

    def steps(self, blocks: Sequence[Block], sigmas: Sequence[float], before: Sequence[Block]) -> Iterator[Step]:
        """Finished blocks are attended to through the KV cache only."""
        for block in blocks:
            for pair in itertools.pairwise(sigmas):
                yield moving_step((), CLEAN, (block.number,), pair)


@dataclass(frozen=True)
class InfillSchedule(Schedule):
    """A chunk that is generated again between neighbours that are kept: block by block, beside the next kept block.

    block 0  1 2 3 4
    block 1          1 2 3 4
    block 2                  1 2 3 4
    after    = = = = = = = = = = = =

    Where nothing of the same shot is kept behind the chunk, this is the block schedule.
    """

    def steps(self, blocks: Sequence[Block], sigmas: Sequence[float], before: Sequence[Block]) -> Iterator[Step]:
        """The context behind each block is the kept block after all of them."""
        last = blocks[-1]
        after = [block.number for block in before if (block.number, block.shot) == (last.number + 1, last.shot)]
        for block in blocks:
            for sigma, sigma_next in itertools.pairwise(sigmas):
                still = (CLEAN,) * len(after)
                yield Step((block.number, *after), (sigma, *still), (sigma_next, *still))

    def needs(self, chunk: int, chunks: int) -> Collection[int]:
        """The earlier chunks, and the one that follows."""
        return [*range(1, chunk), *range(chunk + 1, min(chunk + 1, chunks) + 1)]


@dataclass(frozen=True)
class JointSchedule(JointlyDenoised):
    """All blocks of a shot together, as a bidirectional model generates a clip; cost and memory grow with its length.

    block 0  1 2 3 4
    block 1  1 2 3 4
    block 2  1 2 3 4

    The block before these, where the same shot has a finished one, is context.
    """

    def steps(self, blocks: Sequence[Block], sigmas: Sequence[float], before: Sequence[Block]) -> Iterator[Step]:
        """One window a shot."""
        for shot in split_shots(blocks):
            context, numbers = preceding(shot, before, 1), [block.number for block in shot]
            for pair in itertools.pairwise(sigmas):
                yield moving_step(context, CLEAN, numbers, pair)


@dataclass(frozen=True)
class DiagonalSchedule(JointlyDenoised):
    """Neighbouring blocks at rising sigmas: each begins ``lag`` steps after the one before it. Lag 2:

    block 0  1 2 3 4
    block 1      1 2 3 4
    block 2          1 2 3 4

    A lag of 0 is the joint schedule; a lag of as many steps as there are, or more, is the block schedule. Finished
    blocks are attended to through the KV cache only; where there is none, use the matrix with a lag.
    """

    lag: int = 2

    def __post_init__(self) -> None:
        if self.lag < 0:
            raise UsageError(f"the diagonal's lag is a number of steps, 0 or more; not {self.lag}.")

    def steps(self, blocks: Sequence[Block], sigmas: Sequence[float], before: Sequence[Block]) -> Iterator[Step]:
        """One diagonal a shot."""
        for shot in split_shots(blocks):
            yield from diagonal_steps([block.number for block in shot], sigmas, self.lag)


def diagonal_steps(numbers: Sequence[int], sigmas: Sequence[float], lag: int) -> Iterator[Step]:
    """The steps of neighbouring blocks of which each begins ``lag`` steps after the one before it."""
    count, blocks = len(sigmas) - 1, len(numbers)
    lag = min(lag, count)
    for time in range(count + lag * (blocks - 1)):
        last = blocks - 1 if lag == 0 else min(time // lag, blocks - 1)
        first = 0 if lag == 0 else max(-(-(time - count + 1) // lag), 0)
        active = range(first, last + 1)
        index = [time - lag * block for block in active]
        yield Step(
            tuple(numbers[block] for block in active),
            tuple(sigmas[i] for i in index),
            tuple(sigmas[i + 1] for i in index),
        )
