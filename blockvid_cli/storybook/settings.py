"""The picture book's settings: a fixed backdrop for each setting and light, and the height of its ground."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from PIL import Image, ImageDraw

from blockvid_cli.storybook.subjects import RGB

GROUND = 5 / 6  # height of the subjects' feet, as a share of the picture
SCALE = 4  # backdrops are painted this much larger, then averaged


@dataclass(frozen=True)
class Light:
    """A time of day: colours of the sky, tint of the land, and its sun or moon."""

    top: RGB
    horizon: RGB
    tint: tuple[float, float, float]
    orb: tuple[float, float, float, RGB]  # x, y, radius in heights, colour
    stars: int
    lamps: bool
    cloud: tuple[float, float, float]


LIGHTS: dict[str, Light] = {
    "day": Light(
        (104, 182, 238),
        (214, 238, 248),
        (1.0, 1.0, 1.0),
        (0.82, 0.17, 0.085, (255, 238, 150)),
        0,
        False,
        (1.0, 1.0, 1.0),
    ),
    "sunset": Light(
        (120, 88, 160),
        (255, 176, 108),
        (1.0, 0.78, 0.66),
        (0.76, 0.40, 0.12, (255, 226, 140)),
        0,
        True,
        (1.0, 0.82, 0.74),
    ),
    "night": Light(
        (16, 22, 62),
        (58, 66, 122),
        (0.42, 0.46, 0.68),
        (0.16, 0.18, 0.085, (238, 240, 222)),
        14,
        True,
        (0.36, 0.40, 0.56),
    ),
}


class BackdropCanvas:
    """Paints one backdrop; coordinates are shares of the picture's width and height."""

    def __init__(self, width: int, height: int, light: Light) -> None:
        self.width, self.height, self.light = width * SCALE, height * SCALE, light
        rows = np.linspace(0, 1, self.height)[:, None]
        share = np.clip(rows / 0.62, 0, 1)
        sky = np.array(light.top) * (1 - share) + np.array(light.horizon) * share
        self.image = Image.fromarray(np.repeat(sky[:, None], self.width, 1).astype(np.uint8))
        self._draw = ImageDraw.Draw(self.image)

    def lit(self, colour: RGB) -> RGB:
        """A colour under this light."""
        return tuple(round(c * t) for c, t in zip(colour, self.light.tint, strict=True))  # type: ignore[return-value]

    def shape(self, points: list[tuple[float, float]], colour: RGB, lit: bool = True) -> None:
        """A filled polygon."""
        pixels = [(x * self.width, y * self.height) for x, y in points]
        self._draw.polygon(pixels, fill=self.lit(colour) if lit else colour)

    def box(self, x: float, y: float, w: float, h: float, colour: RGB, lit: bool = True) -> None:
        """A filled rectangle with its top left corner at (x, y)."""
        self.shape([(x, y), (x + w, y), (x + w, y + h), (x, y + h)], colour, lit)

    def disc(self, x: float, y: float, radius: float, colour: RGB, lit: bool = True) -> None:
        """A filled circle; radius as a share of the height."""
        cx, cy, r = x * self.width, y * self.height, radius * self.height
        self._draw.ellipse([cx - r, cy - r, cx + r, cy + r], fill=self.lit(colour) if lit else colour)

    def hills(self, base: float, swell: float, waves: float, phase: float, colour: RGB) -> None:
        """A rolling outline filled down to the bottom."""
        xs = np.linspace(0, 1, 81)
        ys = base - swell * (np.sin(xs * waves * 2 * np.pi + phase) * 0.6 + np.sin(xs * waves * 5 + phase) * 0.4)
        self.shape([(0, 1), *zip(xs, ys, strict=True), (1, 1)], colour)

    def sky(self) -> None:
        """Sun or moon, and stars."""
        rng = np.random.default_rng(5)
        for _ in range(self.light.stars):
            x, y = rng.random() * 0.98 + 0.01, rng.random() * 0.5 + 0.02
            self.disc(x, y, 0.011, (236, 236, 250), lit=False)
        x, y, radius, colour = self.light.orb
        self.disc(x, y, radius, colour, lit=False)


def lake(canvas: BackdropCanvas) -> None:
    canvas.hills(0.50, 0.07, 1.2, 0.5, (150, 182, 190))
    canvas.hills(0.56, 0.05, 1.7, 2.2, (92, 146, 128))
    canvas.box(0, 0.60, 1, 0.4, (104, 176, 206))
    canvas.box(0, 0.60, 1, 0.035, (214, 232, 238))
    canvas.box(0, 0.90, 1, 0.1, (72, 138, 180))
    for x, y, w in (
        (0.08, 0.70, 0.16),
        (0.42, 0.74, 0.2),
        (0.74, 0.69, 0.18),
        (0.2, 0.94, 0.2),
        (0.62, 0.95, 0.24),
    ):
        canvas.box(x, y, w, 0.014, (186, 222, 236))
    for x in (0.02, 0.05, 0.08, 0.94, 0.97):
        canvas.shape([(x - 0.008, 1), (x + 0.012, 0.66), (x + 0.016, 1)], (60, 120, 66))


def meadow(canvas: BackdropCanvas) -> None:
    canvas.hills(0.56, 0.09, 0.9, 0.0, (138, 196, 120))
    canvas.hills(0.66, 0.06, 1.3, 2.6, (104, 178, 92))
    canvas.box(0.155, 0.40, 0.022, 0.24, (120, 84, 58))
    for x, y, r in ((0.165, 0.34, 0.13), (0.11, 0.41, 0.09), (0.22, 0.41, 0.09)):
        canvas.disc(x, y, r, (58, 134, 72))
    canvas.box(0, 0.74, 1, 0.26, (122, 198, 96))
    for x, y, colour in (
        (0.1, 0.93, (250, 240, 246)),
        (0.3, 0.96, (250, 190, 200)),
        (0.52, 0.94, (250, 240, 246)),
        (0.71, 0.96, (250, 222, 110)),
        (0.9, 0.93, (250, 190, 200)),
    ):
        canvas.disc(x, y, 0.018, colour)


def city(canvas: BackdropCanvas) -> None:
    blocks = (
        (0, 4, 3, (126, 122, 146)),
        (3, 6, 2, (158, 132, 128)),
        (5, 3, 3, (108, 118, 142)),
        (8, 5, 3, (146, 136, 150)),
        (11, 4, 2, (120, 128, 150)),
        (13, 6, 3, (162, 138, 134)),
        (16, 3, 4, (114, 116, 140)),
    )
    glass: RGB = (255, 224, 128) if canvas.light.lamps else (196, 220, 234)
    for first, top, width, colour in blocks:  # in cells of 1/20 by 1/12: a window each, so that all are equal
        canvas.box(first / 20, top / 12, width / 20, 0.6, colour)
        for row in range(top, 8):
            for column in range(first, first + width):
                canvas.box(column / 20 + 0.014, row / 12 + 0.025, 0.022, 0.04, glass, lit=not canvas.light.lamps)
    canvas.box(0, 8.5 / 12, 1, 0.05, (176, 172, 172))
    canvas.box(0, 9 / 12, 1, 0.25, (92, 92, 102))
    for x in range(0, 20, 4):
        canvas.box(x / 20 + 0.02, 0.925, 0.1, 0.02, (236, 230, 206))


def desert(canvas: BackdropCanvas) -> None:
    canvas.shape([(0.5, 0.62), (0.54, 0.36), (0.74, 0.36), (0.80, 0.62)], (204, 120, 84))
    canvas.shape([(0.54, 0.44), (0.54, 0.36), (0.74, 0.36), (0.757, 0.44)], (222, 146, 104))
    canvas.hills(0.62, 0.05, 0.8, 1.2, (232, 186, 122))
    canvas.hills(0.72, 0.04, 1.1, 3.6, (240, 202, 138))
    canvas.box(0, 0.78, 1, 0.22, (246, 214, 152))
    for x, w, top, bottom in (
        (0.13, 0.028, 0.38, 0.76),
        (0.085, 0.022, 0.46, 0.58),
        (0.18, 0.022, 0.42, 0.54),
    ):
        canvas.box(x, top, w, bottom - top, (70, 138, 82))
    canvas.box(0.085, 0.56, 0.06, 0.04, (70, 138, 82))
    canvas.box(0.14, 0.52, 0.062, 0.04, (70, 138, 82))


SETTINGS: dict[str, Callable[[BackdropCanvas], None]] = {
    "lake": lake,
    "meadow": meadow,
    "city": city,
    "desert": desert,
}


@lru_cache(maxsize=64)
def backdrop(setting: str, light: str, size: tuple[int, int]) -> torch.Tensor:
    """The backdrop of a setting in a light: (3, H, W) in 0..1, size is (width, height)."""
    return _downscale(_paint(setting, light, size)[1], size)


@lru_cache(maxsize=64)
def backdrop_layers(setting: str, light: str, size: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """The backdrop in two layers, for a panning camera: the sky (3, H, W), and the land (4, H, W) in front of it,
    premultiplied by its alpha."""
    sky, whole = _paint(setting, light, size)
    alpha = (sky != whole).any(-1, keepdims=True).astype(np.float32)
    return _downscale(sky, size), _downscale(np.concatenate([whole * alpha, alpha], -1), size)


def _paint(setting: str, light: str, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The sky alone, and the whole backdrop, (SCALE·H, SCALE·W, 3) in 0..1."""
    canvas = BackdropCanvas(*size, LIGHTS[light])
    canvas.sky()
    sky = np.asarray(canvas.image, np.float32) / 255
    SETTINGS[setting](canvas)
    return sky, np.asarray(canvas.image, np.float32) / 255


def _downscale(pixels: np.ndarray, size: tuple[int, int]) -> torch.Tensor:
    small = pixels.reshape(size[1], SCALE, size[0], SCALE, -1).mean((1, 3))
    return torch.from_numpy(small).permute(2, 0, 1).contiguous()
