"""Draws into frames: cards before and after the film, transitions between shots, burned subtitles.

    rendered   a a a a a a|b b b b b b        a, b: two shots
    dissolve   a a a a a a|x x x b b b        x: the last a, repeated, gives way to b
    fade       a a a a x x|x x b b b b        x: down to black and up again

No frame comes earlier or later than without them. Frames that do not change are passed on untouched, and no more than
two are held at a time. Text is broken into rows, drawn once, and blended over the frames that show it.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from blockvid_cli.errors import BlockvidError, shorten
from blockvid_cli.storyboard.presentation import Subtitles, TitleCard
from blockvid_cli.video.spec import DEFAULT_SUBTITLES, Transition, VideoSpec, card_frames

CARD_FADE = 0.5  # seconds in which a card appears and disappears
ROWS = 2  # of a subtitle, on screen at once
MIN_PIXELS = 8  # smaller letters cannot be read
CARD_HEIGHT = 0.12  # of letters, as a share of the frame's
SIDE_MARGIN, BOTTOM_MARGIN = 0.05, 0.06  # shares of the frame that stay free, because some screens cut them off
INK, EDGE = "white", "black"
NOT_A_CHARACTER = "\U0010ffff"  # every font shows its box for it
SIMILAR = {"Pd": "-", "Zs": " ", "Pi": '"', "Pf": '"', "Mn": "", "Cf": ""}  # by Unicode category

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True)
class Page:
    """Rows of a subtitle, and the frames that show them: from ``first`` to one before ``end``."""

    first: int
    end: int
    rows: tuple[str, ...]


@dataclass(frozen=True)
class Layer:
    """Pixels over a frame from row ``top`` on: colours (h, W, 3) 0..255 and opacity (h, W, 1) 0..1."""

    top: int
    colour: np.ndarray
    opacity: np.ndarray

    def over(self, frame: np.ndarray) -> np.ndarray:
        """Returns a copy of a frame (H, W, 3) uint8 with the layer over it."""
        result = frame.copy()
        region = result[self.top : self.top + len(self.colour)]
        region[:] = np.rint(region + (self.colour - region) * self.opacity)
        return result


def apply_overlays(frames: Iterable[np.ndarray], spec: VideoSpec) -> Iterator[np.ndarray]:
    """Yields the film's frames (H, W, 3) uint8, made from the ``spec.frames`` rendered ones.

    Raises:
        BlockvidError: the font cannot be read, or a card has too much text.
    """
    yield from _card_frames(spec.title_card, spec)
    shots = apply_transitions(islice(frames, spec.frames), spec.transitions)
    yield from burn_subtitles(shots, spec) if spec.subtitles.show == "burned" else shots
    yield from _card_frames(spec.end_card, spec)


def check_text(spec: VideoSpec) -> None:
    """Makes sure that the text of a spec can be drawn.

    Raises:
        BlockvidError: the font cannot be read, or a card has too much text.
    """
    load_font(MIN_PIXELS, spec.font)
    for card in (spec.title_card, spec.end_card):
        if card:
            card_image(card, spec.size, spec.font)


def apply_transitions(frames: Iterable[np.ndarray], transitions: Sequence[Transition]) -> Iterator[np.ndarray]:
    """Yields the same frames, blended around each transition."""
    dissolves = {each.frame: each for each in transitions if each.kind == "dissolve"}
    fades = [each for each in transitions if each.kind == "fade"]
    previous = last_of_shot = dissolve = None
    for number, frame in enumerate(frames):
        if number in dissolves and previous is not None:
            last_of_shot, dissolve = previous, dissolves[number]
        result = frame
        if dissolve and last_of_shot is not None and number < dissolve.frame + dissolve.frames:
            result = _blend(last_of_shot, frame, (number + 0.5 - dissolve.frame) / dissolve.frames)
        light = min((abs(number + 0.5 - each.frame) * 2 / each.frames for each in fades), default=1.0)
        previous = frame
        yield result if light >= 1 else _blend(np.zeros_like(frame), result, light)


def burn_subtitles(frames: Iterable[np.ndarray], spec: VideoSpec) -> Iterator[np.ndarray]:
    """Yields the same frames with subtitles drawn in; long ones are shown page after page."""
    pages = _timed_pages(spec)
    page = next(pages, None)
    layer = None
    for number, frame in enumerate(frames):
        while page and page.end <= number:
            page, layer = next(pages, None), None
        if page and page.first <= number:
            layer = layer or subtitle_layer(page.rows, spec.size, spec.font, spec.subtitles)
            yield layer.over(frame)
        else:
            yield frame


def _timed_pages(spec: VideoSpec) -> Iterator[Page]:
    """Yields the pages in order; those of a chapter share its time equally."""
    for chapter in spec.chapters:
        parts = subtitle_pages(chapter.subtitle_text, spec.size, spec.font, spec.subtitles)
        first, end = round(chapter.start * spec.rate), round(chapter.end * spec.rate)
        for number, rows in enumerate(parts):
            begin, until = (first + (end - first) * n // len(parts) for n in (number, number + 1))
            yield Page(begin, until, rows)


def _card_frames(card: TitleCard | None, spec: VideoSpec) -> Iterator[np.ndarray]:
    """Yields the frames of a card, which fades in from black and out to it."""
    if card is None:
        return
    image = card_image(card, spec.size, spec.font)
    count = card_frames(card, spec.rate)
    fade = max(1.0, min(CARD_FADE * float(spec.rate), count / 3))
    for number in range(count):
        light = min(1.0, (number + 0.5) / fade, (count - number - 0.5) / fade)
        yield _blend(np.zeros_like(image), image, light)


def _blend(old: np.ndarray, new: np.ndarray, share: float) -> np.ndarray:
    """Two frames (H, W, 3) uint8, mixed with ``share`` of the new one."""
    return np.rint(old * np.float32(1 - share) + new * np.float32(share)).astype(np.uint8)


# ---- text ------------------------------------------------------------------------------------------------


@lru_cache(maxsize=64)
def load_font(pixels: int, file: Path | None = None) -> Font:
    """Loads a font of this many pixels: from a file, or else DejaVu Sans, which comes with matplotlib.

    Raises:
        BlockvidError: the file is no font.
    """
    try:
        return ImageFont.truetype(str(file or matplotlib_data() / "fonts" / "ttf" / "DejaVuSans.ttf"), pixels)
    except OSError as error:
        if file is None:
            return ImageFont.load_default(pixels)
        raise BlockvidError(f"the font {file} cannot be read; name a .ttf or .otf file.") from error


def with_glyphs(text: str, font: Font) -> str:
    """Returns the text with each character that the font lacks replaced by the most similar one it has, or "?"."""
    return "".join(char if char.isspace() or _has_glyph(font, char) else _similar(char, font) for char in text)


def _similar(char: str, font: Font) -> str:
    plain = "".join(part for part in unicodedata.normalize("NFKD", char) if not unicodedata.combining(part))
    if plain and plain != char and all(_has_glyph(font, part) for part in plain):
        return plain
    return SIMILAR.get(unicodedata.category(char), "?")


@lru_cache(maxsize=4096)
def _has_glyph(font: Font, char: str) -> bool:
    """Whether the font shows the character and not the box for what it lacks."""
    glyph, box = font.getmask(char), font.getmask(NOT_A_CHARACTER)
    return glyph.size != box.size or bytes(glyph) != bytes(box)


def subtitle_pages(
    text: str, size: tuple[int, int], file: Path | None = None, style: Subtitles = DEFAULT_SUBTITLES
) -> list[tuple[str, ...]]:
    """Breaks a subtitle into rows that fit a frame of ``size`` (width, height), and these into pages of ``ROWS``."""
    font = load_font(_letter_pixels(size, style.size / 100), file)
    rows = break_lines(with_glyphs(text, font), font, size[0] * (1 - 2 * SIDE_MARGIN))
    return [tuple(rows[first : first + ROWS]) for first in range(0, len(rows), ROWS)]


def subtitle_layer(
    rows: Sequence[str], size: tuple[int, int], file: Path | None = None, style: Subtitles = DEFAULT_SUBTITLES
) -> Layer:
    """Draws rows of text with a dark edge, at the style's place in a frame."""
    pixels = _letter_pixels(size, style.size / 100)
    edge, font = max(1, pixels // 12), load_font(pixels, file)
    highest, lowest = (
        size[1] * BOTTOM_MARGIN + len(rows) * _row_height(font) + edge,
        size[1] * (1 - BOTTOM_MARGIN) - edge,
    )
    bottom = {"top": highest, "middle": (highest + lowest) / 2, "bottom": lowest}[style.place]
    image = Image.new("RGBA", size, (0, 0, 0, 0))
    _draw_rows(image, rows, font, bottom, INK, edge)
    box = image.getbbox()
    top, bottom = (box[1], box[3]) if box else (0, 1)
    pixels_rgba = np.asarray(image, np.float32)[top:bottom]
    return Layer(top, pixels_rgba[..., :3], pixels_rgba[..., 3:] / 255)


def card_image(card: TitleCard, size: tuple[int, int], file: Path | None = None) -> np.ndarray:
    """Draws a card (H, W, 3) uint8, its text in the middle, as large as it fits.

    Raises:
        BlockvidError: the text does not fit, or ``file`` is no font.
    """
    width, height = size
    for pixels in range(_letter_pixels(size, CARD_HEIGHT), MIN_PIXELS - 1, -1):
        font = load_font(pixels, file)
        rows = break_lines(with_glyphs(card.text, font), font, width * (1 - 2 * SIDE_MARGIN))
        text_height = len(rows) * _row_height(font)
        if text_height <= height * (1 - 2 * BOTTOM_MARGIN):
            image = Image.new("RGB", size, card.background)
            _draw_rows(image, rows, font, (height + text_height) / 2, card.colour)
            return np.asarray(image)
    raise BlockvidError(f"the card '{shorten(card.text)}' has too many words for {width}x{height} pixels; write fewer.")


def break_lines(text: str, font: Font, width: float) -> list[str]:
    """Breaks text into rows of at most ``width`` pixels: at line breaks, at spaces, and within words if need be."""
    rows = []
    for line in text.splitlines():
        row = ""
        for word in line.split():
            longer = f"{row} {word}".strip()
            if font.getlength(longer) <= width:
                row = longer
                continue
            rows += [row] if row else []
            row = word
            while font.getlength(row) > width and len(row) > 1:
                fits = max(n for n in range(1, len(row)) if n == 1 or font.getlength(row[:n]) <= width)
                rows, row = [*rows, row[:fits]], row[fits:]
        rows.append(row)
    return rows


def _draw_rows(image: Image.Image, rows: Sequence[str], font: Font, bottom: float, colour: str, edge: int = 0) -> None:
    """Draws rows of text in the middle of an image's width, the last one ending at ``bottom``."""
    pen = ImageDraw.Draw(image)
    for number, row in enumerate(reversed(rows), start=1):
        left = (image.width - font.getlength(row)) / 2
        top = bottom - number * _row_height(font)
        pen.text((round(left), round(top)), row, fill=colour, font=font, stroke_width=edge, stroke_fill=EDGE)


def _row_height(font: Font) -> int:
    """Height of a row in pixels."""
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise TypeError("a bitmap font has no metrics")
    return sum(font.getmetrics())


def _letter_pixels(size: tuple[int, int], share: float) -> int:
    return max(10, round(size[1] * share))


def matplotlib_data() -> Path:
    """The folder of matplotlib's fonts and settings; matplotlib is not imported for that."""
    spec = find_spec("matplotlib")
    return (Path(spec.origin).parent if spec and spec.origin else Path()) / "mpl-data"
