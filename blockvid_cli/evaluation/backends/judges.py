"""How good a frame looks, without a network: rules of thumb that order, and do not claim to agree with people.

Imaging: how sharp (what blurring it once more takes away; Crete et al. 2007), how clean (noise after Immerkær 1996),
how well exposed. Aesthetic: how colourful (Hasler and Süsstrunk 2003), how rich in contrast, how well exposed; weaker
still.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from blockvid_cli.evaluation.backends.flow import grey, shrunk
from blockvid_cli.video.reader import Frame

SIDE = 360  # pixels of the short side at which frames are judged
BLUR = 9  # pixels of the second blur
NOISY = 20.0  # standard deviation, of 255, at which a picture counts as little
COLOURFUL, CONTRASTED = 80.0, 70.0  # of 255: what counts as full
MASK = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)


class Imaging:
    """Sharp, clean, well exposed."""

    name, suffix = "sharpness, noise and exposure", "_builtin"

    def judge(self, frames: Sequence[Frame]) -> np.ndarray:
        """(N,) in 0..1."""
        return np.array([self._judged(grey(frame, SIDE)) for frame in frames], np.float32)

    def _judged(self, light: np.ndarray) -> float:
        return sharpness(light) * float(np.exp(-noise(light) / NOISY)) * (0.5 + 0.5 * exposure(light))


class Aesthetic:
    """Colourful, rich in contrast, well exposed."""

    name, suffix = "colour, contrast and exposure", "_builtin"

    def judge(self, frames: Sequence[Frame]) -> np.ndarray:
        """(N,) in 0..1."""
        return np.array([self._judged(frame) for frame in frames], np.float32)

    def _judged(self, frame: Frame) -> float:
        light = grey(frame, SIDE)
        contrast = min(1.0, float(cv2.meanStdDev(light)[1][0, 0]) / CONTRASTED)
        colour = min(1.0, colourfulness(shrunk(frame.rgb, SIDE)) / COLOURFUL)
        return (colour + contrast + exposure(light)) / 3


def sharpness(light: np.ndarray) -> float:
    """How much of the differences between neighbouring pixels a further blur takes away, 0 (nothing) to 1; the lesser
    of both directions.
    """
    sharp = light.astype(np.float32)
    lost = []
    for size, axis in (((BLUR, 1), 1), ((1, BLUR), 0)):
        before = np.abs(np.diff(sharp, axis=axis))
        after = np.abs(np.diff(cv2.blur(sharp, size), axis=axis))
        total = float(before.sum())
        lost.append(float(np.maximum(before - after, 0).sum()) / total if total else 0.0)
    return min(lost)


def noise(light: np.ndarray) -> float:
    """The standard deviation of noise, of 255, estimated over the picture's flat half, where edges do not count."""
    if min(light.shape) < 3:
        return 0.0
    rough = np.abs(cv2.filter2D(light, cv2.CV_32F, MASK))[1:-1, 1:-1]
    steep = cv2.GaussianBlur(np.abs(cv2.Laplacian(cv2.blur(light, (5, 5)), cv2.CV_32F)), (0, 0), 2)[1:-1, 1:-1]
    return float(np.sqrt(np.pi / 2) / 6 * rough[steep <= np.median(steep)].mean())


def exposure(light: np.ndarray) -> float:
    """1 for a mean in the middle and nothing clipped, towards 0 for black or white."""
    clipped = float(((light < 4) | (light > 251)).mean())
    return (1 - abs(float(light.mean()) / 127.5 - 1) ** 2) * (1 - clipped)


def colourfulness(rgb: np.ndarray) -> float:
    """Spread and mean of the colours' distance from grey (H, W, 3), about 0 to 110."""
    red, green, blue = (rgb[..., channel].astype(np.float32) for channel in range(3))
    one, two = red - green, (red + green) / 2 - blue
    return float(np.hypot(one.std(), two.std()) + 0.3 * np.hypot(one.mean(), two.mean()))
