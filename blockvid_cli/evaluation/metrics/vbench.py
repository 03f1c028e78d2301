"""VBench's dimensions (Huang et al. 2024): rules that turn the frames of a span into one number, reading each once.

    subject_consistency      c_t = (max(0, cos(f_t, f_{t-1})) + max(0, cos(f_t, f_0))) / 2, mean over t = 1..T-1
    background_consistency   the same with the background's encoder
    temporal_flickering      mean of (255 - mean |f_t - f_{t-1}|) / 255
    motion_smoothness        mean of (255 - mean |between(f_{t-1}, f_{t+1}) - f_t|) / 255, t = 1, 3, 5, ...
    dynamic_degree           1 if the span moves: at 8 frames per second, at least round(4 n / 16) of n frames' pairs
                             have a flow whose strongest 5 % exceed 6 pixels at a short side of 256; else 0
    imaging_quality          mean over frames of a scorer
    aesthetic_quality        the same with another scorer

t counts from the span's first frame. VBench's own backends are DINO ViT-B/16 (subject), CLIP ViT-B/32 (background),
AMT-S (motion smoothness), RAFT (dynamic degree), MUSIQ trained on SPAQ (imaging) and LAION's head on CLIP ViT-L/14
(aesthetic).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import cv2
import numpy as np

from blockvid_cli.evaluation.backends import (
    Backend,
    FrameInterpolator,
    ImageEncoder,
    ImageScorer,
    OpticalFlow,
)
from blockvid_cli.video.reader import Frame, VideoInfo

DYNAMIC_FPS = 8  # frames per second that are compared
STRONGEST = 0.05
MIN_MOTION = 6 / 256  # of the short side


class Accumulator(Protocol):
    """The running score of one span."""

    def update(self, frame: Frame) -> None:
        """Takes the span's next frame."""

    def score(self) -> float | None:
        """Returns the span's score; None where it has too few frames for one."""


def no_preparation(frames: Sequence[Frame]) -> None:
    """What most metrics do with a batch before their accumulators get it."""


@dataclass(frozen=True)
class Metric:
    """A rule, and the backend that answers its questions about frames.

    Args:
        name: without the backend's suffix.
        start: makes a new accumulator for a span of a film.
        higher: whether more is better.
        backend: None for plain arithmetic.
        prepare: gets frames in batches before the accumulators do, for networks that work on batches.
    """

    name: str
    start: Callable[[VideoInfo], Accumulator]
    higher: bool = True
    backend: Backend | None = None
    prepare: Callable[[Sequence[Frame]], object] = no_preparation

    @property
    def key(self) -> str:
        """The name of its scores."""
        return self.name + (self.backend.suffix if self.backend else "")


class Mean:
    """The mean of a value over a span's frames."""

    def __init__(self, value: Callable[[Frame], float]) -> None:
        self._value, self._sum, self._count = value, 0.0, 0

    def update(self, frame: Frame) -> None:
        self._sum, self._count = self._sum + self._value(frame), self._count + 1

    def score(self) -> float | None:
        return self._sum / self._count if self._count else None


class MeanOfPairs:
    """The mean of a value over a span's neighbouring frames."""

    def __init__(self, value: Callable[[Frame, Frame], float]) -> None:
        self._value, self._sum, self._count = value, 0.0, 0
        self._previous: Frame | None = None

    def update(self, frame: Frame) -> None:
        if self._previous is not None:
            self._sum, self._count = self._sum + self._value(self._previous, frame), self._count + 1
        self._previous = frame

    def score(self) -> float | None:
        return self._sum / self._count if self._count else None


# ---- consistency -----------------------------------------------------------------------------------------


def subject_consistency(encoder: ImageEncoder) -> Metric:
    """Whether the subject looks the same throughout a span."""
    return _consistency("subject_consistency", encoder)


def background_consistency(encoder: ImageEncoder) -> Metric:
    """Whether the background looks the same throughout a span."""
    return _consistency("background_consistency", encoder)


def _consistency(name: str, encoder: ImageEncoder) -> Metric:
    return Metric(name, lambda _: Consistency(encoder), backend=encoder, prepare=partial(unit_embeddings, encoder))


class Consistency:
    """The mean similarity of each frame to the one before and to the first; holds two embeddings."""

    def __init__(self, encoder: ImageEncoder) -> None:
        self._encoder = encoder
        self._first: np.ndarray | None = None
        self._previous = np.empty(0)
        self._sum, self._count = 0.0, 0

    def update(self, frame: Frame) -> None:
        embedding = unit_embeddings(self._encoder, [frame])[0]
        if self._first is None:
            self._first = embedding
        else:
            near, far = float(embedding @ self._previous), float(embedding @ self._first)
            self._sum, self._count = self._sum + (max(0.0, near) + max(0.0, far)) / 2, self._count + 1
        self._previous = embedding

    def score(self) -> float | None:
        return self._sum / self._count if self._count else None


def unit_embeddings(encoder: ImageEncoder, frames: Sequence[Frame]) -> np.ndarray:
    """Embeddings (N, D) of length 1; computed once per frame."""
    missing = [frame for frame in frames if encoder not in frame.cache]
    if missing:
        embeddings = encoder.encode(missing)
        lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
        for frame, embedding in zip(missing, embeddings / np.where(lengths > 0, lengths, 1), strict=True):
            frame.cache[encoder] = embedding
    return np.stack([frame.cache[encoder] for frame in frames])


# ---- motion ----------------------------------------------------------------------------------------------


def temporal_flickering() -> Metric:
    """The similarity of neighbouring frames, pixel by pixel; needs no backend."""
    return Metric("temporal_flickering", lambda _: MeanOfPairs(_neighbour_similarity))


def _neighbour_similarity(a: Frame, b: Frame) -> float:
    return b.cached(("similarity", a.number), lambda: pixel_similarity(a.rgb, b.rgb))


def pixel_similarity(a: np.ndarray, b: np.ndarray) -> float:
    """(255 - mean |a - b|) / 255 of images (H, W, 3) uint8."""
    return 1 - float(cv2.norm(a, b, cv2.NORM_L1)) / a.size / 255


def motion_smoothness(interpolator: FrameInterpolator) -> Metric:
    """How well a span's odd frames can be predicted from its even ones."""
    return Metric("motion_smoothness", lambda _: Smoothness(interpolator), backend=interpolator)


class Smoothness:
    """Compares every other frame with the interpolation of its neighbours; holds two frames."""

    def __init__(self, interpolator: FrameInterpolator) -> None:
        self._interpolator = interpolator
        self._left: Frame | None = None
        self._middle: Frame | None = None
        self._sum, self._count = 0.0, 0

    def update(self, frame: Frame) -> None:
        if self._left is None:
            self._left = frame
        elif self._middle is None:
            self._middle = frame
        else:
            self._sum, self._count = self._sum + self._similarity(self._left, self._middle, frame), self._count + 1
            self._left, self._middle = frame, None

    def _similarity(self, left: Frame, middle: Frame, right: Frame) -> float:
        return middle.cached(
            (self._interpolator, left.number, right.number),
            lambda: pixel_similarity(self._interpolator.interpolate(left, right), middle.rgb),
        )

    def score(self) -> float | None:
        return self._sum / self._count if self._count else None


def dynamic_degree(flow: OpticalFlow) -> Metric:
    """Whether enough of a span moves far enough."""
    return Metric(
        "dynamic_degree", lambda video: DynamicDegree(flow, max(1, round(video.fps / DYNAMIC_FPS))), backend=flow
    )


class DynamicDegree:
    """Counts the pairs of frames, ``interval`` apart, that move far; holds one frame."""

    def __init__(self, flow: OpticalFlow, interval: int) -> None:
        self._flow, self._interval = flow, interval
        self._previous: Frame | None = None
        self._frames = self._compared = self._moving = 0

    def update(self, frame: Frame) -> None:
        self._frames += 1
        if (self._frames - 1) % self._interval:
            return
        self._compared += 1
        if self._previous is not None:
            self._moving += strongest(speed(self._flow, self._previous, frame)) > MIN_MOTION
        self._previous = frame

    def score(self) -> float | None:
        if self._compared < 2:
            return None
        return float(self._moving >= round(4 * self._compared / 16))


def speed(flow: OpticalFlow, a: Frame, b: Frame) -> np.ndarray:
    """How far each point moved from a to b, (h, w), as a share of the frame's short side."""

    def compute() -> np.ndarray:
        field = flow.flow(a, b)
        return np.hypot(field[..., 0], field[..., 1]) / min(field.shape[:2])

    return b.cached((flow, a.number), compute)


def strongest(speeds: np.ndarray) -> float:
    """The mean of the strongest 5 %."""
    number = max(1, int(speeds.size * STRONGEST))
    return float(np.partition(speeds.ravel(), -number)[-number:].mean())


# ---- quality of single frames ----------------------------------------------------------------------------


def imaging_quality(scorer: ImageScorer) -> Metric:
    """How well the frames are exposed and focused: sharp, clean, well lit."""
    return _quality("imaging_quality", scorer)


def aesthetic_quality(scorer: ImageScorer) -> Metric:
    """How pleasing the frames are."""
    return _quality("aesthetic_quality", scorer)


def _quality(name: str, scorer: ImageScorer) -> Metric:
    return Metric(
        name,
        lambda _: Mean(lambda frame: frame_scores(scorer, [frame])[0]),
        backend=scorer,
        prepare=partial(frame_scores, scorer),
    )


def frame_scores(scorer: ImageScorer, frames: Sequence[Frame]) -> list[float]:
    """The score of each frame; computed once."""
    missing = [frame for frame in frames if scorer not in frame.cache]
    if missing:
        for frame, score in zip(missing, scorer.score(missing), strict=True):
            frame.cache[scorer] = float(score)
    return [frame.cache[scorer] for frame in frames]
