"""Words in pictures: broken into rows, drawn once into a layer, laid over as many frames as they are read on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from blockvid_cli.errors import BlockvidError
from blockvid_cli.storyboard.seconds import shorten

ROWS = 2  # of a subtitle, on screen at once
SMALLEST = 8  # pixels; smaller letters cannot be read
SUBTITLE, CARD = 0.06, 0.12  # letters' height as a share of the picture's
SIDE, BOTTOM = 0.05, 0.06  # shares of the picture that stay free, as some screens cut them off
INK, EDGE = "white", "black"


@dataclass(frozen=True)
class Layer:
    """Rows of pixels over a picture from row ``top`` on: colours (h, W, 3) 0..255 and opacity (h, W, 1) 0..1."""

    top: int
    colour: np.ndarray
    opacity: np.ndarray

    def over(self, frame: np.ndarray) -> np.ndarray:
        """A copy of a frame (H, W, 3) uint8 with the layer over it."""
        shown = frame.copy()
        place = shown[self.top : self.top + len(self.colour)]
        place[:] = np.rint(place + (self.colour - place) * self.opacity)
        return shown


@lru_cache(maxsize=64)
def letters(pixels: int, file: Path | None = None) -> ImageFont.FreeTypeFont:
    """A font of so many pixels: from a file, else DejaVu Sans, which matplotlib brings.

    Raises:
        BlockvidError: the file is no font.
    """
    try:
        return ImageFont.truetype(str(file or _usual()), pixels)
    except OSError as error:
        if file is None:
            return ImageFont.load_default(pixels)
        raise BlockvidError(f"the font {file} cannot be read; name a .ttf or .otf file.") from error


def pages(text: str, size: tuple[int, int], file: Path | None = None) -> list[tuple[str, ...]]:
    """A subtitle in rows that fit a picture of ``size`` (width, height), ``ROWS`` at a time."""
    rows = broken(text, letters(_pixels(size, SUBTITLE), file), size[0] * (1 - 2 * SIDE))
    return [tuple(rows[first : first + ROWS]) for first in range(0, len(rows), ROWS)]


def subtitle(rows: tuple[str, ...], size: tuple[int, int], file: Path | None = None) -> Layer:
    """Rows of words with a dark edge, at the bottom of a picture."""
    pixels = _pixels(size, SUBTITLE)
    image = Image.new("RGBA", size, (0, 0, 0, 0))
    below = size[1] * (1 - BOTTOM) - max(1, pixels // 12)
    _draw(image, rows, letters(pixels, file), below, INK, edge=max(1, pixels // 12))
    top, bottom = image.getbbox()[1::2] if image.getbbox() else (0, 1)
    drawn = np.asarray(image, np.float32)[top:bottom]
    return Layer(top, drawn[..., :3], drawn[..., 3:] / 255)


def still(text: str, size: tuple[int, int], colour: str, background: str, file: Path | None = None) -> np.ndarray:
    """A picture (H, W, 3) uint8 with words in its middle, as large as they fit.

    Raises:
        BlockvidError: they do not fit, or ``file`` is no font.
    """
    width, height = size
    for pixels in range(_pixels(size, CARD), SMALLEST - 1, -1):
        font = letters(pixels, file)
        rows = broken(text, font, width * (1 - 2 * SIDE))
        tall = len(rows) * _row(font)
        if tall <= height * (1 - 2 * BOTTOM):
            image = Image.new("RGB", size, background)
            _draw(image, rows, font, (height + tall) / 2, colour)
            return np.asarray(image)
    raise BlockvidError(f"the card '{shorten(text)}' has too many words for {width}x{height} pixels; write fewer.")


def broken(text: str, font: ImageFont.FreeTypeFont, width: float) -> list[str]:
    """Text in rows of at most ``width`` pixels: at its line breaks, at spaces, and within words only if it must be."""
    rows = []
    for line in text.splitlines():
        row = ""
        for word in line.split():
            joined = f"{row} {word}".strip()
            if font.getlength(joined) <= width:
                row = joined
                continue
            rows += [row] if row else []
            row = word
            while font.getlength(row) > width and len(row) > 1:
                fits = max(n for n in range(1, len(row)) if n == 1 or font.getlength(row[:n]) <= width)
                rows, row = [*rows, row[:fits]], row[fits:]
        rows.append(row)
    return rows


def _draw(
    image: Image.Image,
    rows: tuple[str, ...] | list[str],
    font: ImageFont.FreeTypeFont,
    bottom: float,
    colour: str,
    edge: int = 0,
) -> None:
    """Draws rows of words in the middle of a picture's width, the last one ending at ``bottom``."""
    pen = ImageDraw.Draw(image)
    for number, row in enumerate(reversed(rows), start=1):
        left = (image.width - font.getlength(row)) / 2
        top = bottom - number * _row(font)
        pen.text((round(left), round(top)), row, fill=colour, font=font, stroke_width=edge, stroke_fill=EDGE)


def _row(font: ImageFont.FreeTypeFont) -> int:
    """Height of a row in pixels."""
    return sum(font.getmetrics())


def _pixels(size: tuple[int, int], share: float) -> int:
    return max(10, round(size[1] * share))


def _usual() -> Path:
    """DejaVu Sans, wherever matplotlib lies; it is not imported for that."""
    found = find_spec("matplotlib")
    home = Path(found.origin).parent if found and found.origin else Path()
    return home / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
