"""Encodes images for display in a terminal, in the best protocol that the terminal is known to understand.

    kitty     kitty, Ghostty            PNG in kitty's graphics protocol (sw.kovidgoyal.net/kitty/graphics-protocol)
    iterm     iTerm2, WezTerm, mintty   PNG in OSC 1337 (iterm2.com/documentation-images.html)
    sixel     foot, mlterm, contour     64 colours
    blocks    any other with colours    two pixels a character: an upper half block in one colour on another

A terminal is recognised by the environment variables that it sets; it is never queried, since its answer would arrive
as keyboard input. ``BLOCKVID_GRAPHICS`` (kitty, iterm, sixel, blocks or none) overrides all of them.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from enum import StrEnum
from io import BytesIO

import numpy as np
from PIL import Image

from blockvid_cli.errors import lookup

VARIABLE = "BLOCKVID_GRAPHICS"
CHUNK = 4096  # characters of base64 that kitty takes at once
CELL = 10, 20  # pixels of a character that are worth sending; terminals differ, and scale
SIXEL_CELL = 8, 16  # of a small character: sixels are never scaled, and must not come out too large
UPPER_HALF = "▀"
LEVELS = np.array((0, 95, 135, 175, 215, 255))  # of the 6 x 6 x 6 colours, numbered from 16
GREYS = np.arange(8, 248, 10)  # numbered from 232
SIXEL_ROWS = 6  # pixels of a sixel band
SIXEL_COLOURS = 64
SIXEL_EMPTY = 63  # the character code of no pixels


class GraphicsProtocol(StrEnum):
    """How an image is sent to a terminal."""

    KITTY = "kitty"
    ITERM = "iterm"
    SIXEL = "sixel"
    BLOCKS = "blocks"  # of 16 million colours
    BLOCKS_256 = "blocks-256"


def choose_protocol(environ: Mapping[str, str], is_tty: bool) -> GraphicsProtocol | None:
    """Returns the protocol of the terminal that set these variables; None where no image is to be shown.

    That is so for a file or a pipe, and where ``NO_COLOR`` is set. In tmux and screen, which swallow images, it is half
    blocks.

    Raises:
        UsageError: ``BLOCKVID_GRAPHICS`` names no protocol.
    """
    if not is_tty:
        return None
    override = environ.get(VARIABLE, "")
    if override:
        blocks = _blocks(environ) or GraphicsProtocol.BLOCKS_256
        pixels = {p.value: p for p in (GraphicsProtocol.KITTY, GraphicsProtocol.ITERM, GraphicsProtocol.SIXEL)}
        return lookup(VARIABLE, {**pixels, "blocks": blocks, "none": None}, override)
    if environ.get("NO_COLOR"):
        return None
    inside = "TMUX" in environ or "STY" in environ or environ.get("TERM", "").startswith(("tmux", "screen"))
    return (None if inside else _pixels(environ)) or _blocks(environ)


def _pixels(environ: Mapping[str, str]) -> GraphicsProtocol | None:
    """The protocol for true pixels, if the terminal is known to have one."""
    term, program = environ.get("TERM", ""), environ.get("TERM_PROGRAM", "")
    if term == "dumb":
        return None
    kitty = "KITTY_WINDOW_ID" in environ and not program  # a program started from kitty inherits the variable
    if term in ("xterm-kitty", "xterm-ghostty") or program == "ghostty" or kitty:
        return GraphicsProtocol.KITTY
    if program in ("iTerm.app", "WezTerm", "mintty"):
        return GraphicsProtocol.ITERM
    if "sixel" in term or term.split("-")[0] in ("foot", "mlterm", "contour", "yaft"):
        return GraphicsProtocol.SIXEL
    return None


def _blocks(environ: Mapping[str, str]) -> GraphicsProtocol | None:
    """Half blocks in as many colours as the terminal says to have."""
    term = environ.get("TERM", "")
    if term == "dumb":
        return None
    if environ.get("COLORTERM") in ("truecolor", "24bit") or "direct" in term or "WT_SESSION" in environ:
        return GraphicsProtocol.BLOCKS
    coloured = "256" in term or term.split("-")[0] in ("xterm", "tmux", "screen", "rxvt", "alacritty", "foot")
    return GraphicsProtocol.BLOCKS_256 if coloured else None


def encode_image(image: np.ndarray, protocol: GraphicsProtocol, columns: int, rows: int) -> str:
    """Returns the text that shows an image (H, W, 3) uint8, no larger than ``columns`` x ``rows`` characters.

    The image keeps its aspect ratio, with characters twice as high as wide; the cursor ends up below it.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"an image is uint8 (H, W, 3), not {image.dtype} {image.shape}")
    across, down = fit(image, columns, rows)
    if protocol is GraphicsProtocol.KITTY:
        return _kitty(_png(_shrink(image, across, down, CELL)), across)
    if protocol is GraphicsProtocol.ITERM:
        return _iterm(_png(_shrink(image, across, down, CELL)), across)
    if protocol is GraphicsProtocol.SIXEL:
        return sixels(_shrink(image, across, down, SIXEL_CELL)) + "\n"
    cells = np.asarray(Image.fromarray(image).resize((across, 2 * down), Image.Resampling.BOX))
    return _half_blocks(cells, _true_colour if protocol is GraphicsProtocol.BLOCKS else _xterm_256)


def fit(image: np.ndarray, columns: int, rows: int) -> tuple[int, int]:
    """Returns the columns and rows of characters that an image (H, W, 3) fills, within the given ones."""
    if columns < 1 or rows < 1:
        raise ValueError(f"there is no room in {columns} x {rows} characters")
    height, width = image.shape[:2]
    across = min(columns, max(1, round(2 * rows * width / height)))
    return across, min(rows, max(1, round(across * height / width / 2)))


def _shrink(image: np.ndarray, across: int, down: int, cell: tuple[int, int]) -> np.ndarray:
    """Shrinks an image to the pixels that its characters show; never enlarges it."""
    height, width = image.shape[:2]
    scale = min(1.0, across * cell[0] / width, down * cell[1] / height)
    if scale == 1.0:
        return image
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))


def _png(image: np.ndarray) -> bytes:
    buffer = BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def _kitty(png: bytes, across: int) -> str:
    """PNG (f=100), shown at once (a=T), ``across`` columns wide; the terminal sends no reply (q=2)."""
    text = base64.b64encode(png).decode("ascii")
    chunks = [text[start : start + CHUNK] for start in range(0, len(text), CHUNK)]
    out = []
    for number, chunk in enumerate(chunks):
        keys = f"a=T,f=100,c={across},q=2," if number == 0 else ""
        more = int(number + 1 < len(chunks))
        out.append(f"\x1b_G{keys}m={more};{chunk}\x1b\\")
    return "".join(out) + "\n"


def _iterm(png: bytes, across: int) -> str:
    text = base64.b64encode(png).decode("ascii")
    keys = f"inline=1;size={len(png)};width={across};height=auto;preserveAspectRatio=1"
    return f"\x1b]1337;File={keys}:{text}\x07\n"


def _half_blocks(cells: np.ndarray, colour: Callable[[np.ndarray], list[list[str]]]) -> str:
    """Pixels (2 · rows, columns, 3) as lines of half blocks; a colour is written only where it changes."""
    lines = []
    for upper, lower in zip(colour(cells[0::2]), colour(cells[1::2]), strict=True):
        line, current = [], ("", "")
        for pair in zip(upper, lower, strict=True):
            codes = [
                f"{ground};{code}" for ground, code, old in zip((38, 48), pair, current, strict=True) if code != old
            ]
            line.append((f"\x1b[{';'.join(codes)}m" if codes else "") + UPPER_HALF)
            current = pair
        lines.append("".join(line) + "\x1b[0m\n")
    return "".join(lines)


def _true_colour(pixels: np.ndarray) -> list[list[str]]:
    """Colour codes of pixels (rows, columns, 3)."""
    return [[f"2;{red};{green};{blue}" for red, green, blue in row] for row in pixels.tolist()]


def _xterm_256(pixels: np.ndarray) -> list[list[str]]:
    """Codes of the nearest of xterm's 256 colours: of its cube, or of its greys where one is nearer."""
    colours = pixels.astype(np.int64)
    steps = np.abs(colours[..., None] - LEVELS).argmin(-1)
    grey = np.abs(colours.mean(-1)[..., None] - GREYS).argmin(-1)
    off_cube = ((LEVELS[steps] - colours) ** 2).sum(-1)
    off_grey = ((GREYS[grey][..., None] - colours) ** 2).sum(-1)
    codes = np.where(off_grey < off_cube, 232 + grey, 16 + steps @ np.array((36, 6, 1)))
    return [[f"5;{code}" for code in row] for row in codes.tolist()]


def sixels(image: np.ndarray, colours: int = SIXEL_COLOURS) -> str:
    """Returns an image (H, W, 3) uint8 as sixels: bands six pixels high, a colour at a time.

        ESC P 0;1;0 q  "1;1;W;H   #0;2;r;g;b ...   #0 <columns> $ #1 <columns> $ ... -   <next band> ...   ESC \\

    A character's six bits are six pixels of one column, the lowest bit on top; ``!n`` repeats the next character, ``$``
    returns to the band's left edge for another colour, ``-`` begins the next band. Colours are in percent (DEC STD
    070).
    """
    height, width = image.shape[:2]
    few = Image.fromarray(image).quantize(colours, Image.Quantize.MEDIANCUT, dither=Image.Dither.FLOYDSTEINBERG)
    chosen = np.asarray(few)
    palette = np.asarray(few.getpalette("RGB"), dtype=np.float64).reshape(-1, 3)
    out = [f'\x1bP0;1;0q"1;1;{width};{height}']
    for number in np.unique(chosen):
        red, green, blue = np.rint(palette[number] * (100 / 255)).astype(int)
        out.append(f"#{number};2;{red};{green};{blue}")
    for top in range(0, height, SIXEL_ROWS):
        out += ["$".join(_coloured(chosen[top : top + SIXEL_ROWS])), "-"]
    return "".join([*out[:-1], "\x1b\\"])


def _coloured(band: np.ndarray) -> list[str]:
    """A band (up to 6, W) of colour numbers, drawn a colour at a time."""
    worth = (1 << np.arange(len(band)))[:, None]
    return [f"#{number}{_run_lengths((band == number) * worth)}" for number in np.unique(band)]


def _run_lengths(bits: np.ndarray) -> str:
    """Columns of bits (up to 6, W) as characters, runs of four and more shortened, the empty end left away."""
    columns = bits.sum(0)
    starts = np.flatnonzero(np.diff(columns, prepend=-1))
    lengths = np.diff(starts, append=len(columns))
    letters = [chr(SIXEL_EMPTY + int(columns[start])) for start in starts]
    runs = list(zip(letters, lengths.tolist(), strict=True))
    if runs[-1][0] == chr(SIXEL_EMPTY):
        runs.pop()
    return "".join(f"!{length}{letter}" if length > 3 else letter * length for letter, length in runs)
