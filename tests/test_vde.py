"""Video Drift Error: Eq. 17-19 by hand, what holds for any scores, and what scores that say nothing come to."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from blockvid_cli.errors import UsageError
from blockvid_cli.evaluation.segments import (
    Bounds,
    LargestChange,
    Span,
    Weights,
    drift_error,
    largest_change,
    parse_segments,
    segment_weights,
    segments,
    segments_at,
    segments_of_seconds,
)

SCORES = st.lists(st.floats(0.01, 100), min_size=2, max_size=12)
ALL = st.sampled_from(Weights)


def test_three_segments_by_hand():
    # changes .1 and .25; weights 2, 1; ln 2, ln 1; 1, 1
    scores = [0.8, 0.88, 0.6]
    assert drift_error(scores).value == pytest.approx(2 * 0.1 + 1 * 0.25)
    assert drift_error(scores).normalised == pytest.approx(0.45 / 3)
    assert drift_error(scores, Weights.LOG).value == pytest.approx(math.log(2) * 0.1)
    assert drift_error(scores, Weights.UNIFORM).value == pytest.approx(0.35)
    assert drift_error(scores, Weights.UNIFORM).normalised == pytest.approx(0.175)


def test_ten_segments_weigh_nine_to_one():
    assert segment_weights(10, Weights.LINEAR) == [9, 8, 7, 6, 5, 4, 3, 2, 1]
    assert sum(segment_weights(10, Weights.LINEAR)) == 45
    assert sum(segment_weights(10, Weights.LOG)) == pytest.approx(12.80, abs=0.005)
    assert sum(segment_weights(15, Weights.LINEAR)) == 105
    assert drift_error([1.0, *[1.1] * 9]).value == pytest.approx(4.5)


@given(SCORES, ALL, st.floats(0.1, 10))
def test_a_scale_does_not_matter(scores, weights, scale):
    assume(weights is not Weights.LOG or len(scores) > 2)
    assert drift_error([scale * s for s in scores], weights).value == pytest.approx(
        drift_error(scores, weights).value, rel=1e-6
    )


@given(st.floats(0.01, 100), st.integers(3, 40), ALL)
def test_constant_scores_do_not_drift(score, number, weights):
    drift = drift_error([score] * number, weights)
    assert (drift.value, drift.normalised, drift.reason) == (0, 0, None)


@given(SCORES, st.floats(1.05, 3))
def test_more_change_is_more_drift(scores, stretch):
    assume(max(scores) > scores[0] * 1.01 or min(scores) < scores[0] * 0.99)
    further = [scores[0] + stretch * (s - scores[0]) for s in scores]
    assert drift_error(further).value == pytest.approx(stretch * drift_error(scores).value)
    assert drift_error(further).value > drift_error(scores).value


def test_the_largest_change_counts_even_if_it_disappears_later():
    assert largest_change([0.8, 0.8, 0.6, 0.8]) == LargestChange(2, pytest.approx(-0.25))
    assert largest_change([0.5, None, math.nan, 0.75, 0.25]) == LargestChange(3, 0.5)  # the earlier
    assert largest_change([-0.5, -0.4]) == LargestChange(1, pytest.approx(0.2))  # upwards
    assert largest_change([0.8]) == LargestChange(0, 0)
    for scores in ([], [None, 0.8], [0.0, 0.8], [math.inf, 0.8]):
        assert largest_change(scores) is None


@given(SCORES)
def test_the_largest_change_is_at_least_the_drift_error(scores):
    assert abs(largest_change(scores).change) >= drift_error(scores).normalised * (1 - 1e-9)


@given(SCORES)
def test_a_film_run_backwards_drifts_from_its_end(scores):
    """Not the same number: the other end is the reference, and early segments weigh most."""
    backwards = drift_error(scores[::-1]).value
    n, first = len(scores), scores[-1]
    by_hand = sum((n - i + 1) * abs(scores[n - i] - first) / first for i in range(2, n + 1))
    assert backwards == pytest.approx(by_hand)


@given(SCORES, st.integers(1, 11))
def test_early_drift_weighs_more_than_late(scores, place):
    assume(place + 1 < len(scores))
    early, late = [1.0] * len(scores), [1.0] * len(scores)
    early[place], late[place + 1] = 2.0, 2.0
    assert drift_error(early).value > drift_error(late).value
    assert drift_error(early, Weights.UNIFORM).value == drift_error(late, Weights.UNIFORM).value


@given(SCORES, ALL)
def test_by_weight_it_is_a_mean_change(scores, weights):
    drift = drift_error(scores, weights)
    if drift.normalised is not None:
        changes = [abs(s - scores[0]) / scores[0] for s in scores[1:]]
        assert min(changes) - 1e-9 <= drift.normalised <= max(changes) + 1e-9


@pytest.mark.parametrize(
    ("scores", "weights", "reason"),
    [
        ([], Weights.LINEAR, "too_short"),
        ([0.9], Weights.LINEAR, "too_short"),
        ([0.9, None], Weights.LINEAR, "unscored_segment"),
        ([0.0, 0.5], Weights.LINEAR, "zero_reference"),
        ([0.9, math.nan], Weights.LINEAR, "not_finite"),
        ([0.9, math.inf], Weights.LINEAR, "not_finite"),
        ([0.9, 0.5], Weights.LOG, "no_weight"),
    ],
)
def test_scores_that_say_nothing_have_a_reason(scores, weights, reason):
    drift = drift_error(scores, weights)
    assert (drift.value, drift.normalised, drift.reason) == (None, None, reason)


def test_a_negative_reference_counts_by_its_size():
    assert drift_error([-2.0, -3.0]).value == pytest.approx(0.5)


# Segments


def test_segments_as_drawn():
    assert [s.first for s in segments(23, 5)] == [0, 4, 8, 12, 16]
    assert segments(23, 5)[-1].end == 20
    assert [s.end for s in segments(23, 5, Bounds.PROPORTIONAL)] == [5, 9, 14, 18, 23]
    assert segments(23, 5, Bounds.SHORT_LAST) == [Span(0, 5), Span(5, 10), Span(10, 15), Span(15, 20), Span(20, 23)]


@given(st.integers(0, 400), st.integers(2, 30), st.sampled_from(Bounds))
def test_segments_follow_each_other_and_none_is_empty(frames, number, bounds):
    spans = segments(frames, number, bounds)
    assert len(spans) <= number
    assert all(a.end == b.first for a, b in itertools.pairwise(spans))
    assert all(s.first < s.end <= frames for s in spans)
    if bounds is Bounds.TRIM:
        assert len({s.end - s.first for s in spans}) <= 1
        assert len(spans) == (number if frames >= number else 0)
    elif frames:
        assert (spans[0].first, spans[-1].end) == (0, frames)


def test_segments_of_seconds():
    assert segments_of_seconds(100, 12, 2) == [Span(0, 24), Span(24, 48), Span(48, 72), Span(72, 96)]
    assert segments_of_seconds(100, 12, 2, Bounds.SHORT_LAST)[-1] == Span(96, 100)
    assert segments_of_seconds(100, 12, 2, Bounds.PROPORTIONAL)[-1] == Span(75, 100)


def test_segments_of_a_storyboard_end_with_the_film():
    assert segments_at(50, 10, [0, 2, 4, 6]) == [Span(0, 20), Span(20, 40), Span(40, 50)]


def test_segments_are_read_from_text():
    assert parse_segments("10") == (10, None)
    assert parse_segments("2.5s") == (None, 2.5)
    assert parse_segments("storyboard") == (None, None)


@pytest.mark.parametrize("text", ["", "1", "0", "-3", "ten", "s", "0s", "-1s", "infs", "nans", "2.5"])
def test_what_is_no_segmentation_is_told(text):
    with pytest.raises(UsageError, match="--segments"):
        parse_segments(text)
