"""The report of a render: what was told while it was drawn, what the project holds, and how the film drifts.

events -> Diary -> facts -> story.report.html
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
from blockvid_cli.video.reader import decode_frames, scan_video
from blockvid_cli.evaluation.scores import EvalConfig as Scoring
from blockvid_cli.job import RenderJob
from blockvid_cli.models.hub import fingerprint
from blockvid_cli.models.wan.rope import Rope
from blockvid_cli.project.project import project_folder, takes_on_disk
from blockvid_cli.report.facts import Curve, RenderedChunk, RecalledChunk, Report, RenderSettings
from blockvid_cli.report.report import write_report
from blockvid_cli.rollout.kv_cache.semantic import SemanticCache
from blockvid_cli.session import Event, EventListener
from blockvid_cli.timing import PhaseTimer

SAMPLED = 4  # frames a second that the curves are made of
CURVES = {  # what is drawn along the film, and from which of eval's scores
    "sharpness": "imaging_quality_builtin",
    "colour and contrast": "aesthetic_quality_builtin",
    "motion": "motion_energy_builtin",
    "likeness to the beginning": "subject_likeness_builtin",
}
MOST = 60  # points of a curve


class RenderLog:
    """Passes events on, and remembers notes, the seconds each chunk took, and what the memory kept of it."""

    def __init__(self, tell: EventListener) -> None:
        self.tell, self.notes = tell, []
        self.seconds: dict[int, float] = {}  # of chunks drawn now
        self.kept: dict[int, tuple[int, int]] = {}
        self._since: float | None = None  # the last moment; loading and the like are no chunk's time

    def __call__(self, event: Event) -> None:
        """Hears one event."""
        now = time.monotonic()
        if event.note:
            self.notes.append(event.note)
        if event.step and not event.step.resumed:
            chunk = event.step.blocks[0].chunk
            self.seconds[chunk] = self.seconds.get(chunk, 0.0) + (now - self._since if self._since else 0.0)
        self.kept |= event.cached_tokens
        self._since = now if event.step else None
        self.tell(event)


def write_render_report(job: RenderJob, diary: RenderLog, clock: PhaseTimer, command: str) -> Path:
    """Writes the report of a film beside it; returns where.

    Raises:
        BlockvidError: it cannot be written, or the film cannot be read.
    """
    page, told = job.output.with_suffix(".report.html"), job.manifest()
    plan, pictures = job.plan, project_folder(job.output) / "pictures.mp4"
    told_all = job.request.metadata  # else nothing a person wrote
    settings = RenderSettings(
        command=command if told_all else "",
        storyboard=job.storyboard.source.read_text("utf-8", "replace") if told_all else "",
        model=job.card.name,
        weights=fingerprint(job.card),
        seed=plan.seed,
        recipe=job.recipe_values,
        versions={"blockvid": __version__, **told["libraries"]},
    )
    facts = Report(
        title=job.storyboard.title,
        film=job.output,
        seconds=plan.frames / plan.fps,
        fps=plan.fps,
        size=plan.size,
        chunks=_chunks(job, diary, pictures),
        settings=settings,
        phases=clock.seconds,
        peak=peak_memory(job.device),
        curves=_curves(pictures, len(plan.chunks)),
        notes=(*plan.notes, *diary.notes),
    )
    write_report(page, facts)
    return page


def _chunks(job: RenderJob, diary: RenderLog, pictures: Path) -> tuple[RenderedChunk, ...]:
    plan, folder = job.plan, project_folder(job.output)
    stills, recalled = _stills(job, pictures), _recalled(job)
    drawn = []
    for chunk in plan.chunks:
        kept, tokens = diary.kept.get(chunk.number, (None, None))
        drawn.append(
            RenderedChunk(
                number=chunk.number,
                shot=chunk.shot,
                start=chunk.first_frame / plan.fps,
                end=chunk.end_frame / plan.fps,
                caption=chunk.caption,
                seed=chunk.seed,
                sentence=chunk.prompt if chunk.rewritten else "",
                take=chunk.take,
                takes=tuple(takes_on_disk(folder, chunk.number)),
                recalled=recalled[chunk.number - 1],
                kept=kept,
                tokens=tokens,
                seconds=diary.seconds.get(chunk.number),
                resumed=chunk.number not in diary.seconds,
                picture=stills.get(chunk.number),
            )
        )
    return tuple(drawn)


def _recalled(job: RenderJob) -> list[tuple[RecalledChunk, ...]]:
    """For each chunk, the earlier ones its memory shows it: by caption with their cosine, and the recent ones."""
    memory, chunks = job.recipes[0].kv_cache(), job.plan.chunks
    if not isinstance(memory, SemanticCache):
        return [() for _ in chunks]
    memory.begin(chunks, Rope(6))  # no token is turned here
    unit = torch.nn.functional.normalize(memory.embeddings.double(), dim=1)
    out = []
    for chunk in chunks:
        alike, recent = memory.retrieve(chunk.number, range(1, chunk.number))
        here = unit[chunk.number - 1]
        out.append(
            (
                *(RecalledChunk(number, round(float(here @ unit[number - 1]), 4)) for number in alike),
                *(RecalledChunk(number) for number in recent),
            )
        )
    return out


def _stills(job: RenderJob, pictures: Path) -> dict[int, np.ndarray]:
    """The middle picture of each chunk."""
    middles = {(chunk.first_frame + chunk.end_frame) // 2: chunk.number for chunk in job.plan.chunks}
    footage = scan_video(pictures)
    return {middles[frame.number]: frame.rgb for frame in decode_frames(footage) if frame.number in middles}


def _curves(pictures: Path, chunks: int) -> dict[str, Curve]:
    """How the film changes along its way; nothing where it is too short to tell, or cannot be scored."""
    scoring = Scoring(segments=str(min(max(chunks, 2), MOST)), sample_fps=SAMPLED)
    (result,) = score_films([(pictures, None)], scoring, jobs=1)
    if "error" in result:
        return {}
    found = {error["metric"]: error["segments"] for errors in result["vde"].values() for error in errors.values()}
    return {name: _curve(found[measure], result["seconds"]) for name, measure in CURVES.items() if measure in found}


def _curve(scores: Sequence[float | None], seconds: float) -> Curve:
    places = tuple((number + 0.5) * seconds / len(scores) for number in range(len(scores)))
    return Curve(tuple(scores), places)
