"""Contact sheets: thumbnails in rows, a caption under each, in one PNG."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from blockvid_cli.project.atomic_files import write_atomically

PAPER, INK = (250, 250, 248), (40, 40, 40)
LINES = 2
THUMBNAIL = 320  # pixels; wider films are shrunk to it


class Font(Protocol):
    """What is asked of a font."""

    def getlength(self, text: str) -> float:
        """Width of the text in pixels."""


def contact_sheet(
    frames: Sequence[np.ndarray], labels: Sequence[str], path: Path, columns: int = 5, scale: int = 1
) -> None:
    """Writes the frames (uint8, H x W x 3, all of one size) as a PNG, ``scale`` times as large, row by row.

    Raises:
        BlockvidError: the file cannot be written (``PartialError``: the disk is full).
    """
    if not frames or len(frames) != len(labels):
        raise ValueError(f"a contact sheet needs a label a frame, not {len(labels)} labels for {len(frames)} frames")
    height, width = (side * scale for side in frames[0].shape[:2])
    columns = max(1, min(columns, len(frames)))
    letters = min(18, max(10, width // 16))
    font = ImageFont.load_default(letters)
    margin, line = max(4, letters // 2), letters + 3
    across, down = width + margin, height + LINES * line + margin
    rows = -(-len(frames) // columns)
    sheet = Image.new("RGB", (columns * across + margin, rows * down + margin), PAPER)
    pen = ImageDraw.Draw(sheet)
    for number, (frame, label) in enumerate(zip(frames, labels, strict=True)):
        left, top = margin + number % columns * across, margin + number // columns * down
        picture = Image.fromarray(frame)
        sheet.paste(picture.resize((width, height), Image.Resampling.NEAREST), (left, top))
        for row, text in enumerate(wrap_text(label, font, width)):
            pen.text((left, top + height + 2 + row * line), text, fill=INK, font=font)
    png = BytesIO()
    sheet.save(png, "PNG")
    write_atomically(path, png.getvalue())


def wrap_text(text: str, font: Font, width: float, lines: int = LINES) -> list[str]:
    """Text broken at spaces into at most ``lines`` of ``width`` pixels; an ellipsis is the rest."""
    words, rows = text.split(), []
    while words and len(rows) < lines:
        count = 1
        while count < len(words) and font.getlength(" ".join(words[: count + 1])) <= width:
            count += 1
        rows.append(" ".join(words[:count]))
        words = words[count:]
    if words:
        rows[-1] += "…"
    return [_fitted(row, font, width) for row in rows]


def _fitted(row: str, font: Font, width: float) -> str:
    """A row cut, with an ellipsis, to ``width`` pixels."""
    if font.getlength(row) <= width:
        return row
    kept = row.rstrip("…")
    while kept and font.getlength(f"{kept}…") > width:
        kept = kept[:-1].rstrip()
    return f"{kept}…"


def thumbnail(frame: np.ndarray) -> np.ndarray:
    """A frame (H, W, 3) uint8 no wider than a thumbnail."""
    height, width = frame.shape[:2]
    if width <= THUMBNAIL:
        return frame
    size = THUMBNAIL, round(height * THUMBNAIL / width)
    return np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.LANCZOS))
