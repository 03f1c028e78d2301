"""Makes the report of a render: from its events, from what the project holds, and from how the film drifts.

events -> RenderLog -> Report -> story.report.html
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from blockvid_cli import __version__
from blockvid_cli.evaluation.bench.speed import peak_memory
from blockvid_cli.evaluation.films import score_films
from blockvid_cli.evaluation.scores import EvalConfig
from blockvid_cli.job import RenderJob
from blockvid_cli.models.hub import fingerprint
from blockvid_cli.project.project import project_folder, takes_on_disk
from blockvid_cli.report.contents import Curve, RenderedChunk, RenderSettings, Report, RetrievedChunk
from blockvid_cli.report.report import write_report
from blockvid_cli.rollout.kv_cache.semantic import SemanticCache, retrieved_chunks
from blockvid_cli.session import Event, EventListener
from blockvid_cli.timing import PhaseTimer
from blockvid_cli.video.reader import decode_frames, scan_video

CURVE_FPS = 4  # frames per second that the curves are computed from
CURVES = {  # titles, and the scores of ``blockvid eval`` that they show
    "sharpness": "imaging_quality_builtin",
    "colour and contrast": "aesthetic_quality_builtin",
    "motion": "motion_energy_builtin",
    "likeness to the beginning": "subject_likeness_builtin",
}
MAX_POINTS = 60  # of a curve


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
    page, plan, video = job.output.with_suffix(".report.html"), job.plan, project_folder(job.output) / "pictures.mp4"
    with_texts = job.request.metadata  # otherwise nothing that a person wrote
    settings = RenderSettings(
        command=command if with_texts else "",
        storyboard=job.storyboard.source.read_text("utf-8", "replace") if with_texts else "",
        model=job.card.name,
        weights=fingerprint(job.card),
        seed=plan.seed,
        recipe=job.recipe_values,
        versions={"blockvid": __version__, **job.manifest()["libraries"]},
    )
    report = Report(
        title=job.storyboard.title,
        film=job.output,
        seconds=plan.frames / plan.fps,
        fps=plan.fps,
        size=plan.size,
        chunks=_chunks(job, log, video),
        settings=settings,
        phases=timer.seconds,
        peak=peak_memory(job.device),
        curves=_curves(video, len(plan.chunks)),
        notes=(*plan.notes, *log.notes),
    )
    write_report(page, report)
    return page


def _chunks(job: RenderJob, log: RenderLog, video: Path) -> tuple[RenderedChunk, ...]:
    plan, folder = job.plan, project_folder(job.output)
    images, retrieved = _middle_frames(job, video), _retrieved(job)
    chunks = []
    for chunk in plan.chunks:
        cached_tokens, tokens = log.cached_tokens.get(chunk.number, (None, None))
        chunks.append(
            RenderedChunk(
                number=chunk.number,
                shot=chunk.shot,
                start=chunk.first_frame / plan.fps,
                end=chunk.end_frame / plan.fps,
                caption=chunk.caption,
                seed=chunk.seed,
                prompt=chunk.prompt if chunk.rewritten else "",
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


def _retrieved(job: RenderJob) -> list[tuple[RetrievedChunk, ...]]:
    """For each chunk, the earlier ones it attends to: retrieved by caption with their cosine, and the recent ones."""
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


def _middle_frames(job: RenderJob, video: Path) -> dict[int, np.ndarray]:
    """The middle frame (H, W, 3) uint8 of each chunk."""
    middles = {(chunk.first_frame + chunk.end_frame) // 2: chunk.number for chunk in job.plan.chunks}
    frames = decode_frames(scan_video(video))
    return {middles[frame.number]: frame.rgb for frame in frames if frame.number in middles}


def _curves(video: Path, chunks: int) -> dict[str, Curve]:
    """How metrics change along the film; empty where it is too short, or cannot be scored."""
    config = EvalConfig(segments=str(min(max(chunks, 2), MAX_POINTS)), sample_fps=CURVE_FPS)
    (result,) = score_films([(video, None)], config, jobs=1)
    if "error" in result:
        return {}
    scores = {error["metric"]: error["segments"] for errors in result["vde"].values() for error in errors.values()}
    return {title: _curve(scores[metric], result["seconds"]) for title, metric in CURVES.items() if metric in scores}


def _curve(scores: Sequence[float | None], seconds: float) -> Curve:
    middles = tuple((number + 0.5) * seconds / len(scores) for number in range(len(scores)))
    return Curve(tuple(scores), middles)
