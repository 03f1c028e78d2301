"""Pictures become a film: frames stream into an encoder, then sound, chapters and tags are added by copying.

    frames -> film.part.mp4 (playable as it grows) -> film.whole.part.mp4 -> film.mp4
                                                      + audio, chapters, tags    film.srt

One frame is held at a time. What is unfinished is removed whatever happens; the name film.mp4 appears when
it is whole.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from blockvid_cli.errors import UsageError
from blockvid_cli.film.audio import audible_seconds, filters, source
from blockvid_cli.film.disk import write_whole, writing
from blockvid_cli.film.encode import encode, exact_rate
from blockvid_cli.film.ffmpeg import failure, run_ffmpeg
from blockvid_cli.film.subtitles import Chapter, srt, within
from blockvid_cli.film.tags import ffmetadata
from blockvid_cli.story.storyboard import Audio


@dataclass(frozen=True)
class Film:
    """A finished film."""

    path: Path
    frames: int
    seconds: float
    bytes: int


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
    crf: int = 18,
) -> Film:
    """Writes ``frames`` (uint8, H x W x 3) as an mp4 of exactly ``frames_total`` frames, with an ``.srt``.

    Frames are taken one at a time, as the encoder has room. The audio is tried before the first frame is
    asked for. Without ``metadata`` the film holds neither title nor comment.

    Args:
        size: width and height in pixels, both even.
        crf: H.264's quality, 0 (lossless) to 51; 18 looks like the original.

    Raises:
        UsageError: the film's name does not end in .mp4.
        BlockvidError: there are too few frames, the audio cannot be used, or ffmpeg is missing or fails
            (``PartialError``: the disk is full).
    """
    if path.suffix.lower() != ".mp4":
        raise UsageError(f"a film's name ends in .mp4, like {path.with_suffix('.mp4').name}; not {path.name}.")
    rate = exact_rate(fps)
    seconds = float(frames_total / rate)
    chapters = within(chapters, seconds)
    sound = Soundtrack(audio, audible_seconds(audio, seconds), seconds) if audio else None
    drawn, whole = path.with_suffix(".part.mp4"), path.with_suffix(".whole.part.mp4")
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        encode(frames, drawn, rate=rate, size=size, total=frames_total, crf=crf)
        _assemble(drawn, whole, sound, ffmetadata(chapters, metadata, title))
        write_whole(path.with_suffix(".srt"), srt(chapters).encode("utf-8", "replace"))
        with writing(path):
            os.replace(whole, path)
    finally:
        for unfinished in (drawn, whole):
            with suppress(OSError):
                unfinished.unlink(missing_ok=True)
    return Film(path, frames_total, seconds, path.stat().st_size)


@dataclass(frozen=True)
class Soundtrack:
    """An audio file that was tried: how much of it is heard in a film of ``film`` seconds."""

    audio: Audio
    audible: float
    film: float

    @property
    def arguments(self) -> list[str]:
        """ffmpeg's output arguments for it as the third input."""
        chain = filters(self.audio, self.audible, self.film)
        return ["-map", "2:a:0", "-af", chain, "-c:a", "aac", "-b:a", "192k"]


def _assemble(drawn: Path, whole: Path, sound: Soundtrack | None, tags: str) -> None:
    """Copies the pictures untouched, and adds sound and tags; the index goes to the front of the file."""
    inputs = ["-i", str(drawn.absolute()), "-f", "ffmetadata", "-i", "pipe:0"]
    outputs = ["-map", "0:v:0", "-c:v", "copy", "-map_metadata", "1", "-map_chapters", "1"]
    if sound:
        inputs += source(sound.audio)
        outputs += sound.arguments
    outputs += ["-movflags", "+faststart", str(whole.absolute())]
    done = run_ffmpeg(["-y", *inputs, *outputs], tags.encode("utf-8", "replace"))
    if done.returncode != 0:
        raise failure(whole, done.stderr.decode("utf-8", "replace"))
