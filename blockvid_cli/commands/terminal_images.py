"""Pictures drawn in the terminal itself, in the best way that it is known to understand.

    kitty     kitty, Ghostty            PNG in the its graphics protocol (sw.kovidgoyal.net/kitty/graphics-protocol)
    iterm     iTerm2, WezTerm, mintty   PNG in OSC 1337 (iterm2.com/documentation-images.html)
    sixel     foot, mlterm, contour     64 colours
    blocks    any other with colours    two pixels a character: an upper half block in one colour on another

A terminal is told by the variables that it sets and is never asked, since its answer would have to be waited for on the
keyboard. ``BLOCKVID_GRAPHICS`` (kitty, iterm, sixel, blocks or none) is believed before all of them.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from enum import StrEnum
from io import BytesIO

import numpy as np
from PIL import Image

from blockvid_cli.commands.sixel import sixels
from blockvid_cli.errors import lookup

VARIABLE = "BLOCKVID_GRAPHICS"
PIECE = 4096  # characters of base64 that kitty takes at once
CELL = 10, 20  # pixels of a character that are worth sending; terminals differ, and scale
SIXEL_CELL = 8, 16  # of a small character: sixels are never scaled, and must not come out too large
UPPER_HALF = "▀"
LEVELS = np.array((0, 95, 135, 175, 215, 255))  # of the 6 x 6 x 6 colours, numbered from 16
GREYS = np.arange(8, 248, 10)  # numbered from 232


class Protocol(StrEnum):
    """How a picture is drawn."""

    KITTY = "kitty"
    ITERM = "iterm"
    SIXEL = "sixel"
    BLOCKS = "blocks"  # of 16 million colours
    BLOCKS_256 = "blocks-256"


def protocol(environ: Mapping[str, str], is_tty: bool) -> Protocol | None:
    """How to draw in the terminal that set these variables; None: not at all.

    Nothing is drawn into a file or a pipe, nor where ``NO_COLOR`` is set. In tmux and screen, which swallow pictures,
    it is half blocks.

    Raises:
        UsageError: ``BLOCKVID_GRAPHICS`` names no way to draw.
    """
    if not is_tty:
        return None
    asked = environ.get(VARIABLE, "")
    if asked:
        blocks = _blocks(environ) or Protocol.BLOCKS_256
        ways = {"kitty": Protocol.KITTY, "iterm": Protocol.ITERM, "sixel": Protocol.SIXEL, "blocks": blocks}
        return lookup(VARIABLE, {**ways, "none": None}, asked)
    if environ.get("NO_COLOR"):
        return None
    inside = "TMUX" in environ or "STY" in environ or environ.get("TERM", "").startswith(("tmux", "screen"))
    return (None if inside else _pixels(environ)) or _blocks(environ)


def _pixels(environ: Mapping[str, str]) -> Protocol | None:
    """The protocol for true pixels, if the terminal is known to have one."""
    term, program = environ.get("TERM", ""), environ.get("TERM_PROGRAM", "")
    if term == "dumb":
        return None
    kitty = "KITTY_WINDOW_ID" in environ and not program  # a program started from kitty inherits the variable
    if term in ("xterm-kitty", "xterm-ghostty") or program == "ghostty" or kitty:
        return Protocol.KITTY
    if program in ("iTerm.app", "WezTerm", "mintty"):
        return Protocol.ITERM
    if "sixel" in term or term.split("-")[0] in ("foot", "mlterm", "contour", "yaft"):
        return Protocol.SIXEL
    return None


def _blocks(environ: Mapping[str, str]) -> Protocol | None:
    """Half blocks in as many colours as the terminal says to have."""
    term = environ.get("TERM", "")
    if term == "dumb":
        return None
    if environ.get("COLORTERM") in ("truecolor", "24bit") or "direct" in term or "WT_SESSION" in environ:
        return Protocol.BLOCKS
    coloured = "256" in term or term.split("-")[0] in ("xterm", "tmux", "screen", "rxvt", "alacritty", "foot")
    return Protocol.BLOCKS_256 if coloured else None


def encoded(picture: np.ndarray, way: Protocol, columns: int, rows: int) -> str:
    """What to write so that a picture (H, W, 3) uint8 appears, no larger than ``columns`` x ``rows`` characters.

    The picture keeps its shape, a character counting as twice as high as wide; the cursor ends up below it.
    """
    if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
        raise ValueError(f"a picture is uint8 (H, W, 3), not {picture.dtype} {picture.shape}")
    across, down = fitted(picture, columns, rows)
    if way is Protocol.KITTY:
        return _kitty(_png(_shrunk(picture, across, down, CELL)), across)
    if way is Protocol.ITERM:
        return _iterm(_png(_shrunk(picture, across, down, CELL)), across)
    if way is Protocol.SIXEL:
        return sixels(_shrunk(picture, across, down, SIXEL_CELL)) + "\n"
    cells = np.asarray(Image.fromarray(picture).resize((across, 2 * down), Image.Resampling.BOX))
    return _half_blocks(cells, _sixteen_million if way is Protocol.BLOCKS else _two_hundred)


def fitted(picture: np.ndarray, columns: int, rows: int) -> tuple[int, int]:
    """Columns and rows of characters that a picture (H, W, 3) fills within at most so many."""
    if columns < 1 or rows < 1:
        raise ValueError(f"there is no room in {columns} x {rows} characters")
    height, width = picture.shape[:2]
    across = min(columns, max(1, round(2 * rows * width / height)))
    return across, min(rows, max(1, round(across * height / width / 2)))


def _shrunk(picture: np.ndarray, across: int, down: int, cell: tuple[int, int]) -> np.ndarray:
    """A picture of no more pixels than its characters show, in its own shape; never made larger."""
    height, width = picture.shape[:2]
    scale = min(1.0, across * cell[0] / width, down * cell[1] / height)
    if scale == 1.0:
        return picture
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS))


def _png(picture: np.ndarray) -> bytes:
    held = BytesIO()
    Image.fromarray(picture).save(held, "PNG")
    return held.getvalue()


def _kitty(png: bytes, across: int) -> str:
    """PNG (f=100), shown at once (a=T), ``across`` columns wide; the terminal is not to answer (q=2)."""
    text = base64.b64encode(png).decode("ascii")
    pieces = [text[start : start + PIECE] for start in range(0, len(text), PIECE)]
    out = []
    for number, piece in enumerate(pieces):
        keys = f"a=T,f=100,c={across},q=2," if number == 0 else ""
        more = int(number + 1 < len(pieces))
        out.append(f"\x1b_G{keys}m={more};{piece}\x1b\\")
    return "".join(out) + "\n"


def _iterm(png: bytes, across: int) -> str:
    text = base64.b64encode(png).decode("ascii")
    keys = f"inline=1;size={len(png)};width={across};height=auto;preserveAspectRatio=1"
    return f"\x1b]1337;File={keys}:{text}\x07\n"


def _half_blocks(cells: np.ndarray, colour: Callable[[np.ndarray], list[list[str]]]) -> str:
    """Pixels (2 · rows, columns, 3) as lines of half blocks; a colour is told only where it changes."""
    lines = []
    for upper, lower in zip(colour(cells[0::2]), colour(cells[1::2]), strict=True):
        line, now = [], ("", "")
        for pair in zip(upper, lower, strict=True):
            codes = [f"{ground};{code}" for ground, code, old in zip((38, 48), pair, now, strict=True) if code != old]
            line.append((f"\x1b[{';'.join(codes)}m" if codes else "") + UPPER_HALF)
            now = pair
        lines.append("".join(line) + "\x1b[0m\n")
    return "".join(lines)


def _sixteen_million(pixels: np.ndarray) -> list[list[str]]:
    """Colour codes of pixels (rows, columns, 3)."""
    return [[f"2;{red};{green};{blue}" for red, green, blue in row] for row in pixels.tolist()]


def _two_hundred(pixels: np.ndarray) -> list[list[str]]:
    """Codes of the nearest of xterm's 256 colours: of its cube, or of its greys where one is nearer."""
    wanted = pixels.astype(np.int64)
    steps = np.abs(wanted[..., None] - LEVELS).argmin(-1)
    grey = np.abs(wanted.mean(-1)[..., None] - GREYS).argmin(-1)
    off_cube = ((LEVELS[steps] - wanted) ** 2).sum(-1)
    off_grey = ((GREYS[grey][..., None] - wanted) ** 2).sum(-1)
    codes = np.where(off_grey < off_cube, 232 + grey, 16 + steps @ np.array((36, 6, 1)))
    return [[f"5;{code}" for code in row] for row in codes.tolist()]
