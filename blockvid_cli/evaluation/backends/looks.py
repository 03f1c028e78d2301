"""What subject and surroundings look like, without a network: their colours, and which way their edges run, where.

    frame -> small, in Lab -> what differs from the picture's rim is the subject (Wei et al. 2012)
    subject, surroundings -> histograms of colour, histograms of edges in 4 x 4 cells; the subject's cells go with it

Histograms are compared by their roots' cosine (Bhattacharyya): 1 alike, 0 nothing in common.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from blockvid_cli.evaluation.backends.flow import shrunk
from blockvid_cli.video.reader import Frame

SIDE = 112  # pixels of the short side at which frames are looked at
RIM = 0.12  # of the picture, on every side
OFTEN = 100  # a colour that makes up a hundredth of the rim is the rim's
COLOURS = (6, 10, 10)  # bins of lightness, green to red, blue to yellow
CELLS, WAYS = 4, 9
SPREAD = 2.0  # standard deviations that the subject's cells reach from its middle


@dataclass(frozen=True)
class Small:
    """A frame as it is looked at: Lab (h, w, 3), edges' strength and direction, the subject's share; all float32."""

    lab: np.ndarray
    strength: np.ndarray
    way: np.ndarray
    subject: np.ndarray


def small(frame: Frame) -> Small:
    """A frame made ready to be described; kept with it."""
    return frame.cached("small", lambda: _small(frame.rgb))


def _small(rgb: np.ndarray) -> Small:
    picture = shrunk(rgb, SIDE)
    lab = cv2.cvtColor(picture, cv2.COLOR_RGB2LAB).astype(np.float32)
    light = cv2.GaussianBlur(lab[..., 0], (0, 0), 1.0)
    strength, way = cv2.cartToPolar(cv2.Sobel(light, cv2.CV_32F, 1, 0), cv2.Sobel(light, cv2.CV_32F, 0, 1))
    return Small(lab, strength, way % np.pi, _subject(lab))


def _subject(lab: np.ndarray) -> np.ndarray:
    """How much each pixel differs from the rim, (h, w) in 0..1: 1 for colours that the rim has none of."""
    height, width = lab.shape[:2]
    down, across = max(1, round(height * RIM)), max(1, round(width * RIM))
    rim = np.ones((height, width), bool)
    rim[down:-down, across:-across] = False
    seen = lab.astype(int)
    bins = (seen[..., 0] // 32 * 16 + seen[..., 1] // 16) * 16 + seen[..., 2] // 16
    share = np.bincount(bins[rim], minlength=8 * 16 * 16) / max(1, int(rim.sum()))
    likely = np.minimum(share * OFTEN, 1)[bins].astype(np.float32)
    other = cv2.GaussianBlur(1 - likely, (0, 0), 2.0)
    rows = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    columns = np.linspace(-1, 1, width, dtype=np.float32)[None]
    return other * np.exp(-(rows**4 + columns**4))


def background_of(frame: Frame) -> np.ndarray:
    """Where the surroundings are, (h, w) of bools."""
    return small(frame).subject < 0.5


class Subject:
    """What differs from the rim: its colours and edges, wherever it is."""

    name, suffix = "colours and edges of the subject", "_builtin"

    def encode(self, frames: Sequence[Frame]) -> np.ndarray:
        """(N, D) float32."""
        return np.stack([_described(small(frame), small(frame).subject + 1e-3, follow=True) for frame in frames])


class Surroundings:
    """The picture without its subject: its colours and edges, and where they are."""

    name, suffix = "colours and edges of the surroundings", "_builtin"

    def encode(self, frames: Sequence[Frame]) -> np.ndarray:
        """(N, D) float32."""
        return np.stack([_described(small(frame), 1.001 - small(frame).subject, follow=False) for frame in frames])


def _described(seen: Small, share: np.ndarray, follow: bool) -> np.ndarray:
    """Roots of histograms, one after another: colours, and edges in cells; each weighed by ``share``."""
    across, down = _cells(share, follow)
    colours = [_histogram(seen.lab[..., channel] / 256 * count, share, count) for channel, count in enumerate(COLOURS)]
    weight = share * seen.strength
    inside = (across >= 0) & (across < CELLS) & (down >= 0) & (down < CELLS)
    cell = (down.clip(0, CELLS - 1).astype(int) * CELLS + across.clip(0, CELLS - 1).astype(int)) * WAYS
    way = np.minimum((seen.way / np.pi * WAYS).astype(int), WAYS - 1)
    edges = np.bincount((cell + way)[inside], weight[inside], CELLS * CELLS * WAYS)
    edges = edges / max(edges.sum(), 1e-6)
    return np.sqrt(np.concatenate([*colours, edges * 1.5])).astype(np.float32)


def _cells(share: np.ndarray, follow: bool) -> tuple[np.ndarray, np.ndarray]:
    """In which cell each pixel lies, (h, w) twice, in 0..CELLS: of the picture, or of the box around its share."""
    rows, columns = np.mgrid[: share.shape[0], : share.shape[1]].astype(np.float32)
    if not follow:
        return columns / share.shape[1] * CELLS, rows / share.shape[0] * CELLS
    total = share.sum()
    out = []
    for axis in (columns, rows):
        middle = (axis * share).sum() / total
        spread = max(float(np.sqrt(((axis - middle) ** 2 * share).sum() / total)), 1.0) * SPREAD
        out.append((axis - middle + spread) / (2 * spread) * CELLS)
    return out[0], out[1]


def _histogram(place: np.ndarray, share: np.ndarray, bins: int) -> np.ndarray:
    """A histogram in which each value is shared between the two bins it lies between; its sum is 1."""
    place = (place - 0.5).clip(0, bins - 1)
    low = place.astype(int).clip(0, bins - 2)
    part = place - low
    found = np.bincount(low.ravel(), (share * (1 - part)).ravel(), bins)
    found += np.bincount(low.ravel() + 1, (share * part).ravel(), bins)
    return found / max(found.sum(), 1e-6)
