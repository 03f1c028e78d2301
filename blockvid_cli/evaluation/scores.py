"""One film's scores: every frame is decoded once, seen by every measure, and let go.

frames -> tracks (a measure, the spans it scores) -> scores of the whole film or its clips   -> measures
                                                  -> scores of its segments                  -> drift errors
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from blockvid_cli.errors import BlockvidError, UsageError
from blockvid_cli.evaluation.adherence import adherence
from blockvid_cli.evaluation.clips import clip_to_clip, clips_of, fused, mapped
from blockvid_cli.video.reader import Frame, VideoInfo, decode_frames, scan_video
from blockvid_cli.evaluation.metrics.consistency import looks
from blockvid_cli.evaluation.metrics.metric import Gauge, Measure
from blockvid_cli.evaluation.spans import (
    Bounds,
    Protocol,
    Span,
    parse_segments,
    segments,
    segments_at,
    segments_of_seconds,
)
from blockvid_cli.evaluation.tiers import BackendConfig, Tier, make_tier
from blockvid_cli.evaluation.vde import Weights, vde
from blockvid_cli.storyboard.storyboard import Storyboard, read_storyboard

BATCH, BATCH_BYTES = 16, 48_000_000  # frames that a network sees at once, and what they may take
SMALLEST = 16  # pixels of a side
Tell = Callable[[float], None]


@dataclass(frozen=True)
class EvalConfig:
    """How films are scored.

    Args:
        asked: by whom.
        segments: ``10``, ``6s`` or ``storyboard``.
        stride, sample_fps: measure every n-th frame, or about so many a second.
        storyboard: whose captions the film is to follow.
    """

    backends: BackendConfig = field(default_factory=BackendConfig)
    protocol: Protocol = Protocol.WHOLE
    segments: str = "10"
    weights: Weights = Weights.LINEAR
    bounds: Bounds = Bounds.TRIM
    stride: int | None = None
    sample_fps: float | None = None
    storyboard: Path | None = None

    def as_values(self) -> dict[str, Any]:
        """As plain values."""
        values = asdict(self)
        backends = values.pop("backends")
        return json.loads(json.dumps(backends | values, default=str))


class MetricTrack:
    """A measure, and the spans that it scores, in order of their first frames; they may overlap."""

    def __init__(self, measure: Measure, footage: VideoInfo, spans: Sequence[Span]) -> None:
        self.measure, self.scores = measure, [None] * len(spans)
        self._footage, self._waiting = footage, list(enumerate(spans))[::-1]
        self._open: list[tuple[int, Span, Gauge]] = []

    def see(self, frame: Frame) -> None:
        """The film's next frame."""
        while self._waiting and self._waiting[-1][1].first <= frame.number:
            self._open.append((*self._waiting.pop(), self.measure.start(self._footage)))
        for number, span, gauge in self._open:
            gauge.see(frame)
            if frame.number == span.end - 1:
                self.scores[number] = gauge.score()
        self._open = [entry for entry in self._open if frame.number < entry[1].end - 1]


def score_film(path: Path, settings: EvalConfig, tell: Tell = lambda done: None) -> dict[str, Any]:
    """A film's measures, drift errors and adherence to its captions, as plain values; ``tell`` hears 0..1.

    Raises:
        UsageError: the file is no film, or a setting does not fit it.
        MissingModelError: a checkpoint of the tier is not here.
    """
    tier = make_tier(settings.backends, settings.protocol is Protocol.LONG)
    story = read_storyboard(settings.storyboard) if settings.storyboard else None
    footage = scan_video(path).subsample(settings.stride, settings.sample_fps)
    if min(footage.size) < SMALLEST:
        raise UsageError(f"{path}: {footage.size[0]}x{footage.size[1]} pixels are too few; {SMALLEST} a side at least.")
    spans = _segments(settings, footage, story)
    clips = [Span(*clip) for clip in clips_of(footage.frames, footage.fps)]
    whole = clips if settings.protocol is Protocol.LONG else [Span(0, footage.frames)]
    over_all = {name: MetricTrack(measure, footage, whole) for name, measure in tier.measures.items()}
    inside = {id(measure): MetricTrack(measure, footage, spans) for measure in tier.all}
    starts = Starts(tier, {clip.first for clip in clips} if settings.protocol is Protocol.LONG else set())
    follows = adherence(story, footage, tier.texts) if story else None
    seen, watching = 0, [*over_all.values(), *inside.values(), starts, *([follows] if follows else [])]
    for batch in _batches(decode_frames(footage), footage):
        for measure in tier.all:
            measure.prepare(batch)
        for frame in batch:
            for watcher in watching:
                watcher.see(frame)
        seen = batch[-1].number + 1
        tell(seen / footage.frames)
    if seen != footage.frames:
        raise BlockvidError(f"{path}: the file changed while it was measured; once more, please.")
    return {
        "film": str(path),
        "frames": footage.frames,
        "fps": round(footage.fps, 4),
        "seconds": round(footage.seconds, 4),
        "size": list(footage.size),
        "notes": list(footage.notes),
        "settings": settings.as_values() | {"stride": footage.stride, "number_of_segments": len(spans)},
        "measures": {
            track.measure.key: _measured(name, track, inside[id(track.measure)], starts)
            for name, track in over_all.items()
        },
        "vde": {
            profile: {
                name: _drift(inside[id(measure)], settings.weights) for name, measure in getattr(tier, profile).items()
            }
            for profile in ("reference", "paper")
        },
        "adherence": follows.result() if follows else None,
    }


class Starts:
    """What the clips of the long protocol begin with, as the subject's and the background's encoders see it."""

    def __init__(self, tier: Tier, first: set[int]) -> None:
        self._encoders, self._first = tier.between, first
        self._looks: dict[str, list[np.ndarray]] = {name: [] for name in tier.between}
        self._mapped = tier.mapped

    def see(self, frame: Frame) -> None:
        """The film's next frame."""
        if frame.number in self._first:
            for name, encoder in self._encoders.items():
                self._looks[name].append(looks(encoder, [frame])[0])

    def with_clips(self, name: str, within: float) -> dict[str, Any]:
        """A consistency over clips: inside them, between them, and as VBench-Long fuses both where its tables fit."""
        found = self._looks.get(name, [])
        if len(found) < 2:
            return {"value": within}
        between = clip_to_clip(np.stack(found))
        if name not in self._mapped:
            return {"value": within, "within_clips": within, "between_clips": between}
        both = fused(within, mapped(self._mapped[name], between))
        return {"value": both, "within_clips": within, "between_clips": between}


def _segments(settings: EvalConfig, footage: VideoInfo, story: Storyboard | None) -> list[Span]:
    number, seconds = parse_segments(settings.segments)
    if number:
        return segments(footage.frames, number, settings.bounds)
    if seconds:
        return segments_of_seconds(footage.frames, footage.fps, seconds, settings.bounds)
    if story is None:
        raise UsageError("--segments storyboard: which one? Name it with --storyboard story.yaml.")
    return segments_at(footage.frames, footage.fps, [0.0, *(float(chunk.end) for chunk in story.chunks)])


def _batches(film: Iterable[Frame], footage: VideoInfo) -> Iterator[list[Frame]]:
    width, height = footage.size
    size = max(1, min(BATCH, BATCH_BYTES // (3 * width * height)))
    film = iter(film)
    while batch := list(islice(film, size)):
        yield batch


def _measured(name: str, track: MetricTrack, inside: MetricTrack, starts: Starts) -> dict[str, Any]:
    """A measure's value, or why it has none, and its scores of the segments."""
    measure, scored = track.measure, [value for value in track.scores if value is not None]
    value = starts.with_clips(name, sum(scored) / len(scored)) if scored else {"value": None}
    return {
        **value,
        "reason": None if scored else "too_few_frames",
        "higher": measure.higher,
        "backend": measure.backend.name if measure.backend else "arithmetic",
        "segments": inside.scores,
    }


def _drift(track: MetricTrack, weights: Weights) -> dict[str, Any]:
    return {**asdict(vde(track.scores, weights)), "measure": track.measure.key, "segments": track.scores}
