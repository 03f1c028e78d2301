"""A picture as sixels, the oldest way to draw in a terminal: bands six pixels high, a colour at a time.

    ESC P 0;1;0 q  "1;1;W;H   #0;2;r;g;b ...   #0 <columns> $ #1 <columns> $ ... -   <next band> ...   ESC \\

A character's six bits are six pixels of one column, the lowest bit on top; ``!n`` repeats the next character, ``$``
goes back to the band's left edge for another colour, ``-`` on to the next band. Colours are in percent (DEC STD 070).
"""

from __future__ import annotations

import numpy as np
from PIL import Image

BAND = 6  # pixels
COLOURS = 64
FIRST = 63  # the character of no pixels


def sixels(picture: np.ndarray, colours: int = COLOURS) -> str:
    """A picture (H, W, 3) uint8 as a device control string of at most ``colours`` colours chosen for it."""
    height, width = picture.shape[:2]
    few = Image.fromarray(picture).quantize(colours, Image.Quantize.MEDIANCUT, dither=Image.Dither.FLOYDSTEINBERG)
    chosen = np.asarray(few)
    palette = np.asarray(few.getpalette("RGB"), dtype=np.float64).reshape(-1, 3)
    out = [f'\x1bP0;1;0q"1;1;{width};{height}']
    for number in np.unique(chosen):
        red, green, blue = np.rint(palette[number] * (100 / 255)).astype(int)
        out.append(f"#{number};2;{red};{green};{blue}")
    for top in range(0, height, BAND):
        out += ["$".join(_coloured(chosen[top : top + BAND])), "-"]
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
    runs = [(chr(FIRST + int(columns[start])), int(length)) for start, length in zip(starts, lengths, strict=True)]
    if runs[-1][0] == chr(FIRST):
        runs.pop()
    return "".join(f"!{length}{letter}" if length > 3 else letter * length for letter, length in runs)
