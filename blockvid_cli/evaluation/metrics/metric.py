"""What a measure is: a rule that turns the frames of a span into one number, seeing each frame once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from blockvid_cli.evaluation.backends.protocol import Backend
from blockvid_cli.video.reader import Frame, VideoInfo


class Gauge(Protocol):
    """The running score of one span."""

    def see(self, frame: Frame) -> None:
        """The span's next frame."""

    def score(self) -> float | None:
        """The span's score; None where it has too few frames for one."""


def nothing_first(frames: Sequence[Frame]) -> None:
    """What most measures do with a batch before their gauges see it."""


@dataclass(frozen=True)
class Measure:
    """A rule, and who answers the questions it asks of frames.

    Args:
        name: without what the backend adds to it.
        start: a new gauge for a span of a film.
        higher: whether more is better.
        backend: who answers; None for plain arithmetic.
        prepare: sees frames in batches before the gauges do, for networks that like batches.
    """

    name: str
    start: Callable[[VideoInfo], Gauge]
    higher: bool = True
    backend: Backend | None = None
    prepare: Callable[[Sequence[Frame]], None] = nothing_first

    @property
    def key(self) -> str:
        """The name of its scores."""
        return self.name + (self.backend.suffix if self.backend else "")


class Mean:
    """The mean of something over a span's frames."""

    def __init__(self, value: Callable[[Frame], float]) -> None:
        self._value, self._sum, self._count = value, 0.0, 0

    def see(self, frame: Frame) -> None:
        self._sum, self._count = self._sum + self._value(frame), self._count + 1

    def score(self) -> float | None:
        return self._sum / self._count if self._count else None


class MeanOfPairs:
    """The mean of something over a span's neighbouring frames."""

    def __init__(self, value: Callable[[Frame, Frame], float]) -> None:
        self._value, self._sum, self._count = value, 0.0, 0
        self._before: Frame | None = None

    def see(self, frame: Frame) -> None:
        if self._before is not None:
            self._sum, self._count = self._sum + self._value(self._before, frame), self._count + 1
        self._before = frame

    def score(self) -> float | None:
        return self._sum / self._count if self._count else None
