"""Several takes of the same moments in one picture: tiles in rows, each under a strip with its label."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from blockvid_cli.video.contact_sheet import INK, PAPER, wrap_text

GAP = 4  # pixels between tiles


def side_by_side(
    takes: Sequence[Iterable[np.ndarray]], labels: Sequence[str], columns: int | None = None
) -> Iterator[np.ndarray]:
    """Frames (uint8, H' x W' x 3) that show a frame of every take at once; H' and W' are even, as films must be.

    Args:
        takes: frames (uint8, H x W x 3) of each, all of one size, equally many; read together, one at a time.
        labels: what stands above each take; cut where it is too long.
        columns: takes in a row; where nothing is said as near to a square as can be, three in a row at most.

    Raises:
        ValueError: there is no take, or not a label a take; or, once drawing, a take ends early or differs in size.
    """
    if not takes or len(takes) != len(labels):
        raise ValueError(f"every take needs a label, not {len(labels)} labels for {len(takes)} takes")
    across = min(columns or min(3, math.ceil(math.sqrt(len(takes)))), len(takes))
    if across < 1:
        raise ValueError(f"takes cannot stand in {across} columns")
    return _tiled(takes, labels, across)


def _tiled(takes: Sequence[Iterable[np.ndarray]], labels: Sequence[str], across: int) -> Iterator[np.ndarray]:
    paper = places = None
    for frames in zip(*takes, strict=True):
        if paper is None:
            paper, places = _paper(frames[0].shape[:2], labels, across)
        height, width = frames[0].shape[:2]
        page = paper.copy()
        for frame, (top, left) in zip(frames, places, strict=True):
            if frame.shape != frames[0].shape:
                raise ValueError(f"takes of different sizes: {frame.shape[:2]} beside {frames[0].shape[:2]}")
            page[top : top + height, left : left + width] = frame
        yield page


def _paper(size: tuple[int, int], labels: Sequence[str], across: int) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """The page with its labels and without pictures, and where each picture's top left corner goes."""
    height, width = size
    letters = min(18, max(10, width // 16))
    font, strip = ImageFont.load_default(letters), letters + 6
    down = math.ceil(len(labels) / across)
    whole = across * (width + GAP) - GAP, down * (height + strip)
    page = Image.new("RGB", tuple(side + side % 2 for side in whole), PAPER)
    pen = ImageDraw.Draw(page)
    places = []
    for number, label in enumerate(labels):
        left, top = number % across * (width + GAP), number // across * (height + strip)
        for text in wrap_text(label, font, width - 4, lines=1):
            pen.text((left + 2, top + 2), text, fill=INK, font=font)
        places.append((top + strip, left))
    return np.asarray(page), places
