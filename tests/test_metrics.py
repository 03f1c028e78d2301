"""Measures: the rules by hand, with backends of a line; the builtin backends by what they must and must not see."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from blockvid_cli.evaluation.backends.flow import Dis
from blockvid_cli.evaluation.backends.judges import Aesthetic, Imaging, noise, sharpness
from blockvid_cli.evaluation.backends.looks import Subject, Surroundings, background_of
from blockvid_cli.evaluation.metrics import paper_metrics as printed
from blockvid_cli.evaluation.metrics.consistency import looks, subject_consistency
from blockvid_cli.evaluation.metrics.dynamic import dynamic_degree
from blockvid_cli.evaluation.metrics.flickering import temporal_flickering
from blockvid_cli.evaluation.metrics.judged import imaging_quality
from blockvid_cli.evaluation.metrics.smoothness import motion_smoothness
from blockvid_cli.evaluation.scores import MetricTrack
from blockvid_cli.evaluation.spans import Span
from blockvid_cli.video.reader import Frame, VideoInfo

FILM = VideoInfo(Path("film.mp4"), frames=12, fps=16.0, seconds=0.75, size=(64, 48))


def plain(*values: int) -> list[Frame]:
    """Frames of one grey each."""
    return [Frame(number, np.full((48, 64, 3), value, np.uint8)) for number, value in enumerate(values)]


def gauged(measure, frames, footage=FILM):
    gauge = measure.start(footage)
    for frame in frames:
        gauge.see(frame)
    return gauge.score()


class Told:
    """Answers every question from a list, by the frame's number."""

    name, suffix = "told", ""

    def __init__(self, answers):
        self.answers, self.asked = answers, 0

    def encode(self, frames):
        self.asked += len(frames)
        return np.array([self.answers[frame.number] for frame in frames], np.float32)

    judge = encode

    def between(self, left, right):
        return np.full_like(left.rgb, self.answers[left.number + 1])

    def flow(self, a, b):
        return np.full((64, 96, 2), (self.answers[b.number], 0), np.float32)


# The rules


def test_flickering_by_hand():
    assert gauged(temporal_flickering(), plain(0, 51, 51)) == pytest.approx((0.8 + 1) / 2)


def test_consistency_by_hand():
    told = Told([(1, 0), (0, 3), (1, 1), (-1, 0)])
    # t = 1: before 0, first 0; t = 2: √½ and √½; t = 3: both negative, so 0
    assert gauged(subject_consistency(told), plain(0, 0, 0, 0)) == pytest.approx((0 + 0.5**0.5 + 0) / 3)


def test_an_encoder_is_asked_once_a_frame():
    told, frames = Told([(1, 0)] * 4), plain(0, 0, 0, 0)
    measure = subject_consistency(told)
    measure.prepare(frames)
    gauged(measure, frames)
    gauged(measure, frames[1:])
    assert told.asked == 4


def test_a_look_at_nothing_is_like_nothing():
    assert not looks(Told([(0, 0)]), plain(0)).any()


def test_smoothness_looks_at_every_other_frame():
    told = Told([None, 10, None, 20, None])
    # f_1 = 61 where 10 was told, f_3 = 20 as told; f_2 and f_4 are not foretold
    assert gauged(motion_smoothness(told), plain(0, 61, 99, 20, 7)) == pytest.approx((0.8 + 1) / 2)


@pytest.mark.parametrize(("far", "dynamic"), [(4, 1.0), (3, 1.0), (2, 0.0), (0, 0.0)])
def test_dynamic_means_a_quarter_of_the_frames(far, dynamic):
    # 12 frames at 8 a second are all compared; round(4 * 12 / 16) = 3 pairs must be far: 6 px at 256, 1.5 at 64
    answers = [0.0] + [1.6] * far + [1.4] * (11 - far)
    footage = VideoInfo(Path("film.mp4"), frames=12, fps=8.0, seconds=1.5, size=(96, 64))
    assert gauged(dynamic_degree(Told(answers)), plain(*[0] * 12), footage) == dynamic


def test_dynamic_compares_eight_frames_a_second():
    told = Told([9.0] * 12)
    seen = []
    told.flow = lambda a, b: seen.append((a.number, b.number)) or np.zeros((64, 96, 2), np.float32)
    gauged(dynamic_degree(told), plain(*[0] * 12), VideoInfo(Path("f"), 12, 24.0, 0.5, (96, 64)))
    assert seen == [(0, 3), (3, 6), (6, 9)]


def test_a_judge_is_asked_once_a_frame_and_the_mean_counts():
    told, frames = Told([0.2, 0.4, 0.9]), plain(0, 0, 0)
    assert gauged(imaging_quality(told), frames) == pytest.approx(0.5)
    assert gauged(imaging_quality(told), frames[1:]) == pytest.approx(0.65)
    assert told.asked == 3


@pytest.mark.parametrize(
    ("measure", "frames"),
    [
        (temporal_flickering(), 1),
        (subject_consistency(Told([(1, 0)] * 3)), 1),
        (motion_smoothness(Told([0] * 3)), 2),
        (dynamic_degree(Told([0] * 3)), 1),
        (imaging_quality(Told([0] * 3)), 0),
        (printed.clarity(), 0),
        (printed.identity(Told([(1, 0)] * 3)), 0),
    ],
)
def test_too_few_frames_are_no_score(measure, frames):
    assert gauged(measure, plain(*[0] * frames)) is None


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
    assert printed.laplacian_variance(Frame(0, rgb)) == pytest.approx(laplacian.var(), rel=1e-5)


def test_motion_energy_does_not_depend_on_size_or_rate():
    # 2 px of 64 a frame at 16 a second are 8 of 256 a sixteenth of a second; so is half as far at 32 a second
    slow = gauged(printed.energy(Told([2.0] * 3)), plain(0, 0, 0))
    fast = gauged(printed.energy(Told([1.0] * 3)), plain(0, 0, 0), VideoInfo(Path("f"), 3, 32.0, 0.1, (96, 64)))
    assert slow == pytest.approx(8) and fast == pytest.approx(8)


def test_staticness_is_the_share_of_the_background_in_place():
    field = np.zeros((64, 96, 2), np.float32)
    field[:16, :, 0] = 1.0  # a quarter of the rows moves by 4 px of 256
    told = Told([0, 0])
    told.flow = lambda a, b: field
    everywhere = gauged(printed.staticness(told, lambda frame: np.ones((12, 16), bool)), plain(0, 0))
    below = gauged(printed.staticness(told, lambda frame: np.arange(12)[:, None] * np.ones(16) >= 6), plain(0, 0))
    assert (everywhere, below) == (pytest.approx(0.75), 1.0)


def test_likeness_is_the_cosine_with_the_first_segment():
    looks_ = [(1, 0), (0, 1), (1, 0), (1, 0), (-1, -1), (-1, -1)]
    track = MetricTrack(printed.identity(Told(looks_)), FILM, [Span(0, 2), Span(2, 4), Span(4, 6)])
    for frame in plain(*[0] * 6):
        track.see(frame)
    # the first segment's mean is (½, ½): its own frames have a cosine of √½ with it
    assert track.scores == pytest.approx([0.5**0.5, 0.5**0.5, -1])


# Spans


def test_a_track_scores_each_span_as_if_it_stood_alone():
    rng = np.random.default_rng(1)
    frames = [Frame(n, rng.integers(0, 255, (48, 64, 3), dtype=np.uint8)) for n in range(12)]
    spans = [Span(0, 5), Span(3, 12), Span(5, 10), Span(11, 12)]  # they may overlap, and begin at odd frames
    flow = Dis()
    for measure in (
        temporal_flickering(),
        motion_smoothness(flow),
        subject_consistency(Subject()),
        dynamic_degree(flow),
    ):
        track = MetricTrack(measure, FILM, spans)
        for frame in frames:
            track.see(frame)
        alone = [gauged(measure, [Frame(f.number, f.rgb) for f in frames[s.first : s.end]]) for s in spans]
        assert track.scores == alone, measure.name


# The builtin backends


def moved(rgb: np.ndarray, right: float) -> np.ndarray:
    return cv2.warpAffine(rgb, np.float32([[1, 0, right], [0, 1, 0]]), rgb.shape[1::-1], borderMode=cv2.BORDER_REFLECT)


def test_the_frame_between_is_foretold_where_things_move_evenly():
    rgb = picture(size=(240, 320))
    left, middle, right = (Frame(n, moved(rgb, 6 * n)) for n in range(3))
    inside = np.s_[:, 20:-20]
    foretold = cv2.absdiff(Dis().between(left, right), middle.rgb)[inside].mean()
    blended = cv2.absdiff(cv2.addWeighted(left.rgb, 0.5, right.rgb, 0.5, 0), middle.rgb)[inside].mean()
    assert foretold < 0.15 * blended


def test_flow_is_told_in_shares_of_the_short_side():
    for side in (240, 480, 720):
        rgb = picture(size=(side, side * 4 // 3))
        far = side // 40
        field = Dis().flow(Frame(0, rgb), Frame(1, moved(rgb, far)))
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
    one, other = looks(encoder, [Frame(0, a), Frame(1, b)])
    return float(one @ other)


def test_the_subject_is_found_wherever_it_is():
    for at in ((32, 24), (20, 20), (45, 28)):
        ground = background_of(Frame(0, scene(at=at)))
        row, column = round(at[1] / 48 * ground.shape[0]), round(at[0] / 64 * ground.shape[1])
        assert not ground[row, column] and ground[2, 2] and ground[-3, -3]


def test_the_subject_looks_the_same_elsewhere_and_another_does_not():
    here, there = scene(), scene(at=(40, 26))
    assert alike(Subject(), here, there) > 0.97
    assert alike(Subject(), here, scene(subject=(40, 60, 220))) < 0.93
    assert alike(Subject(), here, scene(shape="bar")) < alike(Subject(), here, there) - 0.02


def test_the_surroundings_do_not_mind_the_subject():
    here = scene()
    assert alike(Surroundings(), here, scene(subject=(40, 60, 220))) > 0.985
    assert alike(Surroundings(), here, scene(sky=(30, 30, 90))) < 0.9


def test_blur_and_noise_are_seen_by_the_judge_of_imaging_in_their_order():
    rgb = picture(3, size=(240, 320))
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    blurred = [sharpness(cv2.GaussianBlur(grey, (0, 0), s)) for s in (0.5, 1, 2, 4)]
    assert blurred == sorted(blurred, reverse=True)
    rng = np.random.default_rng(0)
    rough = [noise(np.clip(grey + rng.normal(0, s, grey.shape), 0, 255).astype(np.uint8)) for s in (2, 8, 16)]
    assert rough == sorted(rough) and rough[1] == pytest.approx(8, rel=0.35)
    assert Imaging().judge([Frame(0, rgb)])[0] > Imaging().judge([Frame(0, cv2.GaussianBlur(rgb, (0, 0), 4))])[0]


@pytest.mark.parametrize("value", [0, 128, 255])
def test_judges_and_encoders_bear_empty_pictures(value):
    (frame,) = plain(value)
    for judge in (Imaging(), Aesthetic()):
        assert 0 <= judge.judge([frame])[0] <= 1
    for encoder in (Subject(), Surroundings()):
        assert np.isfinite(encoder.encode([frame])).all()


@pytest.mark.parametrize("size", [(16, 16), (17, 300), (300, 16)])
def test_small_and_narrow_pictures_are_measured_too(size):
    a, b = (Frame(n, np.random.default_rng(n).integers(0, 255, (*size, 3), dtype=np.uint8)) for n in range(2))
    flow = Dis()
    assert np.isfinite(flow.flow(a, b)).all()
    assert flow.between(a, b).shape == a.rgb.shape
    assert np.isfinite(Subject().encode([a, b])).all() and np.isfinite(Surroundings().encode([a])).all()
    assert 0 <= Imaging().judge([a])[0] <= 1 and 0 <= Aesthetic().judge([a])[0] <= 1
