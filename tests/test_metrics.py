"""Measures: the rules by hand, with backends of a line; the builtin backends by what they must and must not see."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from blockvid_cli.evaluation.backends.builtin import (
    AestheticScorer,
    BackgroundAppearance,
    ImagingScorer,
    InverseSearchFlow,
    SubjectAppearance,
    background_mask,
    noise,
    sharpness,
)
from blockvid_cli.evaluation.metrics import paper_metrics
from blockvid_cli.evaluation.metrics.vbench import (
    dynamic_degree,
    imaging_quality,
    motion_smoothness,
    subject_consistency,
    temporal_flickering,
    unit_embeddings,
)
from blockvid_cli.evaluation.scores import MetricTrack
from blockvid_cli.evaluation.segments import Span
from blockvid_cli.video.reader import Frame, VideoInfo

FILM = VideoInfo(Path("film.mp4"), frames=12, fps=16.0, seconds=0.75, size=(64, 48))


def plain(*values: int) -> list[Frame]:
    """Frames of one grey each."""
    return [Frame(number, np.full((48, 64, 3), value, np.uint8)) for number, value in enumerate(values)]


def score_of(metric, frames, video=FILM):
    accumulator = metric.start(video)
    for frame in frames:
        accumulator.update(frame)
    return accumulator.score()


class StubBackend:
    """Answers every question from a list, by the frame's number."""

    name, suffix = "backend", ""

    def __init__(self, answers):
        self.answers, self.calls = answers, 0

    def encode(self, frames):
        self.calls += len(frames)
        return np.array([self.answers[frame.number] for frame in frames], np.float32)

    score = encode

    def interpolate(self, left, right):
        return np.full_like(left.rgb, self.answers[left.number + 1])

    def flow(self, a, b):
        return np.full((64, 96, 2), (self.answers[b.number], 0), np.float32)


# The rules


def test_flickering_by_hand():
    assert score_of(temporal_flickering(), plain(0, 51, 51)) == pytest.approx((0.8 + 1) / 2)


def test_consistency_by_hand():
    backend = StubBackend([(1, 0), (0, 3), (1, 1), (-1, 0)])
    # t = 1: before 0, first 0; t = 2: √½ and √½; t = 3: both negative, so 0
    assert score_of(subject_consistency(backend), plain(0, 0, 0, 0)) == pytest.approx((0 + 0.5**0.5 + 0) / 3)


def test_an_encoder_is_asked_once_a_frame():
    backend, frames = StubBackend([(1, 0)] * 4), plain(0, 0, 0, 0)
    metric = subject_consistency(backend)
    metric.prepare(frames)
    score_of(metric, frames)
    score_of(metric, frames[1:])
    assert backend.calls == 4


def test_a_look_at_nothing_is_like_nothing():
    assert not unit_embeddings(StubBackend([(0, 0)]), plain(0)).any()


def test_smoothness_looks_at_every_other_frame():
    backend = StubBackend([None, 10, None, 20, None])
    # f_1 = 61 where 10 was backend, f_3 = 20 as backend; f_2 and f_4 are not foretold
    assert score_of(motion_smoothness(backend), plain(0, 61, 99, 20, 7)) == pytest.approx((0.8 + 1) / 2)


@pytest.mark.parametrize(("far", "dynamic"), [(4, 1.0), (3, 1.0), (2, 0.0), (0, 0.0)])
def test_dynamic_means_a_quarter_of_the_frames(far, dynamic):
    # 12 frames at 8 a second are all compared; round(4 * 12 / 16) = 3 pairs must be far: 6 px at 256, 1.5 at 64
    answers = [0.0] + [1.6] * far + [1.4] * (11 - far)
    video = VideoInfo(Path("film.mp4"), frames=12, fps=8.0, seconds=1.5, size=(96, 64))
    assert score_of(dynamic_degree(StubBackend(answers)), plain(*[0] * 12), video) == dynamic


def test_dynamic_compares_eight_frames_a_second():
    backend = StubBackend([9.0] * 12)
    pairs = []
    backend.flow = lambda a, b: pairs.append((a.number, b.number)) or np.zeros((64, 96, 2), np.float32)
    score_of(dynamic_degree(backend), plain(*[0] * 12), VideoInfo(Path("f"), 12, 24.0, 0.5, (96, 64)))
    assert pairs == [(0, 3), (3, 6), (6, 9)]


def test_a_judge_is_asked_once_a_frame_and_the_mean_counts():
    backend, frames = StubBackend([0.2, 0.4, 0.9]), plain(0, 0, 0)
    assert score_of(imaging_quality(backend), frames) == pytest.approx(0.5)
    assert score_of(imaging_quality(backend), frames[1:]) == pytest.approx(0.65)
    assert backend.calls == 3


@pytest.mark.parametrize(
    ("metric", "frames"),
    [
        (temporal_flickering(), 1),
        (subject_consistency(StubBackend([(1, 0)] * 3)), 1),
        (motion_smoothness(StubBackend([0] * 3)), 2),
        (dynamic_degree(StubBackend([0] * 3)), 1),
        (imaging_quality(StubBackend([0] * 3)), 0),
        (paper_metrics.clarity(), 0),
        (paper_metrics.subject_likeness(StubBackend([(1, 0)] * 3)), 0),
    ],
)
def test_too_few_frames_are_no_score(metric, frames):
    assert score_of(metric, plain(*[0] * frames)) is None


# The paper's printed formulas


def picture(seed: int = 0, size=(48, 64)) -> np.ndarray:
    """A smooth coloured texture."""
    noise_ = np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8)
    return cv2.normalize(cv2.GaussianBlur(noise_, (0, 0), 3), None, 0, 255, cv2.NORM_MINMAX)


def test_clarity_is_the_variance_of_the_laplacian():
    rgb = picture()
    grey = np.pad(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY).astype(float), 1, mode="reflect")
    inner = grey[1:-1, 1:-1]
    laplacian = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * inner
    assert paper_metrics.laplacian_variance(Frame(0, rgb)) == pytest.approx(laplacian.var(), rel=1e-5)


def test_motion_energy_does_not_depend_on_size_or_rate():
    # 2 px of 64 a frame at 16 a second are 8 of 256 a sixteenth of a second; so is half as far at 32 a second
    slow = score_of(paper_metrics.motion_energy(StubBackend([2.0] * 3)), plain(0, 0, 0))
    fast = score_of(
        paper_metrics.motion_energy(StubBackend([1.0] * 3)),
        plain(0, 0, 0),
        VideoInfo(Path("f"), 3, 32.0, 0.1, (96, 64)),
    )
    assert slow == pytest.approx(8) and fast == pytest.approx(8)


def test_staticness_is_the_share_of_the_background_in_place():
    field = np.zeros((64, 96, 2), np.float32)
    field[:16, :, 0] = 1.0  # a quarter of the rows moves by 4 px of 256
    backend = StubBackend([0, 0])
    backend.flow = lambda a, b: field
    everywhere = score_of(
        paper_metrics.background_staticness(backend, lambda frame: np.ones((12, 16), bool)), plain(0, 0)
    )
    below = score_of(
        paper_metrics.background_staticness(backend, lambda frame: np.arange(12)[:, None] * np.ones(16) >= 6),
        plain(0, 0),
    )
    assert (everywhere, below) == (pytest.approx(0.75), 1.0)


def test_likeness_is_the_cosine_with_the_first_segment():
    looks_ = [(1, 0), (0, 1), (1, 0), (1, 0), (-1, -1), (-1, -1)]
    track = MetricTrack(paper_metrics.subject_likeness(StubBackend(looks_)), FILM, [Span(0, 2), Span(2, 4), Span(4, 6)])
    for frame in plain(*[0] * 6):
        track.update(frame)
    # the first segment's mean is (½, ½): its own frames have a cosine of √½ with it
    assert track.scores == pytest.approx([0.5**0.5, 0.5**0.5, -1])


# Spans


def test_a_track_scores_each_span_as_if_it_stood_alone():
    rng = np.random.default_rng(1)
    frames = [Frame(n, rng.integers(0, 255, (48, 64, 3), dtype=np.uint8)) for n in range(12)]
    spans = [Span(0, 5), Span(3, 12), Span(5, 10), Span(11, 12)]  # they may overlap, and begin at odd frames
    flow = InverseSearchFlow()
    for metric in (
        temporal_flickering(),
        motion_smoothness(flow),
        subject_consistency(SubjectAppearance()),
        dynamic_degree(flow),
    ):
        track = MetricTrack(metric, FILM, spans)
        for frame in frames:
            track.update(frame)
        alone = [score_of(metric, [Frame(f.number, f.rgb) for f in frames[s.first : s.end]]) for s in spans]
        assert track.scores == alone, metric.name


# The builtin backends


def moved(rgb: np.ndarray, right: float) -> np.ndarray:
    return cv2.warpAffine(rgb, np.float32([[1, 0, right], [0, 1, 0]]), rgb.shape[1::-1], borderMode=cv2.BORDER_REFLECT)


def test_the_frame_between_is_foretold_where_things_move_evenly():
    rgb = picture(size=(240, 320))
    left, middle, right = (Frame(n, moved(rgb, 6 * n)) for n in range(3))
    inside = np.s_[:, 20:-20]
    foretold = cv2.absdiff(InverseSearchFlow().interpolate(left, right), middle.rgb)[inside].mean()
    blended = cv2.absdiff(cv2.addWeighted(left.rgb, 0.5, right.rgb, 0.5, 0), middle.rgb)[inside].mean()
    assert foretold < 0.15 * blended


def test_flow_is_told_in_shares_of_the_short_side():
    for side in (240, 480, 720):
        rgb = picture(size=(side, side * 4 // 3))
        far = side // 40
        field = InverseSearchFlow().flow(Frame(0, rgb), Frame(1, moved(rgb, far)))
        assert np.median(field[..., 0]) / min(field.shape[:2]) == pytest.approx(1 / 40, rel=0.15)


def scene(subject=(220, 40, 40), at=(32, 24), sky=(120, 170, 230), shape="disc") -> np.ndarray:
    """A subject before a quiet landscape."""
    rgb = np.empty((96, 128, 3), np.uint8)
    rgb[:] = sky
    rgb[64:] = (70, 140, 60)
    x, y = 2 * at[0], 2 * at[1]
    if shape == "disc":
        cv2.circle(rgb, (x, y), 14, subject, -1)
    else:
        cv2.rectangle(rgb, (x - 18, y - 7), (x + 18, y + 7), subject, -1)
    return cv2.GaussianBlur(rgb, (0, 0), 0.7)


def alike(encoder, a: np.ndarray, b: np.ndarray) -> float:
    one, other = unit_embeddings(encoder, [Frame(0, a), Frame(1, b)])
    return float(one @ other)


def test_the_subject_is_found_wherever_it_is():
    for at in ((32, 24), (20, 20), (45, 28)):
        ground = background_mask(Frame(0, scene(at=at)))
        row, column = round(at[1] / 48 * ground.shape[0]), round(at[0] / 64 * ground.shape[1])
        assert not ground[row, column] and ground[2, 2] and ground[-3, -3]


def test_the_subject_looks_the_same_elsewhere_and_another_does_not():
    here, there = scene(), scene(at=(40, 26))
    assert alike(SubjectAppearance(), here, there) > 0.97
    assert alike(SubjectAppearance(), here, scene(subject=(40, 60, 220))) < 0.93
    assert alike(SubjectAppearance(), here, scene(shape="bar")) < alike(SubjectAppearance(), here, there) - 0.02


def test_the_surroundings_do_not_mind_the_subject():
    here = scene()
    assert alike(BackgroundAppearance(), here, scene(subject=(40, 60, 220))) > 0.985
    assert alike(BackgroundAppearance(), here, scene(sky=(30, 30, 90))) < 0.9


def test_blur_and_noise_are_seen_by_the_judge_of_imaging_in_their_order():
    rgb = picture(3, size=(240, 320))
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    blurred = [sharpness(cv2.GaussianBlur(grey, (0, 0), s)) for s in (0.5, 1, 2, 4)]
    assert blurred == sorted(blurred, reverse=True)
    rng = np.random.default_rng(0)
    rough = [noise(np.clip(grey + rng.normal(0, s, grey.shape), 0, 255).astype(np.uint8)) for s in (2, 8, 16)]
    assert rough == sorted(rough) and rough[1] == pytest.approx(8, rel=0.35)
    assert (
        ImagingScorer().score([Frame(0, rgb)])[0]
        > ImagingScorer().score([Frame(0, cv2.GaussianBlur(rgb, (0, 0), 4))])[0]
    )


@pytest.mark.parametrize("value", [0, 128, 255])
def test_judges_and_encoders_bear_empty_pictures(value):
    (frame,) = plain(value)
    for judge in (ImagingScorer(), AestheticScorer()):
        assert 0 <= judge.score([frame])[0] <= 1
    for encoder in (SubjectAppearance(), BackgroundAppearance()):
        assert np.isfinite(encoder.encode([frame])).all()


@pytest.mark.parametrize("size", [(16, 16), (17, 300), (300, 16)])
def test_small_and_narrow_pictures_are_measured_too(size):
    a, b = (Frame(n, np.random.default_rng(n).integers(0, 255, (*size, 3), dtype=np.uint8)) for n in range(2))
    flow = InverseSearchFlow()
    assert np.isfinite(flow.flow(a, b)).all()
    assert flow.interpolate(a, b).shape == a.rgb.shape
    assert (
        np.isfinite(SubjectAppearance().encode([a, b])).all() and np.isfinite(BackgroundAppearance().encode([a])).all()
    )
    assert 0 <= ImagingScorer().score([a])[0] <= 1 and 0 <= AestheticScorer().score([a])[0] <= 1
