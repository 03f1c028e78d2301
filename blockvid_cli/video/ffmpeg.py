"""Runs ffmpeg: writes frames as H.264 through moviepy's writer, and runs single commands (sound, muxing).

Which ffmpeg that is decides the user's environment, never a file in the working folder. Errors of ffmpeg become
sentences. Frames are read back by ``reader`` (PyAV), not here.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import suppress
from fractions import Fraction
from itertools import islice
from pathlib import Path
from types import ModuleType, TracebackType
from typing import IO

import numpy as np

from blockvid_cli.errors import DISK_FULL, BlockvidError
from blockvid_cli.project.atomic_files import disk_errors, disk_full_error

REINSTALL = "pip install --force-reinstall imageio-ffmpeg"
DISK_FULL_MESSAGES = ("No space left on device", "Disk quota exceeded")
SECONDS_BETWEEN_KEYFRAMES = 4


def binary() -> str:
    """Returns the ffmpeg to use: that of the environment's ``FFMPEG_BINARY``, else the one of imageio-ffmpeg.

    Raises:
        BlockvidError: there is none.
    """
    if name := os.environ.get("FFMPEG_BINARY"):
        if path := shutil.which(name):
            return path
        raise missing_ffmpeg()
    from imageio_ffmpeg import get_ffmpeg_exe

    try:
        return get_ffmpeg_exe()
    except RuntimeError as error:
        raise missing_ffmpeg() from error


def import_writer() -> ModuleType:
    """Imports the module of moviepy that writes films, on first use, because that is slow.

    On import, moviepy runs the programs that the nearest ``.env`` file names. For that time it lacks dotenv, by which
    it reads such files; it is handed ``binary`` instead.

    Raises:
        BlockvidError: there is no ffmpeg.
    """
    program, dotenv = binary(), sys.modules.get("dotenv")
    sys.modules["dotenv"] = None  # type: ignore[assignment]  # an import of it fails
    try:
        from moviepy.video.io import ffmpeg_writer
    except OSError as error:  # FFMPEG_BINARY cannot be run
        raise missing_ffmpeg() from error
    finally:
        del sys.modules["dotenv"]
        if dotenv is not None:
            sys.modules["dotenv"] = dotenv
    ffmpeg_writer.FFMPEG_BINARY = program
    return ffmpeg_writer


def missing_ffmpeg() -> BlockvidError:
    """The error for a machine without ffmpeg."""
    return BlockvidError(
        f"ffmpeg is missing. '{REINSTALL}' brings it; or set FFMPEG_BINARY to the path of one that has libx264."
    )


def open_arguments(path: Path, formats: str) -> list[str]:
    """ffmpeg's arguments that open a file, by its content one of these ``formats``, and no other file for its sake.

    A name is never taken for an option, a protocol or a pattern. Playlists, which name other files, are in no list.
    """
    whitelists = ["-protocol_whitelist", "file", "-format_whitelist", formats]
    return [*whitelists, "-i", f"file:{path.absolute()}"]


def run_ffmpeg(arguments: Sequence[str], stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Runs ffmpeg until it ends; the caller checks ``returncode``.

    Raises:
        BlockvidError: there is no ffmpeg.
    """
    command = [binary(), "-hide_banner", "-nostats", "-loglevel", "error", *arguments]
    try:
        return subprocess.run(command, input=stdin, capture_output=True, check=False)
    except OSError as error:
        raise missing_ffmpeg() from error


def write_error(path: Path, stderr: str, returncode: int | None) -> BlockvidError:
    """Says why ffmpeg could not write ``path``; a full disk is a ``PartialError``, because the render can go on.

    Args:
        returncode: negative where a signal ended ffmpeg, such as that of a limit on file sizes.
    """
    if returncode == -getattr(signal, "SIGXFSZ", 0) or "File too large" in stderr:
        return disk_full_error(path, DISK_FULL[errno.EFBIG])
    if any(message in stderr for message in DISK_FULL_MESSAGES):
        return disk_full_error(path)
    if returncode is not None and returncode < 0:
        return BlockvidError(f"ffmpeg could not write {path}: the signal {-returncode} ended it.")
    return BlockvidError(f"ffmpeg could not write {path}: {last_line(stderr)}.")


def last_line(stderr: str) -> str:
    """Returns the last line that is not empty, without its full stop."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    return lines[-1].rstrip(".") if lines else "it gave no reason"


def exact_rate(fps: float) -> Fraction:
    """Frames per second as a fraction that a container can hold: 12.5 -> 25/2, 23.976 -> 2997/125."""
    return Fraction(fps).limit_denominator(1001)


def encode_video(
    frames: Iterable[np.ndarray], path: Path, *, rate: Fraction, size: tuple[int, int], total: int, crf: int
) -> None:
    """Writes the first ``total`` frames (H, W, 3) uint8 as an mp4 that can be played while it grows.

    Args:
        size: width and height in pixels, both even.
        crf: H.264's quality, 0 (lossless) to 51.

    Raises:
        BlockvidError: there are too few frames, or ffmpeg is missing or fails (``PartialError``: the disk is full).
    """
    width, height = size
    count = 0
    with VideoWriter(path, rate, size, crf) as writer:
        for frame in islice(frames, total):
            if frame.shape != (height, width, 3) or frame.dtype != np.uint8:
                raise ValueError(f"a frame is uint8 {(height, width, 3)}, not {frame.dtype} {frame.shape}")
            writer.write(frame)
            count += 1
        if count < total:
            raise BlockvidError(f"the film ends early: there are {count} frames of {total}.")
        writer.finish()


class VideoWriter:
    """moviepy's writer with an exact frame rate, a checked exit status, and no process left behind."""

    def __init__(self, path: Path, rate: Fraction, size: tuple[int, int], crf: int) -> None:
        self.path = path
        writer_type = import_writer().FFMPEG_VideoWriter
        with disk_errors(path):
            self._stderr: IO[str] = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        try:
            self._writer = writer_type(
                str(path.absolute()),
                size,
                float(rate),
                logfile=self._stderr,
                ffmpeg_params=_encoder_options(rate, crf),
            )
        except OSError as error:
            self._stderr.close()
            raise missing_ffmpeg() from error
        self._process = self._writer.proc

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
        with suppress(OSError):  # from what was still in the pipe
            self._process.stdin.close()
        self._process.wait()
        self._stderr.close()

    def write(self, frame: np.ndarray) -> None:
        """Hands one frame to ffmpeg; blocks while ffmpeg is busy."""
        try:
            self._writer.write_frame(frame)
        except OSError as error:
            raise self._error() from error

    def finish(self) -> None:
        """Waits until the file is complete."""
        try:
            self._writer.close()
        except OSError as error:
            raise self._error() from error
        if self._process.returncode != 0:
            raise self._error()

    def _error(self) -> BlockvidError:
        self._stderr.seek(0)
        return write_error(self.path, self._stderr.read(), self._process.wait())


def _encoder_options(rate: Fraction, crf: int) -> list[str]:
    """ffmpeg's options: frame n is shown at exactly n / rate, because moviepy rounds its own rate to 0.01.

    Colours are converted to BT.709 and labelled so, which is what players assume. Without B-frames the time of every
    frame survives copying; fragments make the file playable before it is finished.
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
