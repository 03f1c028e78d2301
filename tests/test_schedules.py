"""Schedules equal the tables drawn in their docstrings."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockvid_cli.errors import UsageError
from blockvid_cli.rollout.schedules import block as block_by_block
from blockvid_cli.rollout.schedules import diagonal as staircase
from blockvid_cli.rollout.schedules import joint as all_at_once
from blockvid_cli.rollout.schedules.block import BlockSchedule
from blockvid_cli.rollout.schedules.diagonal import DiagonalSchedule
from blockvid_cli.rollout.schedules.joint import JointSchedule

LEVELS = (1.0, 0.75, 0.5, 0.25, 0.0)


def drawn(docstring: str) -> list[list[str]]:
    """The rows of a docstring's table: at each moment, the step a block is at, or a blank."""
    rows = re.findall(r"block \d  ([ \d]+)", docstring)
    width = max(len(row) for row in rows)
    return [[row.ljust(width)[i] for i in range(0, width, 2)] for row in rows]


def table(schedule, blocks: int) -> list[list[str]]:
    rows = [[] for _ in range(blocks)]
    for step in schedule.steps(blocks, LEVELS):
        assert list(step.blocks) == list(range(step.blocks[0], step.blocks[-1] + 1))
        at = dict(zip(step.blocks, zip(step.now, step.then, strict=True), strict=True))
        for block in range(blocks):
            if block in at:
                now, then = at[block]
                assert LEVELS.index(then) == LEVELS.index(now) + 1
                rows[block].append(str(LEVELS.index(then)))
            else:
                rows[block].append(" ")
    return rows


@pytest.mark.parametrize(
    ("module", "schedule"),
    [(block_by_block, BlockSchedule()), (all_at_once, JointSchedule()), (staircase, DiagonalSchedule(lag=2))],
)
def test_schedule_is_its_drawing(module, schedule):
    assert table(schedule, 3) == drawn(module.__doc__)


def test_staircase_of_every_step_is_block_by_block_and_of_none_all_at_once():
    assert list(DiagonalSchedule(4).steps(3, LEVELS)) == list(BlockSchedule().steps(3, LEVELS))
    assert list(DiagonalSchedule(9).steps(3, LEVELS)) == list(BlockSchedule().steps(3, LEVELS))
    assert list(DiagonalSchedule(0).steps(3, LEVELS)) == list(JointSchedule().steps(3, LEVELS))


@given(st.integers(0, 6), st.integers(1, 7), st.integers(1, 6))
def test_every_block_takes_every_level_once(lag: int, blocks: int, count: int):
    levels = tuple(1 - i / count for i in range(count + 1))
    path = {block: [1.0] for block in range(blocks)}
    for step in DiagonalSchedule(lag).steps(blocks, levels):
        for block, now, then in zip(step.blocks, step.sigma, step.sigma_next, strict=True):
            assert path[block][-1] == now
            path[block].append(then)
    assert all(tuple(taken) == levels for taken in path.values())


def test_a_negative_lag_is_refused():
    with pytest.raises(UsageError, match="lag"):
        DiagonalSchedule(-1)
