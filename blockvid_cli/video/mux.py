"""Pictures become a film: drawn pictures are kept, and a film is put together from them as often as its look changes.

    frames -> pictures.part.mp4 (playable as it grows) -> pictures.mp4         write_video, once
    pictures.mp4 -> film.whole.part.mp4 -> film.mp4, film.srt                  mux_film: copied, sound and tags added
    pictures.mp4 -> frames -> dressed -> film.part.mp4 -> the same             where something is drawn into pictures

A few frames are held at a time. What is unfinished is removed whatever happens; the names pictures.mp4 and film.mp4
appear when they are whole.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from blockvid_cli.errors import BlockvidError, UsageError
from blockvid_cli.project.atomic_files import write_atomically, disk_errors
from blockvid_cli.storyboard.presentation import Audio
from blockvid_cli.video.audio import Sound, Track, inputs, outputs, try_sounds
from blockvid_cli.video.decode import read_frames
from blockvid_cli.video.encode import encode, exact_rate
from blockvid_cli.video.ffmpeg import failure, run_ffmpeg
from blockvid_cli.video.metadata import ffmetadata
from blockvid_cli.video.overlays import dressed, try_letters
from blockvid_cli.video.spec import CRF, VideoSpec
from blockvid_cli.video.subtitles import Chapter, srt


@dataclass(frozen=True)
class Film:
    """A finished film; frames and seconds include title and end card."""

    path: Path
    frames: int
    seconds: float
    bytes: int


def write_video(
    frames: Iterable[np.ndarray], path: Path, *, fps: float, size: tuple[int, int], frames_total: int, crf: int = CRF
) -> None:
    """Keeps ``frames`` (uint8, H x W x 3) as an mp4 of exactly ``frames_total`` pictures, without sound or tags.

    Frames are taken one at a time, as the encoder has room. While it grows it can be watched as ``.part.mp4``.

    Args:
        size: width and height in pixels, both even.
        crf: H.264's quality, 0 (lossless) to 51; 18 looks like the original.

    Raises:
        BlockvidError: there are too few frames, or ffmpeg is missing or fails (``PartialError``: the disk is full).
    """
    growing = path.with_suffix(".part.mp4")
    with _room_for(path, growing):
        encode(frames, growing, rate=exact_rate(fps), size=size, total=frames_total, crf=crf)
        with disk_errors(path):
            os.replace(growing, path)


def check_video_spec(look: VideoSpec) -> list[Sound]:
    """Makes sure that a film can have this look, before anything is drawn for it; returns the sounds it will have.

    Raises:
        BlockvidError: a sound or the font cannot be used, or a card has too many words.
    """
    try_letters(look)
    return try_sounds(look.tracks, look.before, look.seconds)


def mux_film(pictures: Path, film: Path, look: VideoSpec) -> Film:
    """Makes the film of the kept ``pictures``, of which it takes the first ``look.frames``.

    Where nothing is drawn into pictures they are copied bit for bit; else they are decoded, dressed frame by frame
    and encoded again. The film lasts as long as the pictures and the cards, exactly, whatever its sounds do. An
    ``.srt`` lies beside it, unless there are no subtitles, or they are in the pictures.

    Raises:
        UsageError: the film's name does not end in .mp4.
        BlockvidError: the pictures are missing, damaged or too few, a sound or the font cannot be used, or ffmpeg is
            missing or fails (``PartialError``: the disk is full).
    """
    _check_name(film)
    sounds = check_video_spec(look)
    if not pictures.is_file():
        raise BlockvidError(f"the pictures {pictures} do not exist.")
    with _room_for(film, *_stages(film)):
        source = pictures
        if look.changes_pictures:
            source, frames = _stages(film)[0], dressed(read_frames(pictures, look.size), look)
            encode(frames, source, rate=look.rate, size=look.size, total=look.film_frames, crf=look.crf)
        return _finished(source, film, look, sounds)


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
    """Writes ``frames`` (uint8, H x W x 3) as a film of exactly ``frames_total`` frames, with an ``.srt``; keeps none.

    The audio is tried before the first frame is asked for. Without ``metadata`` the film holds neither title nor
    comment.

    Raises:
        UsageError: the film's name does not end in .mp4.
        BlockvidError: as ``write_video`` and ``mux_film``.
    """
    tracks = (Track(audio),) if audio else ()
    look = VideoSpec(fps, size, frames_total, tuple(chapters), (), tracks, title=title, metadata=metadata, crf=crf)
    _check_name(path)
    sounds = check_video_spec(look)
    with _room_for(path, *_stages(path)):
        drawn = _stages(path)[0]
        encode(frames, drawn, rate=look.rate, size=size, total=frames_total, crf=crf)
        return _finished(drawn, path, look, sounds)


def _check_name(film: Path) -> None:
    if film.suffix.lower() != ".mp4":
        raise UsageError(f"a film's name ends in .mp4, like {film.with_suffix('.mp4').name}; not {film.name}.")


def _stages(film: Path) -> tuple[Path, Path, Path]:
    """What a film is while it is made: its pictures, the whole of it, its subtitles."""
    return film.with_suffix(".part.mp4"), film.with_suffix(".whole.part.mp4"), film.with_suffix(".part.srt")


@contextmanager
def _room_for(path: Path, *unfinished: Path) -> Iterator[None]:
    """A folder for ``path``; whatever happens inside, nothing unfinished is left."""
    try:
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        yield
    finally:
        for file in unfinished:
            with suppress(OSError):
                file.unlink(missing_ok=True)


def _finished(source: Path, film: Path, look: VideoSpec, sounds: Sequence[Sound]) -> Film:
    """Copies the pictures of ``source`` into a film, and adds what is not pictures."""
    _, whole, words = _stages(film)
    chapters = look.film_chapters()
    subtitles = srt(chapters).encode("utf-8", "replace")
    soft = look.subtitles == "soft" and bool(subtitles)
    if soft:
        write_atomically(words, subtitles)
    frames = _mux(source, whole, look, sounds, ffmetadata(chapters, look.metadata, look.title), words if soft else None)
    if frames < look.film_frames:
        raise BlockvidError(f"{source} holds {frames} pictures of {look.film_frames}; remove it to have it made anew.")
    _lay_beside(film.with_suffix(".srt"), subtitles, look.subtitles in ("beside", "soft"))
    with disk_errors(film):
        os.replace(whole, film)
    return Film(film, look.film_frames, look.seconds, film.stat().st_size)


def _mux(source: Path, whole: Path, look: VideoSpec, sounds: Sequence[Sound], tags: str, words: Path | None) -> int:
    """Runs ffmpeg, the index at the front of the file; returns how many pictures were copied."""
    opened = ["-i", str(source.absolute()), "-f", "ffmetadata", "-i", "pipe:0"]
    made = ["-map", "0:v:0", "-c:v", "copy", "-map_metadata", "1", "-map_chapters", "1"]
    made += ["-frames:v", str(look.film_frames)]
    if words:
        opened += ["-f", "srt", "-i", str(words.absolute())]
        made += ["-map", "2:s:0", "-c:s", "mov_text"]
    if sounds:
        opened += inputs(sounds)
        made += outputs(sounds, 3 if words else 2, look.seconds)
    made += ["-movflags", "+faststart", "-progress", "pipe:1", str(whole.absolute())]
    done = run_ffmpeg(["-y", *opened, *made], tags.encode("utf-8", "replace"))
    if done.returncode != 0:
        raise failure(whole, done.stderr.decode("utf-8", "replace"))
    told = done.stdout.decode("utf-8", "replace").splitlines()
    counts = [line.removeprefix("frame=") for line in told if line.startswith("frame=")]
    return int(counts[-1]) if counts else 0


def _lay_beside(path: Path, subtitles: bytes, wanted: bool) -> None:
    """Writes the ``.srt``; where none is wanted, the one that said the same is removed, as players would show both."""
    if wanted:
        write_atomically(path, subtitles)
    elif path.is_file() and path.read_bytes() == subtitles:
        with suppress(OSError):
            path.unlink()
