"""Optical flow by dense inverse search (Kroeger et al. 2016, in OpenCV), and the frame between two by it."""

from __future__ import annotations

import cv2
import numpy as np

from blockvid_cli.video.reader import Frame

COARSE, FINE = (
    240,
    480,
)  # short side in pixels at which flow is searched: to see what moves, and to draw what is between
LEAST = 64  # pixels of a side that the search needs


class Dis:
    """Flow at a short side of 240 pixels; the frame between by a faster search at 480.

    The faster search takes a quarter of the time, and the smoothness it leads to differs in the fourth decimal.
    """

    name, suffix = "dense inverse search", "_builtin"

    def __init__(self) -> None:
        self._search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        self._fast = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)

    def flow(self, a: Frame, b: Frame) -> np.ndarray:
        """(h, w, 2) float32 in pixels of a grid of 240 rows or columns, or the film's own if it is smaller."""
        return _searched(self._search, grey(a, COARSE), grey(b, COARSE))

    def between(self, left: Frame, right: Frame) -> np.ndarray:
        """Half-way: both frames moved to the middle along the flow, and mixed.

        The flow is taken at the left and at the right frame; its half, read at the middle's pixel, is where to look.
        """
        a, b = grey(left, FINE), grey(right, FINE)
        half = (_searched(self._fast, a, b) - _searched(self._fast, b, a)) / 4
        height, width = left.rgb.shape[:2]
        if half.shape[:2] != (height, width):
            half = cv2.resize(half, (width, height)) * np.float32(height / a.shape[0])
        columns, rows = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
        before = _moved(left.rgb, columns - half[..., 0], rows - half[..., 1])
        after = _moved(right.rgb, columns + half[..., 0], rows + half[..., 1])
        return cv2.addWeighted(before, 0.5, after, 0.5, 0)


def _searched(search: cv2.DISOpticalFlow, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The flow from a to b; pictures with a side below LEAST are made larger first, which OpenCV crashes without."""
    height, width = a.shape
    below, beside = max(0, LEAST - height), max(0, LEAST - width)
    if below or beside:
        a, b = (cv2.copyMakeBorder(side, 0, below, 0, beside, cv2.BORDER_REPLICATE) for side in (a, b))
    return search.calc(a, b, None)[:height, :width]


def _moved(picture: np.ndarray, columns: np.ndarray, rows: np.ndarray) -> np.ndarray:
    return cv2.remap(picture, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def grey(frame: Frame, side: int) -> np.ndarray:
    """The luminance (h, w) uint8 at a short side of at most so many pixels."""
    return frame.cached(("grey", side), lambda: cv2.cvtColor(shrunk(frame.rgb, side), cv2.COLOR_RGB2GRAY))


def shrunk(picture: np.ndarray, side: int) -> np.ndarray:
    """A picture (H, W, C) brought to a short side of ``side`` pixels, if it is larger."""
    height, width = picture.shape[:2]
    scale = side / min(height, width)
    if scale >= 1:
        return picture
    return cv2.resize(picture, (round(width * scale), round(height * scale)), interpolation=cv2.INTER_AREA)
