"""The one ffmpeg that is used: found through moviepy, its complaints made into sentences."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from blockvid_cli.errors import BlockvidError
from blockvid_cli.project.atomic_files import disk_full_error

MEND = "pip install --force-reinstall imageio-ffmpeg"
NO_ROOM = ("No space left on device", "Disk quota exceeded")


@contextmanager
def same_environment() -> Iterator[None]:
    """Undoes changes to the environment: importing moviepy reads the nearest ``.env`` into it."""
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


def moviepy_module(name: str) -> ModuleType:
    """A module of moviepy, imported when it is first needed because that is slow.

    Raises:
        BlockvidError: moviepy finds no ffmpeg.
    """
    import importlib

    try:
        with same_environment():
            return importlib.import_module(f"moviepy.{name}")
    except (OSError, RuntimeError) as error:  # how moviepy and imageio say that there is no ffmpeg
        raise missing_ffmpeg() from error


def binary() -> str:
    """The ffmpeg that moviepy uses: ``FFMPEG_BINARY`` if set, else the one that comes with imageio-ffmpeg.

    Raises:
        BlockvidError: there is none.
    """
    return moviepy_module("config").FFMPEG_BINARY


def missing_ffmpeg() -> BlockvidError:
    """What is said when there is no ffmpeg."""
    return BlockvidError(
        f"ffmpeg is missing. '{MEND}' brings it; or set FFMPEG_BINARY to the path of one that has libx264."
    )


def run_ffmpeg(arguments: Sequence[str], given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Runs ffmpeg to its end, ``given`` on its standard input; the caller looks at ``returncode``.

    Raises:
        BlockvidError: there is no ffmpeg.
    """
    command = [binary(), "-hide_banner", "-nostats", "-loglevel", "error", *arguments]
    try:
        return subprocess.run(command, input=given, capture_output=True, check=False)
    except OSError as error:
        raise missing_ffmpeg() from error


def failure(path: Path, complaint: str) -> BlockvidError:
    """Why ffmpeg could not write ``path``: a full disk is told apart, being resumable."""
    if any(reason in complaint for reason in NO_ROOM):
        return disk_full_error(path)
    return BlockvidError(f"ffmpeg could not write {path}: {last_line(complaint)}.")


def last_line(complaint: str) -> str:
    """The last line that says something."""
    lines = [line.strip() for line in complaint.splitlines() if line.strip()]
    return lines[-1].rstrip(".") if lines else "it gave no reason"
