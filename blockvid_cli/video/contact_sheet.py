"""Images of a film: contact sheets (thumbnails with captions, a PNG), takes side by side, and animated GIFs."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import IO, Protocol

import numpy as np
from PIL import Image, ImageDraw

from blockvid_cli.project.atomic_files import disk_errors, write_atomically
from blockvid_cli.video.overlays import load_font, with_glyphs

PAPER, INK = (250, 250, 248), (40, 40, 40)
LINES = 2  # of a caption
THUMBNAIL = 320  # pixels; wider frames are shrunk to it
GAP = 4  # pixels between tiles


class TextMeasure(Protocol):
    """The part of a font that breaking text needs."""

    def getlength(self, text: str) -> float:
        """Width of the text in pixels."""


def contact_sheet(
    frames: Sequence[np.ndarray], labels: Sequence[str], path: Path, columns: int = 5, scale: int = 1
) -> None:
    """Writes frames (H, W, 3) uint8 of one size, with a label each, as a PNG, ``scale`` times as large, row by row.

    Raises:
        BlockvidError: the file cannot be written (``PartialError``: the disk is full).
    """
    if not frames or len(frames) != len(labels):
        raise ValueError(f"a contact sheet needs a label a frame, not {len(labels)} labels for {len(frames)} frames")
    height, width = (side * scale for side in frames[0].shape[:2])
    columns = max(1, min(columns, len(frames)))
    pixels = _letter_pixels(width)
    font = load_font(pixels)
    margin, line = max(4, pixels // 2), pixels + 3
    across, down = width + margin, height + LINES * line + margin
    rows = -(-len(frames) // columns)
    sheet = Image.new("RGB", (columns * across + margin, rows * down + margin), PAPER)
    pen = ImageDraw.Draw(sheet)
    for number, (frame, label) in enumerate(zip(frames, labels, strict=True)):
        left, top = margin + number % columns * across, margin + number // columns * down
        picture = Image.fromarray(frame)
        sheet.paste(picture.resize((width, height), Image.Resampling.NEAREST), (left, top))
        for row, text in enumerate(wrap_text(with_glyphs(label, font), font, width)):
            pen.text((left, top + height + 2 + row * line), text, fill=INK, font=font)
    png = BytesIO()
    sheet.save(png, "PNG")
    write_atomically(path, png.getvalue())


def wrap_text(text: str, font: TextMeasure, width: float, lines: int = LINES) -> list[str]:
    """Breaks text at spaces into at most ``lines`` rows of ``width`` pixels; an ellipsis stands for the rest."""
    words, rows = text.split(), []
    while words and len(rows) < lines:
        count = 1
        while count < len(words) and font.getlength(" ".join(words[: count + 1])) <= width:
            count += 1
        rows.append(" ".join(words[:count]))
        words = words[count:]
    if words:
        rows[-1] += "…"
    return [_shorten(row, font, width) for row in rows]


def _shorten(row: str, font: TextMeasure, width: float) -> str:
    """Cuts a row to ``width`` pixels, with an ellipsis."""
    if font.getlength(row) <= width:
        return row
    start = row.rstrip("…")
    while start and font.getlength(f"{start}…") > width:
        start = start[:-1].rstrip()
    return f"{start}…"


def thumbnail(frame: np.ndarray) -> np.ndarray:
    """Returns a frame (H, W, 3) uint8 no wider than a thumbnail."""
    height, width = frame.shape[:2]
    if width <= THUMBNAIL:
        return frame
    size = THUMBNAIL, round(height * THUMBNAIL / width)
    return np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.LANCZOS))


def side_by_side(
    takes: Sequence[Iterable[np.ndarray]], labels: Sequence[str], columns: int | None = None
) -> Iterator[np.ndarray]:
    """Yields frames (H', W', 3) uint8 that show a frame of every take; H' and W' are even, as a film's must be.

    Args:
        takes: frames (H, W, 3) uint8 of each, all of one size, equally many; read together, one at a time.
        labels: the text above each take; cut where it is too long.
        columns: takes in a row; by default as near to a square as possible, at most three in a row.

    Raises:
        ValueError: there is no take, or not a label per take; or, while reading, a take ends early or differs in size.
    """
    if not takes or len(takes) != len(labels):
        raise ValueError(f"every take needs a label, not {len(labels)} labels for {len(takes)} takes")
    across = min(columns or min(3, math.ceil(math.sqrt(len(takes)))), len(takes))
    if across < 1:
        raise ValueError(f"takes cannot stand in {across} columns")
    return _tile(takes, labels, across)


def _tile(takes: Sequence[Iterable[np.ndarray]], labels: Sequence[str], across: int) -> Iterator[np.ndarray]:
    background, corners = np.empty(0, np.uint8), []
    for frames in zip(*takes, strict=True):
        height, width = frames[0].shape[:2]
        if not corners:
            background, corners = _background((height, width), labels, across)
        page = background.copy()
        for frame, (top, left) in zip(frames, corners, strict=True):
            if frame.shape != frames[0].shape:
                raise ValueError(f"takes of different sizes: {frame.shape[:2]} beside {frames[0].shape[:2]}")
            page[top : top + height, left : left + width] = frame
        yield page


def _background(size: tuple[int, int], labels: Sequence[str], across: int) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """Returns the page with its labels and without frames, and the top left corner of each frame."""
    height, width = size
    pixels = _letter_pixels(width)
    font, strip = load_font(pixels), pixels + 6
    down = math.ceil(len(labels) / across)
    sides = across * (width + GAP) - GAP, down * (height + strip)
    page = Image.new("RGB", (sides[0] + sides[0] % 2, sides[1] + sides[1] % 2), PAPER)
    pen = ImageDraw.Draw(page)
    corners = []
    for number, label in enumerate(labels):
        left, top = number % across * (width + GAP), number // across * (height + strip)
        for text in wrap_text(with_glyphs(label, font), font, width - 4, lines=1):
            pen.text((left + 2, top + 2), text, fill=INK, font=font)
        corners.append((top + strip, left))
    return np.asarray(page), corners


def _letter_pixels(width: int) -> int:
    return min(18, max(10, width // 16))


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
