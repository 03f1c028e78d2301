"""An animated GIF in 255 colours that are chosen over all frames.

    frames -> shrunk, laid down in a scratch file, a few pixels of each kept -> one palette -> frames in its colours

One palette keeps still parts still, where a palette a frame would shimmer; the 256th colour says "as before". Memory
holds a byte a pixel (a minute of 480 x 270 at 12 frames a second: 90 MB), which is Pillow's way to write a GIF.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image

from blockvid_cli.project.atomic_files import write_atomically, disk_errors

WIDTH = 480  # pixels; wider films are shrunk to it
FASTEST = 50.0  # frames a second; browsers slow down what claims to be faster
SAMPLED = 7  # one pixel in so many, each way, has a say in the palette


def write_gif(frames: Iterable[np.ndarray], path: Path, fps: float, width: int = WIDTH) -> int:
    """Writes frames (uint8, H x W x 3, all of one size) as a GIF that goes round for ever; returns how many.

    Above 50 frames a second only some of them are kept, at the speed of all. A GIF counts time in
    hundredths of a second; they are shared out so that the film's length is right.

    Raises:
        ValueError: there are no frames, or no frames a second.
        BlockvidError: the file cannot be written (``PartialError``: the disk is full).
    """
    if not fps > 0:
        raise ValueError(f"a film has frames a second, not {fps}")
    stride = max(1, -int(-fps // FASTEST))
    kept = (frame for number, frame in enumerate(frames) if number % stride == 0)
    with disk_errors(path), tempfile.TemporaryFile() as scratch:
        size, count, palette = _laid_down(kept, scratch, width)
        scratch.seek(0)
        pictures = _read_back(scratch, size, count, palette)
        held = BytesIO()
        next(pictures).save(
            held, "GIF", save_all=True, append_images=pictures, duration=_durations(count, fps / stride), loop=0
        )
    write_atomically(path, held.getvalue())
    return count


def _durations(count: int, fps: float) -> list[int]:
    """Milliseconds of each frame, whole hundredths of a second that never drift from the film's time."""
    ends = [round(100 * number / fps) for number in range(count + 1)]
    return [10 * (end - start) for start, end in pairwise(ends)]


def _laid_down(
    frames: Iterable[np.ndarray], scratch: IO[bytes], width: int
) -> tuple[tuple[int, int], int, Image.Image]:
    """Shrinks frames into a file; their size, their number, and a picture with the palette of them all."""
    size, seen = None, []
    for frame in frames:
        picture = Image.fromarray(frame)
        if size is None:
            scale = min(1.0, width / picture.width)
            size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
        if picture.size != size:
            picture = picture.resize(size, Image.Resampling.LANCZOS)
        pixels = np.asarray(picture)
        scratch.write(pixels.tobytes())
        seen.append(pixels[len(seen) % SAMPLED :: SAMPLED, ::SAMPLED].reshape(-1, 3))
    if size is None:
        raise ValueError("a GIF needs at least one frame")
    sampled = Image.fromarray(np.concatenate(seen)[None])
    return size, len(seen), sampled.quantize(255, Image.Quantize.MEDIANCUT)


def _read_back(scratch: IO[bytes], size: tuple[int, int], count: int, palette: Image.Image) -> Iterator[Image.Image]:
    """The frames again, in the palette's colours; without dither, whose grain would crawl."""
    for _ in range(count):
        picture = Image.frombytes("RGB", size, scratch.read(3 * size[0] * size[1]))
        yield picture.quantize(palette=palette, dither=Image.Dither.NONE)
