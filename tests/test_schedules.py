"""Schedules equal the tables drawn in their docstrings."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockvid_cli.errors import UsageError
from blockvid_cli.rollout.schedules import matrix
from blockvid_cli.rollout.schedules.block import BlockSchedule, DiagonalSchedule, InfillSchedule, JointSchedule
from blockvid_cli.rollout.schedules.matrix import MatrixSchedule
from blockvid_cli.rollout.schedules.step import Step, sigma_paths, split_rounds
from tests import small

SIGMAS = (1.0, 0.75, 0.5, 0.25, 0.0)
ALL = [
    BlockSchedule(),
    JointSchedule(),
    DiagonalSchedule(2),
    InfillSchedule(),
    MatrixSchedule(3, 1),
    MatrixSchedule(4, 0, lag=2),
]


def blocks(count: int):
    return small.plan((count,)).blocks


def drawing(docstring: str) -> list[list[str]]:
    """The rows of a docstring's table: the step a block is at, = for context, or a blank."""
    rows = re.findall(r"(?:block \d|after  )  ([ \d=]*[\d=])", docstring)
    width = max(len(row) for row in rows)
    return [[row.ljust(width)[i] for i in range(0, width, 2)] for row in rows]


def table(schedule, count: int, after: int = 0) -> list[list[str]]:
    """The steps of ``count`` blocks, before so many finished ones."""
    film = blocks(count + after)
    rows = [[] for _ in film]
    for step in schedule.steps(film[:count], SIGMAS, film[count:]):
        sigmas = dict(zip(step.blocks, zip(step.sigma, step.sigma_next, strict=True), strict=True))
        for block in film:
            if block.number not in sigmas:
                rows[block.number].append(" ")
            elif block.number in step.moving:
                sigma, sigma_next = sigmas[block.number]
                assert SIGMAS.index(sigma_next) == SIGMAS.index(sigma) + 1
                rows[block.number].append(str(SIGMAS.index(sigma_next)))
            else:
                rows[block.number].append("=")
    return rows


@pytest.mark.parametrize("schedule", [BlockSchedule(), JointSchedule(), DiagonalSchedule(lag=2)])
def test_a_schedule_is_its_drawing(schedule):
    assert table(schedule, 3) == drawing(type(schedule).__doc__)


def test_infill_is_its_drawing():
    assert table(InfillSchedule(), 3, after=1) == drawing(InfillSchedule.__doc__)


def test_a_matrix_is_its_drawings():
    lines = [line for line in matrix.__doc__.splitlines() if line.startswith("block")]
    assert table(MatrixSchedule(4, 1), 6) == drawing("\n".join(line[:26] for line in lines))
    assert table(MatrixSchedule(3, 0, lag=2), 4) == drawing("\n".join(line[40:] for line in lines[:4]))


def test_a_diagonal_of_every_step_is_the_block_schedule_and_of_none_the_joint_one():
    block, joint = (list(schedule.steps(blocks(3), SIGMAS, ())) for schedule in (BlockSchedule(), JointSchedule()))
    assert list(DiagonalSchedule(4).steps(blocks(3), SIGMAS, ())) == block
    assert list(DiagonalSchedule(9).steps(blocks(3), SIGMAS, ())) == block
    assert list(DiagonalSchedule(0).steps(blocks(3), SIGMAS, ())) == joint


@given(st.integers(0, 6), st.integers(1, 7), st.integers(1, 6))
def test_every_block_takes_every_sigma_once(lag: int, count: int, steps: int):
    sigmas = tuple(1 - i / steps for i in range(steps + 1))
    paths = sigma_paths(list(DiagonalSchedule(lag).steps(blocks(count), sigmas, ())))
    assert sorted(paths) == list(range(count)) and all(path == sigmas for path in paths.values())


@pytest.mark.parametrize("schedule", ALL)
def test_no_step_reaches_over_a_cut(schedule):
    film = small.plan((2, 3, 2), cuts=[False, True, False])
    for step in schedule.steps(film.blocks, SIGMAS, ()):
        assert len({film.blocks[number].shot for number in step.blocks}) == 1
    assert sorted(sigma_paths(list(schedule.steps(film.blocks, SIGMAS, ())))) == list(range(7))


@pytest.mark.parametrize("schedule", [MatrixSchedule(3, 1), MatrixSchedule(3, 2, lag=2), JointSchedule()])
def test_blocks_that_are_finished_before_are_context(schedule):
    film = small.plan((2, 3)).blocks
    first = next(iter(schedule.steps(film[2:], SIGMAS, film[:2])))
    assert 1 in first.blocks and 1 not in first.moving
    cut = small.plan((2, 3), cuts=[False, True]).blocks
    assert 1 not in next(iter(schedule.steps(cut[2:], SIGMAS, cut[:2]))).blocks


def test_what_follows_is_context_only_if_it_is_the_next_block_of_the_shot():
    film = small.plan((1, 1, 2)).blocks
    assert [step.blocks for step in InfillSchedule().steps(film[1:2], (1.0, 0.0), [film[0], *film[2:]])] == [(1, 2)]
    assert [step.blocks for step in InfillSchedule().steps(film[1:2], (1.0, 0.0), [film[0], film[3]])] == [(1,)]
    cut = small.plan((1, 1, 2), cuts=[False, False, True]).blocks
    assert [step.blocks for step in InfillSchedule().steps(cut[1:2], (1.0, 0.0), cut[2:])] == [(1,)]


def test_the_chunks_that_decide_a_chunk():
    assert [*BlockSchedule().needs(3, 5)] == [1, 2]
    assert [*InfillSchedule().needs(3, 5)] == [1, 2, 4] and [*InfillSchedule().needs(5, 5)] == [1, 2, 3, 4]
    assert [*JointSchedule().needs(3, 5)] == [*MatrixSchedule().needs(3, 5)] == [1, 2, 4, 5]


def test_a_step_that_begins_where_its_block_is_not_is_refused():
    with pytest.raises(UsageError, match=r"block 0 is to be denoised from sigma 0\.5"):
        sigma_paths([Step((0,), (1.0,), (0.75,)), Step((0,), (0.5,), (0.0,))])


def test_a_round_ends_when_no_block_is_under_way():
    rounds = split_rounds(list(MatrixSchedule(2, 1).steps(blocks(3), SIGMAS, ())))
    assert [[step.moving for step in part] for part in rounds] == [[(0, 1)] * 4, [(2,)] * 4]
    assert len(split_rounds(list(DiagonalSchedule(2).steps(blocks(5), SIGMAS, ())))) == 1


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: DiagonalSchedule(-1), "lag"),
        (lambda: MatrixSchedule(3, 3), "overlap"),
        (lambda: MatrixSchedule(1, 0, lag=2).check(SIGMAS), "4 steps at a lag of 2 need a window of 2"),
    ],
)
def test_options_that_make_no_sense_are_refused(make, words):
    with pytest.raises(UsageError, match=words):
        make()
