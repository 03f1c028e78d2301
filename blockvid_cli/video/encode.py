"""Frames stream into an H.264 file through moviepy's writer, one at a time."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from contextlib import suppress
from fractions import Fraction
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import IO

import numpy as np

from blockvid_cli.errors import BlockvidError
from blockvid_cli.project.atomic_files import disk_errors
from blockvid_cli.video.ffmpeg import failure, missing_ffmpeg, moviepy_module

SECONDS_BETWEEN_KEYFRAMES = 4


def exact_rate(fps: float) -> Fraction:
    """Frames a second as a fraction that a container can hold: 12.5 -> 25/2, 23.976 -> 2997/125."""
    return Fraction(fps).limit_denominator(1001)


def encode(
    frames: Iterable[np.ndarray], path: Path, *, rate: Fraction, size: tuple[int, int], total: int, crf: int
) -> None:
    """Writes the first ``total`` frames (uint8, H x W x 3) as an mp4 that can be watched while it grows.

    Raises:
        BlockvidError: too few frames, or ffmpeg is missing or fails (``PartialError``: the disk is full).
    """
    width, height = size
    written = 0
    with Encoder(path, rate, size, crf) as encoder:
        for frame in islice(frames, total):
            if frame.shape != (height, width, 3) or frame.dtype != np.uint8:
                raise ValueError(f"a frame is uint8 {(height, width, 3)}, not {frame.dtype} {frame.shape}")
            encoder.write(frame)
            written += 1
        if written < total:
            raise BlockvidError(f"the film ends early: {written} frames of {total} were drawn.")
        encoder.finish()


class Encoder:
    """moviepy's writer with an exact frame rate, a checked end, and no process left behind."""

    def __init__(self, path: Path, rate: Fraction, size: tuple[int, int], crf: int) -> None:
        self.path = path
        writer_type = moviepy_module("video.io.ffmpeg_writer").FFMPEG_VideoWriter
        with disk_errors(path):
            self._complaints: IO[str] = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        try:
            self._writer = writer_type(
                str(path.absolute()),
                size,
                float(rate),
                logfile=self._complaints,
                ffmpeg_params=_settings(rate, crf),
            )
        except OSError as error:
            self._complaints.close()
            raise missing_ffmpeg() from error
        self._process = self._writer.proc

    def __enter__(self) -> Encoder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
        with suppress(OSError):  # what was still in the pipe
            self._process.stdin.close()
        self._process.wait()
        self._complaints.close()

    def write(self, frame: np.ndarray) -> None:
        """Hands one frame to ffmpeg; waits while ffmpeg is busy."""
        try:
            self._writer.write_frame(frame)
        except OSError as error:
            raise self._failure() from error

    def finish(self) -> None:
        """Waits until the file is complete."""
        try:
            self._writer.close()
        except OSError as error:
            raise self._failure() from error
        if self._process.returncode != 0:
            raise self._failure()

    def _failure(self) -> BlockvidError:
        self._complaints.seek(0)
        return failure(self.path, self._complaints.read())


def _settings(rate: Fraction, crf: int) -> list[str]:
    """ffmpeg's options: frame n is shown at exactly n / rate, because moviepy rounds its own rate to 0.01.

    Colours are converted and labelled as BT.709, which is what players assume. Without B-frames every frame's
    time survives copying; fragments make the file playable before it is finished.
    """
    timing = f"settb={rate.denominator}/{rate.numerator},setpts=N"
    labels = "setparams=colorspace=bt709:color_primaries=bt709:color_trc=bt709"
    colours = f"scale=out_color_matrix=bt709:out_range=tv,format=yuv420p,{labels}"
    keyframes = max(1, round(SECONDS_BETWEEN_KEYFRAMES * rate))
    return [
        *("-nostats", "-loglevel", "error"),
        *("-vf", f"{timing},{colours}", "-r", f"{rate.numerator}/{rate.denominator}"),
        *("-crf", str(crf), "-bf", "0", "-g", str(keyframes)),
        *("-movflags", "+frag_keyframe+empty_moov", "-flush_packets", "1"),
    ]
