"""The backends that need no download: OpenCV's optical flow, image quality and appearance by rules of thumb.

    flow          dense inverse search (Kroeger et al. 2016, in OpenCV), and the frame between two frames by it
    imaging       sharpness (what a further blur removes; Crete et al. 2007), noise (Immerkær 1996), exposure
    aesthetic     colourfulness (Hasler and Süsstrunk 2003), contrast, exposure; weaker still
    appearance    subject (what differs from the frame's border; Wei et al. 2012) and background, as histograms of
                  colours and of edge directions in 4 x 4 cells; the subject's cells move with it

The quality scores put frames in order and do not claim to agree with people. Histograms are compared by the cosine of
their roots (Bhattacharyya): 1 equal, 0 nothing in common.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from blockvid_cli.evaluation.backends import Backend, ImageEncoder
from blockvid_cli.video.reader import Frame

FLOW_SIDE, INTERPOLATION_SIDE = 240, 480  # short sides in pixels at which flow is searched
MIN_FLOW_SIDE = 64  # pixels of a side that the search needs
QUALITY_SIDE = 360  # pixels of the short side at which frames are scored
BLUR = 9  # pixels of the second blur
NOISY = 20.0  # standard deviation, of 255, at which noise has divided the score by e
COLOURFUL, CONTRASTED = 80.0, 70.0  # of 255: what counts as full
NOISE_KERNEL = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
APPEARANCE_SIDE = 112  # pixels of the short side at which frames are described
BORDER = 0.12  # of the frame, on every side
BORDER_COLOUR = 100  # a colour that makes up a hundredth of the border belongs to it
COLOUR_BINS = (6, 10, 10)  # of lightness, green to red, blue to yellow
CELLS, DIRECTIONS = 4, 9
SPREAD = 2.0  # standard deviations from the subject's centre to the edge of its cells or box
CROP_SIDE = 224  # pixels of the square that a cropping encoder is shown


def builtin_backends() -> dict[str, Backend]:
    """Returns the backend of each metric."""
    flow = InverseSearchFlow()
    return {
        "subject_consistency": SubjectAppearance(),
        "background_consistency": BackgroundAppearance(),
        "motion_smoothness": flow,
        "dynamic_degree": flow,
        "aesthetic_quality": AestheticScorer(),
        "imaging_quality": ImagingScorer(),
    }


# ---- optical flow ----------------------------------------------------------------------------------------


class InverseSearchFlow:
    """Flow at a short side of 240 pixels; the frame between by a faster search at 480.

    The faster search takes a quarter of the time, and the smoothness it leads to differs in the fourth decimal.
    """

    name, suffix = "dense inverse search", "_builtin"

    def __init__(self) -> None:
        self._search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        self._fast = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)

    def flow(self, a: Frame, b: Frame) -> np.ndarray:
        """(h, w, 2) float32 in pixels of a grid of 240 rows or columns, or the film's own if it is smaller."""
        return _search_flow(self._search, grey(a, FLOW_SIDE), grey(b, FLOW_SIDE))

    def interpolate(self, left: Frame, right: Frame) -> np.ndarray:
        """Half-way: both frames warped to the middle along the flow, and averaged.

        The flow is known at the left and at the right frame; its half, read at the middle's pixel, is the offset.
        """
        a, b = grey(left, INTERPOLATION_SIDE), grey(right, INTERPOLATION_SIDE)
        half = (_search_flow(self._fast, a, b) - _search_flow(self._fast, b, a)) / 4
        height, width = left.rgb.shape[:2]
        if half.shape[:2] != (height, width):
            half = cv2.resize(half, (width, height)) * np.float32(height / a.shape[0])
        columns, rows = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
        before = _warp(left.rgb, columns - half[..., 0], rows - half[..., 1])
        after = _warp(right.rgb, columns + half[..., 0], rows + half[..., 1])
        return cv2.addWeighted(before, 0.5, after, 0.5, 0)


def _search_flow(search: cv2.DISOpticalFlow, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The flow from a to b; images with a side below MIN_FLOW_SIDE are padded, because OpenCV crashes otherwise."""
    height, width = a.shape
    below, beside = max(0, MIN_FLOW_SIDE - height), max(0, MIN_FLOW_SIDE - width)
    if below or beside:
        a, b = (cv2.copyMakeBorder(side, 0, below, 0, beside, cv2.BORDER_REPLICATE) for side in (a, b))
    return search.calc(a, b, None)[:height, :width]


def _warp(image: np.ndarray, columns: np.ndarray, rows: np.ndarray) -> np.ndarray:
    return cv2.remap(image, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def grey(frame: Frame, side: int) -> np.ndarray:
    """The luminance (h, w) uint8 at a short side of at most ``side`` pixels."""
    return frame.cached(("grey", side), lambda: cv2.cvtColor(shrink(frame.rgb, side), cv2.COLOR_RGB2GRAY))


def shrink(image: np.ndarray, side: int) -> np.ndarray:
    """An image (H, W, C) with a short side of ``side`` pixels, if it is larger."""
    height, width = image.shape[:2]
    scale = side / min(height, width)
    if scale >= 1:
        return image
    return cv2.resize(image, (round(width * scale), round(height * scale)), interpolation=cv2.INTER_AREA)


# ---- image quality ---------------------------------------------------------------------------------------


class ImagingScorer:
    """Sharp, clean, well exposed."""

    name, suffix = "sharpness, noise and exposure", "_builtin"

    def score(self, frames: Sequence[Frame]) -> np.ndarray:
        """(N,) in 0..1."""
        return np.array([self._score(grey(frame, QUALITY_SIDE)) for frame in frames], np.float32)

    def _score(self, light: np.ndarray) -> float:
        return sharpness(light) * float(np.exp(-noise(light) / NOISY)) * (0.5 + 0.5 * exposure(light))


class AestheticScorer:
    """Colourful, rich in contrast, well exposed."""

    name, suffix = "colour, contrast and exposure", "_builtin"

    def score(self, frames: Sequence[Frame]) -> np.ndarray:
        """(N,) in 0..1."""
        return np.array([self._score(frame) for frame in frames], np.float32)

    def _score(self, frame: Frame) -> float:
        light = grey(frame, QUALITY_SIDE)
        contrast = min(1.0, float(cv2.meanStdDev(light)[1][0, 0]) / CONTRASTED)
        colour = min(1.0, colourfulness(shrink(frame.rgb, QUALITY_SIDE)) / COLOURFUL)
        return (colour + contrast + exposure(light)) / 3


def sharpness(light: np.ndarray) -> float:
    """The share of the differences between neighbouring pixels that a further blur removes, 0..1; the lesser of both
    directions.
    """
    image = light.astype(np.float32)
    shares = []
    for size, axis in (((BLUR, 1), 1), ((1, BLUR), 0)):
        before = np.abs(np.diff(image, axis=axis))
        after = np.abs(np.diff(cv2.blur(image, size), axis=axis))
        total = float(before.sum())
        shares.append(float(np.maximum(before - after, 0).sum()) / total if total else 0.0)
    return min(shares)


def noise(light: np.ndarray) -> float:
    """The standard deviation of noise, of 255, estimated over the image's flat half, where edges do not count."""
    if min(light.shape) < 3:
        return 0.0
    rough = np.abs(cv2.filter2D(light, cv2.CV_32F, NOISE_KERNEL))[1:-1, 1:-1]
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


# ---- appearance of subject and background ----------------------------------------------------------------


@dataclass(frozen=True)
class SmallFrame:
    """A shrunk frame: Lab (h, w, 3), strength and direction of edges, the subject's share (h, w); all float32."""

    lab: np.ndarray
    strength: np.ndarray
    direction: np.ndarray
    subject: np.ndarray


def small_frame(frame: Frame) -> SmallFrame:
    """The shrunk frame; computed once per frame."""
    return frame.cached("small", lambda: _small_frame(frame.rgb))


def _small_frame(rgb: np.ndarray) -> SmallFrame:
    lab = cv2.cvtColor(shrink(rgb, APPEARANCE_SIDE), cv2.COLOR_RGB2LAB).astype(np.float32)
    light = cv2.GaussianBlur(lab[..., 0], (0, 0), 1.0)
    strength, direction = cv2.cartToPolar(cv2.Sobel(light, cv2.CV_32F, 1, 0), cv2.Sobel(light, cv2.CV_32F, 0, 1))
    return SmallFrame(lab, strength, direction % np.pi, _subject_share(lab))


def _subject_share(lab: np.ndarray) -> np.ndarray:
    """How much each pixel differs from the border, (h, w) in 0..1: 1 for colours that are not in the border."""
    height, width = lab.shape[:2]
    down, across = max(1, round(height * BORDER)), max(1, round(width * BORDER))
    border = np.ones((height, width), bool)
    border[down:-down, across:-across] = False
    levels = lab.astype(int)
    bins = (levels[..., 0] // 32 * 16 + levels[..., 1] // 16) * 16 + levels[..., 2] // 16
    share = np.bincount(bins[border], minlength=8 * 16 * 16) / max(1, int(border.sum()))
    likely = np.minimum(share * BORDER_COLOUR, 1)[bins].astype(np.float32)
    other = cv2.GaussianBlur(1 - likely, (0, 0), 2.0)
    rows = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    columns = np.linspace(-1, 1, width, dtype=np.float32)[None]
    return other * np.exp(-(rows**4 + columns**4))


def background_mask(frame: Frame) -> np.ndarray:
    """Where the background is, (h, w) of bools."""
    return small_frame(frame).subject < 0.5


class SubjectAppearance:
    """What differs from the border: its colours and edges, wherever it is."""

    name, suffix = "colours and edges of the subject", "_builtin"

    def encode(self, frames: Sequence[Frame]) -> np.ndarray:
        """(N, D) float32."""
        small = [small_frame(frame) for frame in frames]
        return np.stack([_histograms(each, each.subject + 1e-3, follow=True) for each in small])


class SubjectColours:
    """The colours of what differs from the border; not its shape, which changes as it moves."""

    name, suffix = "colours of the subject", "_builtin"

    def encode(self, frames: Sequence[Frame]) -> np.ndarray:
        """(N, D) float32."""
        small = [small_frame(frame) for frame in frames]
        return np.stack([np.sqrt(_colours(each, each.subject + 1e-3)).astype(np.float32) for each in small])


class BackgroundAppearance:
    """The frame without its subject: its colours and edges, and where they are."""

    name, suffix = "colours and edges of the surroundings", "_builtin"

    def encode(self, frames: Sequence[Frame]) -> np.ndarray:
        """(N, D) float32."""
        small = [small_frame(frame) for frame in frames]
        return np.stack([_histograms(each, 1.001 - each.subject, follow=False) for each in small])


def _histograms(frame: SmallFrame, share: np.ndarray, follow: bool) -> np.ndarray:
    """Roots of histograms, one after another: colours, and edges in cells; each weighted by ``share``."""
    across, down = _cells(share, follow)
    weight = share * frame.strength
    inside = (across >= 0) & (across < CELLS) & (down >= 0) & (down < CELLS)
    cell = (down.clip(0, CELLS - 1).astype(int) * CELLS + across.clip(0, CELLS - 1).astype(int)) * DIRECTIONS
    direction = np.minimum((frame.direction / np.pi * DIRECTIONS).astype(int), DIRECTIONS - 1)
    edges = np.bincount((cell + direction)[inside], weight[inside], CELLS * CELLS * DIRECTIONS)
    edges = edges / max(edges.sum(), 1e-6)
    return np.sqrt(np.concatenate([_colours(frame, share), edges * 1.5])).astype(np.float32)


def _colours(frame: SmallFrame, share: np.ndarray) -> np.ndarray:
    """Histograms of lightness, green to red and blue to yellow, one after another; each weighted by ``share``."""
    channels = enumerate(COLOUR_BINS)
    return np.concatenate([_histogram(frame.lab[..., n] / 256 * bins, share, bins) for n, bins in channels])


def _cells(share: np.ndarray, follow: bool) -> tuple[np.ndarray, np.ndarray]:
    """In which cell each pixel lies, (h, w) twice, in 0..CELLS: of the frame, or of the box around ``share``."""
    rows, columns = np.mgrid[: share.shape[0], : share.shape[1]].astype(np.float32)
    if not follow:
        return columns / share.shape[1] * CELLS, rows / share.shape[0] * CELLS
    total = share.sum()
    cells = []
    for axis in (columns, rows):
        middle = (axis * share).sum() / total
        spread = max(float(np.sqrt(((axis - middle) ** 2 * share).sum() / total)), 1.0) * SPREAD
        cells.append((axis - middle + spread) / (2 * spread) * CELLS)
    return cells[0], cells[1]


def _histogram(position: np.ndarray, share: np.ndarray, bins: int) -> np.ndarray:
    """A histogram in which each value is split between its two nearest bins; its sum is 1."""
    position = (position - 0.5).clip(0, bins - 1)
    low = position.astype(int).clip(0, bins - 2)
    part = position - low
    counts = np.bincount(low.ravel(), (share * (1 - part)).ravel(), bins)
    counts += np.bincount(low.ravel() + 1, (share * part).ravel(), bins)
    return counts / max(counts.sum(), 1e-6)


class SubjectCrop:
    """Another encoder, which is shown only the box around the subject."""

    def __init__(self, encoder: ImageEncoder) -> None:
        self.encoder, self.name, self.suffix = encoder, f"{encoder.name}, of the subject's box", encoder.suffix

    def encode(self, frames: Sequence[Frame]) -> np.ndarray:
        """(N, D) float32."""
        return self.encoder.encode([Frame(frame.number, crop_subject(frame)) for frame in frames])


def crop_subject(frame: Frame) -> np.ndarray:
    """The box around the subject, (224, 224, 3) uint8."""
    share = small_frame(frame).subject + 1e-6
    box = []
    for axis, length in ((1, frame.rgb.shape[0]), (0, frame.rgb.shape[1])):
        profile = share.sum(axis)
        positions = (np.arange(len(profile)) + 0.5) / len(profile)
        middle = float((positions * profile).sum() / profile.sum())
        reach = SPREAD * float(np.sqrt((((positions - middle) ** 2) * profile).sum() / profile.sum()))
        first = int(max(0.0, middle - reach) * length)
        box.append(slice(first, max(first + 1, round(min(1.0, middle + reach) * length))))
    return cv2.resize(frame.rgb[box[0], box[1]], (CROP_SIDE, CROP_SIDE), interpolation=cv2.INTER_AREA)
