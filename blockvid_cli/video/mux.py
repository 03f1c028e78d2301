"""Frames become a film: they are encoded once, and muxed into a film as often as sound, subtitles or cards change.

    frames -> pictures.part.mp4 (playable as it grows) -> pictures.mp4         write_video, once
    pictures.mp4 -> film.whole.part.mp4 -> film.mp4, film.srt                  mux_film: copied, sound and tags added
    pictures.mp4 -> frames -> overlays -> film.part.mp4 -> the same            where something is drawn into frames

A few frames are held at a time. Unfinished files are removed whatever happens; the names pictures.mp4 and film.mp4
appear when the files are complete.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from blockvid_cli.errors import BlockvidError, UsageError
from blockvid_cli.files import read_regular_file
from blockvid_cli.project.atomic_files import disk_errors, write_atomically
from blockvid_cli.storyboard.plan import Plan
from blockvid_cli.storyboard.presentation import Audio
from blockvid_cli.video.audio import AudioTrack, SoundMix, check_audio
from blockvid_cli.video.contact_sheet import thumbnail
from blockvid_cli.video.ffmpeg import encode_video, exact_rate, open_arguments, run_ffmpeg, write_error
from blockvid_cli.video.metadata import Chapter, ffmetadata, srt
from blockvid_cli.video.overlays import apply_overlays, check_text
from blockvid_cli.video.reader import read_frames
from blockvid_cli.video.spec import CRF, VideoSpec

if TYPE_CHECKING:
    import torch

BLACK, FROZEN = 0.02, 1e-4  # of full brightness


@dataclass(frozen=True)
class Film:
    """A finished film; frames and seconds include title and end card."""

    path: Path
    frames: int
    seconds: float
    bytes: int


def warn_degenerate_blocks(
    decoded: Iterator[torch.Tensor], plan: Plan, notify: Callable[[str], None]
) -> Iterator[torch.Tensor]:
    """Yields the same frames, a block (F, 3, H, W) in 0..1 at a time; notifies of each black or frozen block."""
    for block, frames in zip(plan.blocks, decoded, strict=True):
        frozen = len(frames) > 1 and float((frames[1:] - frames[:-1]).abs().amax()) < FROZEN
        fault = "black" if float(frames.amax()) < BLACK else "frozen" if frozen else ""
        if fault:
            notify(f"chunk {block.chunk}: block {block.number + 1} came out {fault}.")
        yield frames


def uint8_frames(decoded: Iterator[torch.Tensor], plan: Plan, stills: dict[int, np.ndarray]) -> Iterator[np.ndarray]:
    """Yields frames (H, W, 3) uint8 one by one; puts a thumbnail of each chunk's middle frame into ``stills``."""
    from blockvid_cli.models.vae import to_uint8

    middles = {(chunk.first_frame + chunk.end_frame) // 2: chunk.number for chunk in plan.chunks}
    number = 0
    for block in decoded:
        for frame in to_uint8(block):
            if number in middles:
                stills[middles[number]] = thumbnail(frame).copy()
            yield frame
            number += 1


def write_video(
    frames: Iterable[np.ndarray], path: Path, *, fps: float, size: tuple[int, int], frames_total: int, crf: int = CRF
) -> None:
    """Writes frames (H, W, 3) uint8 as an mp4 of exactly ``frames_total`` frames, without sound or tags.

    Frames are taken one at a time, as the encoder is ready. While the file grows it can be played as ``.part.mp4``.

    Args:
        size: width and height in pixels, both even.
        crf: H.264's quality, 0 (lossless) to 51; 18 looks like the original.

    Raises:
        BlockvidError: there are too few frames, or ffmpeg is missing or fails (``PartialError``: the disk is full).
    """
    growing = path.with_suffix(".part.mp4")
    with _clean_folder(path, growing):
        encode_video(frames, growing, rate=exact_rate(fps), size=size, total=frames_total, crf=crf)
        with disk_errors(path):
            os.replace(growing, path)


def check_video_spec(spec: VideoSpec) -> SoundMix:
    """Makes sure, before anything is rendered, that the film can be muxed; returns the audio it will have.

    Raises:
        BlockvidError: an audio file or the font cannot be used, or a card has too much text.
    """
    check_text(spec)
    timeline = spec.timeline
    return check_audio(spec.tracks, timeline.story.start, timeline.seconds, spec.loudness)


def mux_film(video: Path, film: Path, spec: VideoSpec, keep_srt: bool = False) -> Film:
    """Makes a film of the first ``spec.frames`` frames of an mp4 that ``write_video`` wrote.

    Where nothing is drawn into frames they are copied bit for bit; otherwise they are decoded, changed one by one and
    encoded again. The film lasts exactly as long as the frames and the cards, however long its sounds are. An ``.srt``
    is written beside it if the spec's subtitles have such a file, unless ``keep_srt`` leaves the one that is there.

    Raises:
        UsageError: the film's name does not end in .mp4.
        BlockvidError: the video is missing, damaged or too short, an audio file or the font cannot be used, or ffmpeg
            is missing or fails (``PartialError``: the disk is full).
    """
    _check_name(film)
    mix = check_video_spec(spec)
    if not video.is_file():
        raise BlockvidError(f"the pictures {video} do not exist.")
    with _clean_folder(film, *_temporary_files(film)):
        source = video
        if spec.needs_encoding:
            source, frames = _temporary_files(film)[0], apply_overlays(read_frames(video, spec.size), spec)
            encode_video(frames, source, rate=spec.rate, size=spec.size, total=spec.timeline.frames, crf=spec.crf)
        return _finish(source, film, spec, mix, keep_srt)


def write_film(
    frames: Iterable[np.ndarray],
    path: Path,
    *,
    fps: float,
    size: tuple[int, int],
    frames_total: int,
    chapters: Sequence[Chapter] = (),
    audio: Audio | None = None,
    metadata: Mapping[str, Any] | None = None,
    title: str = "",
    crf: int = CRF,
) -> Film:
    """Writes frames (H, W, 3) uint8 as a film of exactly ``frames_total`` frames, with an ``.srt``, in one go.

    The audio is checked before the first frame is taken. Without ``metadata`` the film has no title, chapters, comment.

    Raises:
        UsageError: the film's name does not end in .mp4.
        BlockvidError: as ``write_video`` and ``mux_film``.
    """
    tracks = (AudioTrack(audio),) if audio else ()
    spec = VideoSpec(fps, size, frames_total, tuple(chapters), tracks=tracks, title=title, metadata=metadata, crf=crf)
    _check_name(path)
    mix = check_video_spec(spec)
    with _clean_folder(path, *_temporary_files(path)):
        video = _temporary_files(path)[0]
        encode_video(frames, video, rate=spec.rate, size=size, total=frames_total, crf=crf)
        return _finish(video, path, spec, mix)


def _check_name(film: Path) -> None:
    if film.suffix.lower() != ".mp4":
        raise UsageError(f"a film's name ends in .mp4, like {film.with_suffix('.mp4').name}; not {film.name}.")


def _temporary_files(film: Path) -> tuple[Path, Path, Path]:
    """The files of an unfinished film: its frames, the muxed film, its subtitles."""
    return film.with_suffix(".part.mp4"), film.with_suffix(".whole.part.mp4"), film.with_suffix(".part.srt")


@contextmanager
def _clean_folder(path: Path, *unfinished: Path) -> Iterator[None]:
    """Makes the folder of ``path``; before and after, whatever happened, removes the unfinished files.

    Before, they are those of a killed process, or links that ffmpeg would write through.
    """
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove(unfinished)
    try:
        yield
    finally:
        with suppress(OSError):
            _remove(unfinished)


def _remove(files: Iterable[Path]) -> None:
    for file in files:
        file.unlink(missing_ok=True)


def _finish(video: Path, film: Path, spec: VideoSpec, mix: SoundMix, keep_srt: bool = False) -> Film:
    """Copies the frames of ``video`` into a film, and adds sound, subtitles, chapters and tags."""
    _, muxed, srt_file = _temporary_files(film)
    chapters = spec.film_chapters()
    subtitles = srt(chapters).encode("utf-8", "replace")
    soft = spec.subtitles.show == "soft" and bool(subtitles)
    if soft:
        write_atomically(srt_file, srt(chapters, spec.subtitles.size).encode("utf-8", "replace"))
    tags = ffmetadata(chapters, spec.metadata, spec.title)
    frames = _mux(video, muxed, spec, mix, tags, srt_file if soft else None)
    total, seconds = spec.timeline.frames, spec.timeline.seconds
    if frames < total:
        raise BlockvidError(f"{video} holds {frames} pictures of {total}; remove it to have it made anew.")
    if not keep_srt:
        _update_srt(film.with_suffix(".srt"), subtitles, spec.subtitles.has_file)
    with disk_errors(film):
        os.replace(muxed, film)
    return Film(film, total, seconds, film.stat().st_size)


def _mux(video: Path, muxed: Path, spec: VideoSpec, mix: SoundMix, tags: str, srt_file: Path | None) -> int:
    """Runs ffmpeg, the index at the front of the file; returns how many frames were copied."""
    inputs = [*open_arguments(video, "mov"), "-protocol_whitelist", "pipe", "-f", "ffmetadata", "-i", "pipe:0"]
    outputs = ["-map", "0:v:0", "-c:v", "copy", "-map_metadata", "1", "-map_chapters", "1"]
    outputs += ["-frames:v", str(spec.timeline.frames)]
    if srt_file:
        inputs += open_arguments(srt_file, "srt")
        outputs += ["-map", "2:s:0", "-c:s", "mov_text"]
    if mix.clips:
        inputs += mix.input_arguments()
        outputs += mix.output_arguments(3 if srt_file else 2)
    outputs += ["-movflags", "+faststart", "-progress", "pipe:1", "-f", "mp4", f"file:{muxed.absolute()}"]
    process = run_ffmpeg(["-y", *inputs, *outputs], tags.encode("utf-8", "replace"))
    if process.returncode != 0:
        raise write_error(muxed, process.stderr.decode("utf-8", "replace"), process.returncode)
    progress = process.stdout.decode("utf-8", "replace").splitlines()
    counts = [line.removeprefix("frame=") for line in progress if line.startswith("frame=")]
    return int(counts[-1]) if counts else 0


def _update_srt(path: Path, subtitles: bytes, beside: bool) -> None:
    """Writes the ``.srt``; without ``beside`` one of the same content is removed, as players would show both."""
    if beside:
        write_atomically(path, subtitles)
        return
    with suppress(OSError):
        if read_regular_file(path, len(subtitles)) == subtitles:
            path.unlink()
