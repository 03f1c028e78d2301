"""Where one chunk's blocks end and the next one's begin.

    borders   0        1           2           3       (4 frames a latent, blocks of 3 latents)
    frames    0 ...... 9 ........ 21 ........ 33 ...   border k >= 1 lies at frame 4·(3k) - 3
    12 fps    0     0.75        1.75        2.75 s     a block lasts a second; the first one is shorter

Every chunk is a whole number of blocks, at least one.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor

from blockvid_cli.errors import StoryboardError
from blockvid_cli.storyboard.storyboard import Storyboard


@dataclass(frozen=True)
class Grid:
    """Where blocks may end: border 0 at frame 0, border k >= 1 at frame time·(k·block - 1) + 1."""

    time: int  # pixel frames a latent frame
    block: int  # latent frames a block
    fps: Fraction

    @property
    def step(self) -> int:
        """Pixel frames from one border to the next (the first block is ``time - 1`` shorter)."""
        return self.time * self.block

    def frame(self, border: int) -> int:
        """The pixel frame a border lies at."""
        return max(0, self.step * border - self.time + 1)

    def position(self, seconds: Fraction) -> Fraction:
        """A moment counted in borders: whole where it falls on one."""
        return (seconds * self.fps + self.time - 1) / self.step


def share_borders(storyboard: Storyboard, grid: Grid, frames: int) -> list[int]:
    """The block border that ends each chunk: the nearest one, later where chunks would share it.

    The last border is the first at which the film is long enough. The others may be moved by one block at
    most, so a short chunk is drawn longer than asked, but chunks do not wander.

    Raises:
        StoryboardError: a chunk is so short that no block can be its own.
    """
    asked = [grid.position(chunk.end) for chunk in storyboard.chunks]
    borders: list[int] = []
    for position in asked:
        borders.append(max(floor(position + Fraction(1, 2)), borders[-1] + 1 if borders else 1))
    borders[-1] = ceil(grid.position(frames / grid.fps))
    for index in range(len(borders) - 2, -1, -1):
        borders[index] = min(borders[index], borders[index + 1] - 1)
    for index, (border, position) in enumerate(zip(borders, asked, strict=True)):
        strays = abs(border - position) > 1 and index < len(borders) - 1
        if border < index + 1 or strays:
            raise _too_short(storyboard, index, grid)
    return borders


def _too_short(storyboard: Storyboard, index: int, grid: Grid) -> StoryboardError:
    """Names the chunk nearest to ``index`` that is shorter than a block."""
    least = grid.step / grid.fps
    short = [n for n, chunk in enumerate(storyboard.chunks) if chunk.end - chunk.start < least] or [index]
    number = min(short, key=lambda n: abs(n - index))
    chunk = storyboard.chunks[number]
    return StoryboardError(
        f"{chunk.where}: chunks[{number + 1}]: lasts {say(chunk.end - chunk.start)} s, too short for a block "
        f"of its own; with this model make it at least {say(least)} s, or join it with the chunk beside it"
    )


def say(seconds: Fraction) -> str:
    """Seconds with two decimals, or three where two would round."""
    return f"{float(seconds):.2f}" if (seconds * 100).denominator == 1 else f"{float(seconds):.3f}"
