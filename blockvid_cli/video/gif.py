"""Writes an animated GIF in 255 colours that are chosen over all frames.

    frames -> shrunk, written to a temporary file, some pixels of each sampled -> one palette -> frames in its colours

One palette keeps still parts still, where a palette per frame would shimmer; the 256th colour says "as before". Memory
holds a byte per pixel (a minute of 480 x 270 at 12 frames per second: 90 MB), which is how Pillow writes a GIF.
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

from blockvid_cli.project.atomic_files import disk_errors, write_atomically

WIDTH = 480  # pixels; wider films are shrunk to it
MAX_FPS = 50.0  # browsers slow down what claims to be faster
SAMPLE_STRIDE = 7  # every n-th pixel, in both directions, takes part in choosing the palette


def write_gif(frames: Iterable[np.ndarray], path: Path, fps: float, width: int = WIDTH) -> int:
    """Writes frames (H, W, 3) uint8 of one size as a GIF that loops for ever; returns how many it holds.

    Above 50 frames per second only some of them are used, at the same speed. A GIF counts time in hundredths of a
    second; these are distributed so that the total length is right.

    Raises:
        ValueError: there are no frames, or ``fps`` is not positive.
        BlockvidError: the file cannot be written (``PartialError``: the disk is full).
    """
    if not fps > 0:
        raise ValueError(f"a film has frames a second, not {fps}")
    stride = max(1, -int(-fps // MAX_FPS))
    used = (frame for number, frame in enumerate(frames) if number % stride == 0)
    with disk_errors(path), tempfile.TemporaryFile() as scratch:
        size, count, palette = _write_scratch(used, scratch, width)
        scratch.seek(0)
        images = _read_scratch(scratch, size, count, palette)
        gif = BytesIO()
        next(images).save(
            gif, "GIF", save_all=True, append_images=images, duration=_durations(count, fps / stride), loop=0
        )
    write_atomically(path, gif.getvalue())
    return count


def _durations(count: int, fps: float) -> list[int]:
    """Milliseconds of each frame, in whole hundredths of a second that never drift from the film's time."""
    ends = [round(100 * number / fps) for number in range(count + 1)]
    return [10 * (end - start) for start, end in pairwise(ends)]


def _write_scratch(
    frames: Iterable[np.ndarray], scratch: IO[bytes], width: int
) -> tuple[tuple[int, int], int, Image.Image]:
    """Shrinks frames into a file; returns their size, their number, and an image with the palette of them all."""
    size, samples = None, []
    for frame in frames:
        image = Image.fromarray(frame)
        if size is None:
            scale = min(1.0, width / image.width)
            size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
        if image.size != size:
            image = image.resize(size, Image.Resampling.LANCZOS)
        pixels = np.asarray(image)
        scratch.write(pixels.tobytes())
        samples.append(pixels[len(samples) % SAMPLE_STRIDE :: SAMPLE_STRIDE, ::SAMPLE_STRIDE].reshape(-1, 3))
    if size is None:
        raise ValueError("a GIF needs at least one frame")
    sampled = Image.fromarray(np.concatenate(samples)[None])
    return size, len(samples), sampled.quantize(255, Image.Quantize.MEDIANCUT)


def _read_scratch(scratch: IO[bytes], size: tuple[int, int], count: int, palette: Image.Image) -> Iterator[Image.Image]:
    """Yields the frames in the palette's colours; without dither, whose grain would crawl."""
    for _ in range(count):
        image = Image.frombytes("RGB", size, scratch.read(3 * size[0] * size[1]))
        yield image.quantize(palette=palette, dither=Image.Dither.NONE)
