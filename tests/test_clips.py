"""VBench-Long's arithmetic: where clips lie, what is said between them, and scores that VBench-Long itself wrote.

The recorded scores are of five films of 30 s by Self Forcing, out of github.com/zju-jiyicheng/Forcing-KV (Apache-2.0),
eval/playground/self_forcing_30s/vbench_long and evaluation/Helios/playground/self_forcing_30s/vbench_long.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from blockvid_cli.errors import UsageError
from blockvid_cli.evaluation.segments import clip_spans, clip_to_clip, fuse_clip_scores, map_clip_score

RECORDED = [  # which, clip to clip, mapped, inside clip 0, both together
    ("subject", 0.7158051207661629, 0.9691260638568856, 0.9197328821305306, 0.9444294729937082),
    ("subject", 0.6852840270314898, 0.9639354628908212, 0.9266143268154513, 0.9452748948531362),
    ("subject", 0.9750996849366597, 0.9939432152260935, 0.9944386837943908, 0.9941909495102421),
    ("subject", 0.8479486640010562, 0.9852342424936821, 0.976534282007525, 0.9808842622506035),
    ("subject", 0.8430558879460607, 0.9846807330179301, 0.9304110936580166, 0.9575459133379733),
    ("background", 0.7573269009590149, 0.9607041165585929, 0.9257891255040323, 0.9432466210313126),
    ("background", 0.8315157869032451, 0.9655758636917493, 0.9379725302419355, 0.9517741969668424),
    ("background", 0.9574933286224093, 0.978115487994911, 0.9825400075604839, 0.9803277477776975),
    ("background", 0.9111199591841016, 0.9725170873787509, 0.9509198588709677, 0.9617184731248594),
    ("background", 0.8712313728673118, 0.969224426363773, 0.9697816910282258, 0.9695030586959994),
]


def borders(frames: int, fps: float) -> list[tuple[int, int]]:
    """The clips of a film as pairs of first frame and one past the last."""
    return [(clip.first, clip.end) for clip in clip_spans(frames, fps)]


@pytest.mark.parametrize(("table", "between", "mapped", "inside", "fused"), RECORDED)
def test_scores_are_those_that_vbench_long_wrote(table, between, mapped, inside, fused):
    assert map_clip_score(table, between) == pytest.approx(mapped, abs=1e-6)
    assert fuse_clip_scores(inside, map_clip_score(table, between)) == pytest.approx(fused, abs=1e-6)


def test_whole_clips_lie_end_to_end():
    assert borders(96, 16) == [(0, 32), (32, 64), (64, 96)]
    assert borders(96, 23.976) == [(0, 46), (46, 92), (50, 96)]


def test_the_last_clip_reaches_back():
    assert borders(70, 16) == [(0, 32), (32, 64), (38, 70)]
    assert len(borders(477, 16)) == 15  # as many as were recorded for films of 30 s


@pytest.mark.parametrize(("frames", "fps", "clips"), [(31, 16, [(0, 31)]), (32, 16, [(0, 32)]), (1, 16, [(0, 1)])])
def test_a_film_shorter_than_a_clip_is_one(frames, fps, clips):
    assert borders(frames, fps) == clips


def test_no_frames_no_clips_and_slow_films_have_clips_of_two_frames():
    assert borders(0, 16) == []
    assert borders(5, 0.5) == [(0, 2), (2, 4), (3, 5)]


@given(some.integers(1, 400), some.floats(0.1, 60))
def test_clips_cover_the_film_and_are_of_one_length(frames, fps):
    clips = borders(frames, fps)
    assert set().union(*(range(*clip) for clip in clips)) == set(range(frames))
    assert len({end - first for first, end in clips}) == 1
    assert [first for first, _ in clips] == sorted({first for first, _ in clips})


def test_clip_to_clip_is_the_mean_of_the_step_before_and_the_first():
    embeddings = np.array([[1, 0], [1, 1], [-1, 1]], float) * [[3], [1], [2]]
    near, far = np.sqrt(0.5), [np.sqrt(0.5), 0]  # cos(e2, e0) is below 0 and counts as 0
    assert clip_to_clip(embeddings) == pytest.approx(((near + far[0]) / 2 + (0 + far[1]) / 2) / 2)


def test_the_same_embedding_throughout_scores_one_and_one_clip_scores_nothing():
    assert clip_to_clip(np.ones((4, 3))) == pytest.approx(1)
    assert clip_to_clip(np.ones((1, 3))) is None
    assert clip_to_clip(np.zeros((2, 3))) == 0


@settings(max_examples=30)
@given(some.integers(0, 2**31))
def test_clip_to_clip_lies_between_nothing_and_one_whatever_the_lengths(seed):
    draw = np.random.default_rng(seed)
    embeddings = draw.normal(size=(draw.integers(2, 8), 5))
    score = clip_to_clip(embeddings)
    assert 0 <= score <= 1
    assert clip_to_clip(embeddings * draw.uniform(0.1, 9, (len(embeddings), 1))) == pytest.approx(score)


@pytest.mark.parametrize("which", ["subject", "background"])
def test_tables_rise_from_nothing_to_one(which):
    scores = [map_clip_score(which, value) for value in np.linspace(-0.5, 1.5, 401)]
    assert scores == sorted(scores)
    assert (scores[0], scores[-1]) == (0, 1)
    assert map_clip_score(which, 0.995) == pytest.approx((map_clip_score(which, 0.99) + 1) / 2)


def test_a_film_of_one_clip_has_nothing_between():
    assert fuse_clip_scores(0.9, None) == 0.9
    assert fuse_clip_scores(0.9, 0.0) == 0.9


def test_other_tables_are_not_known():
    with pytest.raises(UsageError, match="no mapping called 'motion'"):
        map_clip_score("motion", 0.5)
