"""A step denoises some blocks together, each from its sigma to its next; a schedule is the order of a rollout's steps.

    Step(blocks=(3, 4, 5), sigma=(0.0, 0.5, 1.0), sigma_next=(0.0, 0.25, 0.5))
                                 |    |         `- block 5 begins
                                 |    `- block 4 is under way
                                 `- block 3 is finished: context, which is attended to and does not move

Blocks may finish in any order; a step may take a block to any sigma, not only to those of the recipe.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from blockvid_cli.errors import UsageError
from blockvid_cli.storyboard.plan import Block

CLEAN = 0.0


@dataclass(frozen=True)
class Step:
    """Blocks by their numbers in the film, the sigma (1 noise, 0 clean) of each and the sigma each is taken to.

    Args:
        learn: the pass keeps its graph, from detached latents on; all other steps run without gradients.
    """

    blocks: tuple[int, ...]
    sigma: tuple[float, ...]
    sigma_next: tuple[float, ...]
    learn: bool = False

    @property
    def moving(self) -> tuple[int, ...]:
        """The blocks that are denoised; the others are finished, and context at the sigma they have here."""
        return tuple(number for number, _, _ in self.moves)

    @property
    def moves(self) -> tuple[tuple[int, float, float], ...]:
        """(block, sigma, sigma_next) of each block that is denoised."""
        return tuple(move for move in zip(self.blocks, self.sigma, self.sigma_next, strict=True) if move[1] != move[2])


class Schedule:
    """In which order which blocks are denoised how far; a new one overrides ``steps`` and what differs below."""

    def steps(self, blocks: Sequence[Block], sigmas: Sequence[float], before: Sequence[Block]) -> Iterator[Step]:
        """The steps that take ``blocks`` from noise to clean.

        Args:
            blocks: consecutive blocks of the film, to be denoised by one recipe.
            sigmas: the recipe's, falling from 1 to 0.
            before: blocks that are finished already: those before these, and those after them that are kept.
        """
        raise NotImplementedError

    def check(self, sigmas: Sequence[float]) -> None:
        """Raises UsageError where the schedule cannot work with the recipe's sigmas."""

    def settled(self, steps: Sequence[Step], done: set[int]) -> set[int]:
        """The done blocks that need not be denoised again on resuming: no undone block was denoised beside them."""
        undone = {number for step in steps for number in step.moving} - done
        while True:
            joined = {n for step in steps if undone.intersection(step.moving) for n in step.moving}
            if joined == undone:
                return done - undone
            undone = joined

    def needs(self, chunk: int, chunks: int) -> Collection[int]:
        """Numbers (from 1) of the other chunks of ``chunks`` that decide a chunk's latents; by default the earlier."""
        return range(1, chunk)


class JointlyDenoised(Schedule):
    """A schedule that denoises a block beside later ones, so that all chunks of the film decide a chunk's latents."""

    def needs(self, chunk: int, chunks: int) -> Collection[int]:
        """All other chunks, the later ones too."""
        return [number for number in range(1, chunks + 1) if number != chunk]


def split_shots(blocks: Sequence[Block]) -> list[tuple[Block, ...]]:
    """Runs of blocks of one shot; blocks of two shots are never denoised side by side."""
    return [tuple(shot) for _, shot in itertools.groupby(blocks, key=lambda block: block.shot)]


def preceding(shot: Sequence[Block], before: Sequence[Block], count: int) -> tuple[int, ...]:
    """The numbers of up to ``count`` finished blocks of the same shot that come directly before these."""
    finished = {block.number for block in before if block.shot == shot[0].shot}
    numbers: list[int] = []
    for number in range(shot[0].number - 1, shot[0].number - 1 - count, -1):
        if number not in finished:
            break
        numbers.insert(0, number)
    return tuple(numbers)


def moving_step(context: Sequence[int], sigma: float, blocks: Sequence[int], pair: tuple[float, float]) -> Step:
    """Blocks that move from pair[0] to pair[1] together, after context blocks that stay at ``sigma``."""
    still, count = (sigma,) * len(context), len(blocks)
    return Step((*context, *blocks), still + (pair[0],) * count, still + (pair[1],) * count)


def sigma_paths(steps: Sequence[Step]) -> dict[int, tuple[float, ...]]:
    """All sigmas that each block passes, from its first to its last.

    Raises:
        UsageError: a step begins at another sigma than the block's step before it ended at.
    """
    paths: dict[int, tuple[float, ...]] = {}
    for step in steps:
        for number, sigma, sigma_next in step.moves:
            path = paths.get(number, (sigma,))
            if path[-1] != sigma:
                raise UsageError(
                    f"recipe.schedule: block {number} is to be denoised from sigma {sigma:g}, but is at {path[-1]:g}."
                )
            paths[number] = (*path, sigma_next)
    return paths


def split_rounds(steps: Sequence[Step]) -> list[tuple[Step, ...]]:
    """Runs of steps, as short as can be, in which every block that begins is also finished."""
    rounds: list[tuple[Step, ...]] = []
    under_way: set[int] = set()
    start = 0
    for index, step in enumerate(steps, start=1):
        under_way.update(step.moving)
        under_way.difference_update(number for number, _, sigma_next in step.moves if sigma_next == CLEAN)
        if not under_way or index == len(steps):
            rounds.append(tuple(steps[start:index]))
            start = index
    return rounds
