"""The picture book's subjects: simple silhouettes, each painted once as a sprite.

A subject is painted in a unit square, x to the right and y down, both in -1..1, facing right, standing on y = 0.9.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
from PIL import Image, ImageDraw

RGB = tuple[int, int, int]
Points = list[tuple[float, float]]

COLOURS: dict[str, RGB] = {
    "white": (248, 248, 244),
    "red": (222, 52, 46),
    "yellow": (250, 204, 42),
    "green": (62, 168, 78),
    "blue": (52, 108, 222),
    "purple": (152, 74, 196),
}
INK: RGB = (44, 36, 48)
CANVAS = 480  # pixels at which the unit square is painted
TEXTURE = 96  # pixels of the sprite


class SpriteCanvas:
    """Paints outlined shapes in the unit square."""

    def __init__(self) -> None:
        self.image = Image.new("RGBA", (CANVAS, CANVAS), (0, 0, 0, 0))
        self._draw = ImageDraw.Draw(self.image)

    def _pixels(self, points: Points) -> Points:
        return [((x + 1) * CANVAS / 2, (y + 1) * CANVAS / 2) for x, y in points]

    def shape(self, points: Points, fill: RGB, ink: float = 0.06) -> None:
        """A filled polygon with an outline ``ink`` wide."""
        pixels = self._pixels(points)
        if ink:
            self._draw.line([*pixels, *pixels[:2]], fill=INK, width=int(ink * CANVAS / 2 * 2), joint="curve")
        self._draw.polygon(pixels, fill=fill)

    def oval(self, x: float, y: float, rx: float, ry: float, fill: RGB, ink: float = 0.06) -> None:
        """A filled ellipse around (x, y)."""
        turns = np.linspace(0, 2 * np.pi, 64, endpoint=False)
        self.shape([(x + rx * np.cos(t), y + ry * np.sin(t)) for t in turns], fill, ink)

    def stroke(self, points: Points, fill: RGB, width: float) -> None:
        """A thick line with round joints."""
        radius = width / 2
        for (x0, y0), (x1, y1) in itertools.pairwise(points):
            for s in np.linspace(0, 1, 2 + int(8 * np.hypot(x1 - x0, y1 - y0) / width)):
                x, y = x0 + (x1 - x0) * s, y0 + (y1 - y0) * s
                box = self._pixels([(x - radius, y - radius), (x + radius, y + radius)])
                self._draw.ellipse([*box[0], *box[1]], fill=fill)


def lighter(colour: RGB, share: float) -> RGB:
    """Towards white for a positive share, towards ink for a negative one."""
    goal = (255, 255, 255) if share > 0 else INK
    return tuple(round(c + (g - c) * abs(share)) for c, g in zip(colour, goal, strict=True))  # type: ignore[return-value]


def swan(canvas: SpriteCanvas, colour: RGB) -> None:
    neck = [(0.36, 0.30), (0.58, 0.05), (0.44, -0.28), (0.42, -0.55), (0.58, -0.70)]
    canvas.stroke(neck, INK, 0.36)
    canvas.oval(0.62, -0.66, 0.20, 0.17, colour)
    canvas.shape([(0.76, -0.74), (0.98, -0.58), (0.76, -0.54)], (245, 140, 40), 0.05)
    body = [(-0.98, 0.02), (-0.55, 0.12), (-0.1, 0.02), (0.4, 0.12), (0.66, 0.4), (0.55, 0.74), (0.1, 0.88)]
    canvas.shape([*body, (-0.45, 0.82), (-0.8, 0.5)], colour)
    canvas.stroke(neck, colour, 0.24)
    wing = [(-0.7, 0.28), (-0.2, 0.18), (0.3, 0.34), (0.18, 0.58), (-0.3, 0.62)]
    canvas.shape(wing, lighter(colour, -0.16), 0.0)
    canvas.oval(0.66, -0.71, 0.045, 0.05, INK, 0.0)


def boat(canvas: SpriteCanvas, colour: RGB) -> None:
    canvas.stroke([(0.0, -0.92), (0.0, 0.4)], INK, 0.09)
    canvas.shape([(0.08, -0.86), (0.82, 0.24), (0.08, 0.24)], lighter(colour, 0.35))
    canvas.shape([(-0.08, -0.66), (-0.08, 0.24), (-0.62, 0.24)], (250, 244, 226))
    canvas.shape([(-0.94, 0.4), (0.96, 0.4), (0.62, 0.88), (-0.62, 0.88)], colour)


def car(canvas: SpriteCanvas, colour: RGB) -> None:
    canvas.shape([(-0.55, 0.08), (-0.36, -0.42), (0.28, -0.42), (0.56, 0.08)], colour)
    canvas.shape([(-0.38, 0.04), (-0.26, -0.28), (-0.06, -0.28), (-0.06, 0.04)], (190, 226, 240), 0.0)
    canvas.shape([(0.06, 0.04), (0.06, -0.28), (0.20, -0.28), (0.38, 0.04)], (190, 226, 240), 0.0)
    canvas.shape([(-0.96, 0.08), (0.8, 0.08), (0.97, 0.28), (0.97, 0.62), (-0.96, 0.62)], colour)
    canvas.oval(0.86, 0.30, 0.09, 0.10, (255, 240, 150), 0.03)
    for x in (-0.55, 0.55):
        canvas.oval(x, 0.62, 0.25, 0.25, (58, 52, 60))
        canvas.oval(x, 0.62, 0.10, 0.10, (214, 214, 214), 0.0)


def balloon(canvas: SpriteCanvas, colour: RGB) -> None:
    for x in (-0.16, 0.16):
        canvas.stroke([(x * 1.9, 0.16), (x, 0.64)], INK, 0.05)
    canvas.oval(0.0, -0.32, 0.60, 0.58, colour)
    canvas.oval(0.0, -0.32, 0.26, 0.57, lighter(colour, 0.45 if colour != COLOURS["white"] else -0.2), 0.0)
    canvas.shape([(-0.22, 0.62), (0.22, 0.62), (0.17, 0.89), (-0.17, 0.89)], (168, 112, 62))


def cat(canvas: SpriteCanvas, colour: RGB) -> None:
    tail = [(-0.55, 0.55), (-0.86, 0.42), (-0.88, 0.02), (-0.7, -0.22)]
    canvas.stroke(tail, INK, 0.26)
    canvas.stroke(tail, colour, 0.15)
    canvas.oval(-0.08, 0.46, 0.54, 0.43, colour)
    for x in (0.26, 0.92):
        ear = 0.10 if x > 0.5 else -0.10
        canvas.shape([(x - 0.16, -0.44), (x + ear, -0.92), (x + 0.16, -0.44)], colour)
    canvas.oval(0.58, -0.26, 0.40, 0.36, colour)
    for x in (0.44, 0.74):
        canvas.oval(x, -0.30, 0.07, 0.09, INK, 0.0)
    canvas.shape([(0.53, -0.16), (0.67, -0.16), (0.6, -0.06)], (240, 130, 140), 0.0)
    for x in (-0.28, 0.28):
        canvas.oval(x, 0.80, 0.20, 0.10, lighter(colour, 0.3 if colour != COLOURS["white"] else -0.12), 0.05)


def person(canvas: SpriteCanvas, colour: RGB) -> None:
    for x in (-0.17, 0.17):
        canvas.stroke([(x, 0.4), (x, 0.8)], INK, 0.24)
        canvas.stroke([(x, 0.4), (x, 0.8)], (74, 84, 130), 0.13)
    for x in (-0.5, 0.5):
        canvas.stroke([(x * 0.5, -0.16), (x, 0.2)], INK, 0.25)
        canvas.stroke([(x * 0.5, -0.16), (x, 0.2)], colour, 0.14)
    canvas.shape([(-0.28, -0.3), (0.28, -0.3), (0.44, 0.5), (-0.44, 0.5)], colour)
    canvas.oval(0.0, -0.56, 0.30, 0.30, (246, 206, 170))
    canvas.shape([(-0.40, -0.64), (0.56, -0.64), (0.50, -0.72), (0.26, -0.74), (0.16, -0.94), (-0.24, -0.94)], colour)
    canvas.oval(0.14, -0.5, 0.045, 0.06, INK, 0.0)


SUBJECTS: dict[str, Callable[[SpriteCanvas, RGB], None]] = {
    "swan": swan,
    "boat": boat,
    "car": car,
    "balloon": balloon,
    "cat": cat,
    "person": person,
}
GROUND_LINE = 0.9  # y of the ground in the unit square


@lru_cache(maxsize=256)
def sprite(subject: str, colour: str) -> torch.Tensor:
    """A subject facing right: (4, TEXTURE, TEXTURE), red, green, blue premultiplied by alpha, alpha; in 0..1."""
    canvas = SpriteCanvas()
    SUBJECTS[subject](canvas, COLOURS[colour])
    pixels = np.asarray(canvas.image, np.float32) / 255
    pixels[..., :3] *= pixels[..., 3:]
    step = CANVAS // TEXTURE
    small = pixels.reshape(TEXTURE, step, TEXTURE, step, 4).mean((1, 3))
    return torch.from_numpy(small).permute(2, 0, 1).contiguous()
