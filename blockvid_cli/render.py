"""The whole way, in order: storyboard -> plan -> prompts -> rollout -> VAE -> film.

    job = prepare(RenderRequest(Path("story.yaml")))      job.py: reads and checks everything; loads no weights
    film = render(job)                                    generates what is missing, writes story.mp4

A chain of iterators: the first frames are in the encoder while later blocks are still noise, and every finished block
is on disk before the next begins (session.py).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import torch

from blockvid_cli.errors import OutOfMemoryError
from blockvid_cli.files import read_regular_file
from blockvid_cli.job import RenderJob, with_preset
from blockvid_cli.models.hub import fingerprint, require, sha256
from blockvid_cli.project.atomic_files import write_atomically
from blockvid_cli.project.identity import write_take_choices
from blockvid_cli.project.project import DecodedVideoCache, Project, project_folder
from blockvid_cli.runtime.memory_estimate import GIB, format_plan
from blockvid_cli.runtime.presets import next_lower_preset
from blockvid_cli.session import (
    DenoiserWrapper,
    Event,
    EventListener,
    RenderSession,
    finished_blocks,
    free_unused_memory,
    load,
    no_grad_oom_guard,
    stream_latents,
)
from blockvid_cli.timing import PhaseTimer
from blockvid_cli.video.contact_sheet import contact_sheet
from blockvid_cli.video.metadata import srt
from blockvid_cli.video.mux import Film, check_video_spec, mux_film, uint8_frames, warn_degenerate_blocks, write_video
from blockvid_cli.video.spec import VideoSpec, video_spec

SRT_HASH = "subtitles.sha256"  # in a project: of the .srt beside the film, as it was written last
NOTED_MEMORY = GIB  # of films that need more, the listener is notified before anything is loaded


def render(
    job: RenderJob,
    notify: EventListener = lambda event: None,
    timer: PhaseTimer | None = None,
    wrap: DenoiserWrapper = lambda denoiser: denoiser,
) -> Film:
    """Generates what is missing, saves every finished block, and writes the film; called again, it resumes.

    Args:
        wrap: may put a denoiser of its own around the model's, to measure it for instance.

    Raises:
        BlockvidError: with the exit code that fits; what is finished is kept.
    """
    timer = timer or PhaseTimer()
    notify_of_notes(job, notify)
    while True:
        try:
            return _render(job, notify, timer, wrap)
        except OutOfMemoryError as error:
            lower = next_lower_preset(job.preset, job.request.runtime) if job.request.retry else None
            if lower is None:
                raise
            notify(Event("note", f"{error} Going on with the preset {lower}; finished chunks stay as they are."))
        free_unused_memory(job.preset.device)  # after the error, which holds on to all that was loaded
        job = with_preset(job, lower)


def _render(job: RenderJob, notify: EventListener, timer: PhaseTimer, wrap: DenoiserWrapper) -> Film:
    """One attempt at a film, with one preset."""
    manifest, keys = job.manifest(), job.keys
    spec = video_spec(job.storyboard, job.plan, manifest if job.request.metadata else None)
    check_video_spec(spec)  # a sound that cannot be played is an error before anything is generated
    with open_project(job) as project:
        _notify_of_project(project, notify)
        session = RenderSession(job, project, notify, timer)
        write_take_choices(project.folder, job.takes)
        project.write_manifest({**manifest, **job.resume_facts()})
        cache = DecodedVideoCache(project.folder, keys.keys, job.plan, fingerprint(job.card, (job.card.vae,)))
        if len(finished_blocks(session)) < len(job.plan.blocks) or not cache.is_valid():
            _generate(session, cache, wrap)
        _notify_of_project(project, notify)
        with timer.phase("mux"), _srt_of_others(session, spec) as keep_srt:
            return mux_film(cache.video, job.output, spec, keep_srt)


@contextmanager
def _srt_of_others(session: RenderSession, spec: VideoSpec) -> Iterator[bool]:
    """Whether the ``.srt`` beside the film is not as a render wrote it, such as one edited by hand: it stays, noted."""
    record, path = session.project.folder / SRT_HASH, session.job.output.with_suffix(".srt")
    text = srt(spec.film_chapters()).encode("utf-8", "replace")
    recorded = ""
    with suppress(OSError):
        recorded = read_regular_file(record, 100).decode("ascii", "replace")
    own = ("", recorded, hashlib.sha256(text).hexdigest())
    changed = _file_hash(path) not in own
    yield changed
    if not changed:
        write_atomically(record, _file_hash(path).encode())
    elif spec.subtitles.has_file:
        note = f"{path} is not as it was written by a render, so it stays; remove it to have it written again."
        session.notify(Event("note", note))


def _file_hash(path: Path) -> str:
    """The SHA-256 of a regular file; empty where there is none that can be read."""
    with suppress(OSError):
        return sha256(path)
    return ""


def _generate(session: RenderSession, cache: DecodedVideoCache, wrap: DenoiserWrapper) -> None:
    """Generates what is missing, and caches the film's frames."""
    job, plan, notify, timer = session.job, session.job.plan, session.notify, session.timer
    if (needs := job.budget()).peak > NOTED_MEMORY:
        notify(Event("note", format_plan(job.preset, needs, job.free_memory)))
    model = load(job, notify, timer, wrap)
    stills: dict[int, np.ndarray] = {}
    decoded = timer.timed("decode", no_grad_oom_guard("decode", model.vae.stream(stream_latents(session, model))))
    frames = uint8_frames(warn_degenerate_blocks(decoded, plan, lambda note: notify(Event("note", note))), plan, stills)
    with timer.phase("mux"):
        write_video(frames, cache.video, fps=plan.fps, size=plan.size, frames_total=plan.frames)
    labels = [f"{chunk.number}. {chunk.caption}" for chunk in plan.chunks if chunk.number in stills]
    contact_sheet([stills[number] for number in sorted(stills)], labels, session.project.folder / "sheet.png")
    cache.commit()


def notify_of_notes(job: RenderJob, notify: EventListener) -> None:
    """Hands on what was decided about captions and images, before anything is generated."""
    for note in job.notes:
        notify(Event("note", note))


def _notify_of_project(project: Project, notify: EventListener) -> None:
    """Hands on what was noticed about a project since the last time."""
    while project.notes:
        notify(Event("note", project.notes.pop(0)))


def open_project(job: RenderJob) -> Project:
    """The project of a job, locked, once its model is on this machine."""
    require(job.card)
    return Project.open(project_folder(job.output), job.fixed, job.request.fresh)


@torch.inference_mode()
def stream_frames(job: RenderJob) -> Iterator[torch.Tensor]:
    """The film's frames (F, 3, H, W) in 0..1, block by block; nothing is saved. For evaluation."""
    require(job.card)
    model = load(job)
    model.vae.to(job.preset.device)
    yield from model.vae.stream(latents for result in model.run() for _, latents in result.finished)
