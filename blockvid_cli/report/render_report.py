"""Makes the report of a render: from its events, from what the project holds, and from how the film drifts.

events -> RenderLog -> Report -> story.report.html
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from blockvid_cli import __version__
from blockvid_cli.evaluation.backends.builtin import (
    AestheticScorer,
    BackgroundAppearance,
    ImagingScorer,
    InverseSearchFlow,
    SubjectAppearance,
    SubjectColours,
)
from blockvid_cli.evaluation.bench.speed import peak_memory
from blockvid_cli.evaluation.metrics.paper_metrics import motion_energy, subject_likeness
from blockvid_cli.evaluation.metrics.vbench import Metric, aesthetic_quality, imaging_quality
from blockvid_cli.evaluation.scores import MIN_SIDE, MetricTrack
from blockvid_cli.evaluation.segments import Bounds, Span, drift_error, largest_change, segments, segments_at
from blockvid_cli.job import RenderJob
from blockvid_cli.models.hub import fingerprint
from blockvid_cli.project.project import project_folder, takes_on_disk
from blockvid_cli.report.contents import (
    WITHOUT_METADATA,
    Curve,
    RenderedChunk,
    RenderSettings,
    Report,
    RetrievedChunk,
)
from blockvid_cli.report.report import write_report
from blockvid_cli.rollout.kv_cache.semantic import SemanticCache, retrieved_chunks
from blockvid_cli.session import Event, EventListener
from blockvid_cli.storyboard.plan import Plan, PlannedChunk
from blockvid_cli.timing import PhaseTimer
from blockvid_cli.video.reader import Frame, VideoInfo, read_frames
from blockvid_cli.video.spec import Timeline, video_spec

CURVE_FPS = 4  # frames per second that the curves are computed from
SEGMENT_SECONDS = 2.0  # of a point of a curve, about
MAX_POINTS = 60  # of a curve, unless the film has more chunks


@dataclass(frozen=True)
class CurveMetric:
    """A metric that is drawn along the film: its title, what it measures, and how it is made."""

    title: str
    description: str
    make: Callable[[], Metric]


CURVES = (
    CurveMetric(
        "likeness of the subject",
        "its colours and edges, compared with the beginning",
        lambda: subject_likeness(SubjectAppearance()),
    ),
    CurveMetric("colours of the subject", "compared with the beginning", lambda: subject_likeness(SubjectColours())),
    CurveMetric(
        "likeness of the surroundings",
        "their colours and edges, compared with the beginning",
        lambda: subject_likeness(BackgroundAppearance()),
    ),
    CurveMetric("sharpness", "with noise and exposure", lambda: imaging_quality(ImagingScorer())),
    CurveMetric("colourfulness", "with contrast and exposure", lambda: aesthetic_quality(AestheticScorer())),
    CurveMetric("motion", "mean length of the optical flow", lambda: motion_energy(InverseSearchFlow())),
)


class RenderLog:
    """Passes events on, and collects notes, the seconds of each chunk, and how many of its tokens were cached."""

    def __init__(self, listener: EventListener) -> None:
        self.notes: list[str] = []
        self.seconds: dict[int, float] = {}  # of chunks that this run rendered
        self.cached_tokens: dict[int, tuple[int, int]] = {}
        self._listener = listener
        self._last_step: float | None = None  # loading and the like are no chunk's time

    def __call__(self, event: Event) -> None:
        """Takes one event."""
        now = time.monotonic()
        if event.note:
            self.notes.append(event.note)
        if event.step and not event.step.resumed:
            chunk = event.step.blocks[0].chunk
            self.seconds[chunk] = self.seconds.get(chunk, 0.0) + (now - self._last_step if self._last_step else 0.0)
        self.cached_tokens |= event.cached_tokens
        self._last_step = now if event.step else None
        self._listener(event)


def write_render_report(job: RenderJob, log: RenderLog, timer: PhaseTimer, command: str) -> Path:
    """Writes the report of a film beside it, and returns its path.

    Raises:
        BlockvidError: it cannot be written, or the film cannot be read.
    """
    page, plan, with_texts = job.output.with_suffix(".report.html"), job.plan, job.request.metadata
    timeline = video_spec(job.storyboard, plan).timeline
    with timer.phase("report"):
        images, curves = watch(project_folder(job.output) / "pictures.mp4", plan, timeline)
    settings = RenderSettings(
        command=command if with_texts else "",
        storyboard=job.storyboard.content.decode("utf-8-sig", "replace") if with_texts else "",
        model=job.card.name,
        weights=fingerprint(job.card),
        seed=plan.seed if with_texts else None,
        recipe=job.recipe_values,
        versions={"blockvid": __version__, **job.manifest()["libraries"]},
    )
    report = Report(
        title=job.storyboard.title if with_texts else "",
        film=job.output,
        seconds=timeline.seconds,
        fps=plan.fps,
        size=plan.size,
        chunks=_chunks(job, log, timeline, images),
        settings=settings,
        cards=tuple(section for section in timeline.sections if section.kind != "chunk"),
        phases=timer.seconds,
        waited=timer.waited,
        peak=peak_memory(job.device),
        curves=curves,
        notes=(*plan.notes, *log.notes) if with_texts else (WITHOUT_METADATA,),
    )
    write_report(page, report)
    return page


def _chunks(
    job: RenderJob, log: RenderLog, timeline: Timeline, images: dict[int, np.ndarray]
) -> tuple[RenderedChunk, ...]:
    folder, retrieved = project_folder(job.output), retrieved_with_cosines(job)
    chunks = []
    for chunk, section in zip(job.plan.chunks, timeline.chunks, strict=True):
        cached_tokens, tokens = log.cached_tokens.get(chunk.number, (None, None))
        chunks.append(
            RenderedChunk(
                number=chunk.number,
                shot=chunk.shot,
                start=section.start,
                end=section.end,
                **(chunk_texts(chunk) if job.request.metadata else {"caption": "", "seed": None}),
                take=chunk.take,
                takes=tuple(takes_on_disk(folder, chunk.number)),
                retrieved=retrieved[chunk.number - 1],
                cached_tokens=cached_tokens,
                tokens=tokens,
                seconds=log.seconds.get(chunk.number),
                resumed=chunk.number not in log.seconds,
                image=images.get(chunk.number),
            )
        )
    return tuple(chunks)


def chunk_texts(chunk: PlannedChunk) -> dict[str, Any]:
    """What a person wrote about a chunk, its seed and its warnings: what a film without metadata does not say."""
    return {
        "caption": chunk.caption,
        "seed": chunk.seed,
        "prompt": chunk.prompt if chunk.rewritten else "",
        "first_image": chunk.image.name if chunk.image else "",
        "last_image": chunk.end_image.name if chunk.end_image else "",
        "warnings": chunk.warnings,
    }


def retrieved_with_cosines(job: RenderJob) -> list[tuple[RetrievedChunk, ...]]:
    """For each chunk, the earlier ones it attends to.

    First those that ``storyboard check`` lists as retrieved, with the cosine of the captions, then the recent ones.
    """
    cache, chunks = job.recipes[0].kv_cache(), job.plan.chunks
    by_caption = retrieved_chunks(job.plan, cache)
    if not isinstance(cache, SemanticCache):
        return [() for _ in chunks]
    unit = torch.nn.functional.normalize(cache.embeddings.double(), dim=1)
    table = []
    for chunk, similar in zip(chunks, by_caption, strict=True):
        embedding, recent = unit[chunk.number - 1], cache.retrieve(chunk.number, range(1, chunk.number))[1]
        cosines = [RetrievedChunk(number, round(float(embedding @ unit[number - 1]), 4)) for number in similar]
        table.append((*cosines, *(RetrievedChunk(number) for number in recent)))
    return table


def watch(video: Path, plan: Plan, timeline: Timeline) -> tuple[dict[int, np.ndarray], dict[str, Curve]]:
    """Decodes the film's frames, without cards, once: returns the middle frame (H, W, 3) uint8 of each chunk, and how
    metrics change along the film, by title, where its frames are large enough to be measured.

    Raises:
        BlockvidError: the file is missing or damaged.
    """
    whole = VideoInfo(video, plan.frames, plan.fps, plan.frames / plan.fps, plan.size)
    sampled = whole.subsample(sample_fps=CURVE_FPS)
    spans = curve_segments(sampled, [chunk.end_frame / plan.fps for chunk in plan.chunks])
    tracks = {each: MetricTrack(each.make(), sampled, spans) for each in CURVES if min(plan.size) >= MIN_SIDE}
    middles = {(chunk.first_frame + chunk.end_frame) // 2: chunk.number for chunk in plan.chunks}
    images: dict[int, np.ndarray] = {}
    for number, pixels in enumerate(read_frames(video, plan.size)):
        if number in middles:
            images[middles[number]] = pixels
        if number % sampled.stride == 0:
            frame = Frame(number // sampled.stride, pixels)
            for track in tracks.values():
                track.update(frame)
    seconds = tuple(timeline.story.start + (span.first + span.end) / 2 / sampled.fps for span in spans)
    return images, {each.title: _curve(each, track.scores, seconds) for each, track in tracks.items()}


def curve_segments(video: VideoInfo, ends: Sequence[float]) -> list[Span]:
    """Each chunk in equal parts of about two seconds, longer ones in a long film; ``ends`` are seconds."""
    length = max(SEGMENT_SECONDS, video.seconds / MAX_POINTS)
    spans: list[Span] = []
    for chunk in segments_at(video.frames, video.fps, [0.0, *ends]):
        frames = chunk.end - chunk.first
        parts = segments(frames, max(1, round(frames / video.fps / length)), Bounds.PROPORTIONAL)
        spans += [Span(chunk.first + part.first, chunk.first + part.end) for part in parts]
    return spans


def _curve(metric: CurveMetric, scores: Sequence[float | None], seconds: tuple[float, ...]) -> Curve:
    return Curve(tuple(scores), seconds, metric.description, drift_error(scores).normalised, largest_change(scores))
