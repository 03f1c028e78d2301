"""Pictures that were encoded, read back one at a time."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from blockvid_cli.errors import BlockvidError
from blockvid_cli.video.ffmpeg import binary, last_line, missing_ffmpeg

RGB = "scale=in_color_matrix=bt709:in_range=tv,format=rgb24"


def read_frames(path: Path, size: tuple[int, int]) -> Iterator[np.ndarray]:
    """Frames (H, W, 3) uint8 of a file that ``encode`` wrote; ffmpeg ends with the iterator.

    Raises:
        BlockvidError: the file is missing or damaged, or there is no ffmpeg.
    """
    width, height = size
    arguments = ["-i", str(path.absolute()), "-map", "0:v:0", "-vf", RGB, "-fps_mode", "passthrough"]
    command = [binary(), "-hide_banner", "-nostats", "-loglevel", "error", *arguments, "-f", "rawvideo", "pipe:1"]
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as complaints:
        try:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=complaints)
        except OSError as error:
            raise missing_ffmpeg() from error
        try:
            while len(raw := process.stdout.read(width * height * 3)) == width * height * 3:
                yield np.frombuffer(raw, np.uint8).reshape(height, width, 3)
            failed = process.wait() != 0
        finally:
            process.kill()
            process.stdout.close()
            process.wait()
        if failed:
            complaints.seek(0)
            raise BlockvidError(f"the pictures in {path} cannot be read: {last_line(complaints.read())}.")
