"""One film's scores: every frame is decoded once, given to every metric, and dropped.

frames -> tracks (a metric, the spans it scores) -> scores of the whole film or its clips   -> metrics
                                                 -> scores of its segments                  -> drift errors
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any
from typing import Protocol as TypingProtocol

import numpy as np

from blockvid_cli.errors import BlockvidError, UsageError
from blockvid_cli.evaluation.adherence import make_adherence
from blockvid_cli.evaluation.metrics.vbench import Accumulator, Metric, unit_embeddings
from blockvid_cli.evaluation.segments import (
    Bounds,
    Protocol,
    Span,
    Weights,
    clip_spans,
    clip_to_clip,
    drift_error,
    fuse_clip_scores,
    map_clip_score,
    parse_segments,
    segments,
    segments_at,
    segments_of_seconds,
)
from blockvid_cli.evaluation.tiers import BackendConfig, Tier, make_tier
from blockvid_cli.project.project import project_folder, read_manifest
from blockvid_cli.storyboard.storyboard import Storyboard, read_storyboard
from blockvid_cli.video.ffmpeg import exact_rate
from blockvid_cli.video.metadata import read_metadata
from blockvid_cli.video.reader import Frame, VideoInfo, decode_frames, scan_video
from blockvid_cli.video.spec import Timeline, card_frames, read_timeline

BATCH, BATCH_BYTES = 16, 48_000_000  # frames that a network gets at once, and how large they may be
MIN_SIDE = 16  # pixels
Progress = Callable[[float], None]  # gets the share that is done, 0..1


@dataclass(frozen=True)
class EvalConfig:
    """How films are scored.

    Args:
        backends: which backends answer.
        segments: ``10``, ``6s`` or ``storyboard``.
        stride, sample_fps: use every n-th frame, or about this many per second.
        storyboard: whose captions the film should follow.
        title_seconds, end_seconds: how long the film's cards are, which are not scored; None: as the film, its project
            or the storyboard says.
    """

    backends: BackendConfig = field(default_factory=BackendConfig)
    protocol: Protocol = Protocol.WHOLE
    segments: str = "10"
    weights: Weights = Weights.LINEAR
    bounds: Bounds = Bounds.TRIM
    stride: int | None = None
    sample_fps: float | None = None
    storyboard: Path | None = None
    title_seconds: float | None = None
    end_seconds: float | None = None

    def as_values(self) -> dict[str, Any]:
        """Returns the settings as plain values in one mapping."""
        values = asdict(self)
        backends = values.pop("backends")
        return json.loads(json.dumps(backends | values, default=str))


class FrameListener(TypingProtocol):
    """Takes every frame of a film."""

    def update(self, frame: Frame) -> None:
        """Takes the film's next frame."""


class MetricTrack:
    """A metric, and the spans that it scores, in order of their first frames; they may overlap."""

    def __init__(self, metric: Metric, video: VideoInfo, spans: Sequence[Span]) -> None:
        self.metric = metric
        self.scores: list[float | None] = [None] * len(spans)
        self._video, self._waiting = video, list(enumerate(spans))[::-1]
        self._open: list[tuple[int, Span, Accumulator]] = []

    def update(self, frame: Frame) -> None:
        """Takes the film's next frame."""
        while self._waiting and self._waiting[-1][1].first <= frame.number:
            self._open.append((*self._waiting.pop(), self.metric.start(self._video)))
        for number, span, accumulator in self._open:
            accumulator.update(frame)
            if frame.number == span.end - 1:
                self.scores[number] = accumulator.score()
        self._open = [entry for entry in self._open if frame.number < entry[1].end - 1]


class ClipStarts:
    """Embeds the first frame of each clip of the long protocol, for the subject's and the background's consistency."""

    def __init__(self, tier: Tier, first_frames: set[int]) -> None:
        self._encoders, self._first_frames = tier.between, first_frames
        self._embeddings: dict[str, list[np.ndarray]] = {name: [] for name in tier.between}
        self._mapped = tier.mapped

    def update(self, frame: Frame) -> None:
        """Takes the film's next frame."""
        if frame.number in self._first_frames:
            for name, encoder in self._encoders.items():
                self._embeddings[name].append(unit_embeddings(encoder, [frame])[0])

    def fuse(self, name: str, within: float) -> dict[str, Any]:
        """A consistency over clips: inside them, between them, and both fused where VBench-Long has a table."""
        embeddings = self._embeddings.get(name, [])
        if len(embeddings) < 2:
            return {"value": within}
        between = clip_to_clip(np.stack(embeddings))
        if between is None or name not in self._mapped:
            return {"value": within, "within_clips": within, "between_clips": between}
        fused = fuse_clip_scores(within, map_clip_score(self._mapped[name], between))
        return {"value": fused, "within_clips": within, "between_clips": between}


def score_film(path: Path, config: EvalConfig, progress: Progress = lambda done: None) -> dict[str, Any]:
    """Returns a film's metrics, drift errors and adherence to its captions, as plain values; its cards do not count.

    Raises:
        UsageError: the file is no film, or a setting does not fit it.
        MissingModelError: a checkpoint of the tier is not on this machine.
    """
    long = config.protocol is Protocol.LONG
    tier = make_tier(config.backends, long)
    story = read_storyboard(config.storyboard) if config.storyboard else None
    film = scan_video(path)
    timeline = film_timeline(film, config, story)
    video = film.part(timeline.story.first_frame, timeline.story.end_frame)
    video = video.subsample(config.stride, config.sample_fps)
    if min(video.size) < MIN_SIDE:
        raise UsageError(f"{path}: {video.size[0]}x{video.size[1]} pixels are too few; {MIN_SIDE} a side at least.")
    chunks = segments_at(video.frames, video.fps, _chunk_borders(timeline, story))
    spans, clips = _segments(config, video, chunks), clip_spans(video.frames, video.fps)
    film_spans = clips if long else [Span(0, video.frames)]
    film_tracks = {name: MetricTrack(metric, video, film_spans) for name, metric in tier.metrics.items()}
    segment_tracks = {id(metric): MetricTrack(metric, video, spans) for metric in tier.all}
    starts = ClipStarts(tier, {clip.first for clip in clips} if long else set())
    adherence = make_adherence(story, chunks, video, tier.texts) if story else None
    listeners: list[FrameListener] = [
        *film_tracks.values(),
        *segment_tracks.values(),
        starts,
        *([adherence] if adherence else []),
    ]
    _run(path, video, tier, listeners, progress)
    return {
        "film": str(path),
        "frames": video.frames,
        "fps": round(video.fps, 4),
        "seconds": round(video.seconds, 4),
        "size": list(video.size),
        "notes": [*video.notes, *_card_notes(timeline)],
        "settings": config.as_values() | {"stride": video.stride, "number_of_segments": len(spans)},
        "metrics": {
            track.metric.key: _metric_values(name, track, segment_tracks[id(track.metric)], starts)
            for name, track in film_tracks.items()
        },
        "vde": {
            profile: {name: _drift_values(segment_tracks[id(metric)], config.weights) for name, metric in used.items()}
            for profile, used in (("reference", tier.reference), ("paper", tier.paper))
        },
        "adherence": adherence.result() if adherence else None,
    }


def _run(path: Path, video: VideoInfo, tier: Tier, listeners: Sequence[FrameListener], progress: Progress) -> None:
    """Decodes the film once, and gives every frame to every listener."""
    count = 0
    for batch in _batches(decode_frames(video), video):
        for metric in tier.all:
            metric.prepare(batch)
        for frame in batch:
            for listener in listeners:
                listener.update(frame)
        count = batch[-1].number + 1
        progress(count / video.frames)
    if count != video.frames:
        raise BlockvidError(f"{path}: the file changed while it was measured; once more, please.")


def film_timeline(film: VideoInfo, config: EvalConfig, story: Storyboard | None) -> Timeline:
    """When the cards and chunks of a film are on screen.

    It is what the options say, else what was written into the film or its project, if that has as many frames; else
    the film has the cards of its storyboard if its length is nearer to that of chunks and cards than of chunks alone.

    Raises:
        UsageError: the cards of the options are longer than the film.
    """
    rate = exact_rate(film.fps)
    if config.title_seconds is not None or config.end_seconds is not None:
        title, end = (round((seconds or 0.0) * rate) for seconds in (config.title_seconds, config.end_seconds))
        if title + end >= film.frames:
            options = {"--title-seconds": config.title_seconds, "--end-seconds": config.end_seconds}
            named = " ".join(f"{name} {seconds:g}" for name, seconds in options.items() if seconds is not None)
            raise UsageError(f"{film.path}: the film lasts {film.seconds:g} s, so {named} leaves nothing to score.")
        return Timeline(rate, (film.frames - title - end,), title, end)
    metadata, manifest = read_metadata(film.path) or {}, read_manifest(project_folder(film.path))
    for values in (metadata.get("timeline"), manifest.timeline):
        timeline = read_timeline(values, rate)
        if timeline and timeline.frames == film.frames:
            return timeline
    title, end = (card_frames(card, rate) for card in ((story.title_card, story.end_card) if story else (None, None)))
    without_cards = round(story.seconds * rate) if story else 0
    if 2 * (film.frames - without_cards) > title + end and title + end < film.frames:
        return Timeline(rate, (film.frames - title - end,), title, end)
    return Timeline(rate, (film.frames,))


def _chunk_borders(timeline: Timeline, story: Storyboard | None) -> list[float]:
    """Seconds between which the chunks are on screen, from the first chunk on: the film's own, else its storyboard's.

    A storyboard does not know how borders were rounded to blocks.
    """
    if story is None or len(timeline.chunks) == len(story.chunks):
        return [part.start - timeline.story.start for part in timeline.chunks] + [timeline.story.seconds]
    return [0.0, *(float(chunk.end) for chunk in story.chunks)]


def _card_notes(timeline: Timeline) -> list[str]:
    """A sentence about the cards that are not scored."""
    names = {"title": "title card", "end": "end card"}
    cards = [f"{names[part.kind]} ({part.seconds:g} s)" for part in timeline.sections if part.kind in names]
    return [f"{' and '.join(cards)} {'is' if len(cards) == 1 else 'are'} not scored"] if cards else []


def _segments(config: EvalConfig, video: VideoInfo, chunks: list[Span]) -> list[Span]:
    number, seconds = parse_segments(config.segments)
    if number:
        return segments(video.frames, number, config.bounds)
    if seconds:
        return segments_of_seconds(video.frames, video.fps, seconds, config.bounds)
    if len(chunks) == 1 and config.storyboard is None:
        raise UsageError("--segments storyboard: which one? Name it with --storyboard story.yaml.")
    return chunks


def _batches(frames: Iterable[Frame], video: VideoInfo) -> Iterator[list[Frame]]:
    width, height = video.size
    size = max(1, min(BATCH, BATCH_BYTES // (3 * width * height)))
    frames = iter(frames)
    while batch := list(islice(frames, size)):
        yield batch


def _metric_values(name: str, track: MetricTrack, segment_track: MetricTrack, starts: ClipStarts) -> dict[str, Any]:
    """A metric's value, or the reason why it has none, and its scores of the segments."""
    metric, scores = track.metric, [score for score in track.scores if score is not None]
    value = starts.fuse(name, sum(scores) / len(scores)) if scores else {"value": None}
    return {
        **value,
        "reason": None if scores else "too_few_frames",
        "higher": metric.higher,
        "backend": metric.backend.name if metric.backend else "arithmetic",
        "segments": segment_track.scores,
    }


def _drift_values(track: MetricTrack, weights: Weights) -> dict[str, Any]:
    return {**asdict(drift_error(track.scores, weights)), "metric": track.metric.key, "segments": track.scores}
