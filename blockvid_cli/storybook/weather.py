"""What falls from the sky: drops or flakes on the codec's lattice, so that every block falls alike.

a sheet of marks, one block high, repeated down the picture, moves a cell (snow) or two (rain) a latent frame
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch

from blockvid_cli.models.tiny_vae import FOLD, PATCH

ROWS, COLUMNS = 3 * PATCH, 5 * PATCH  # of the sheet


@dataclass(frozen=True)
class Falling:
    """Marks a sheet, how tall and wide in pixels, how strong, and how many cells they fall a latent frame."""

    marks: int
    size: tuple[int, int]
    strength: float
    cells: int


WEATHERS = {"rain": Falling(5, (4, 1), 0.45, 2), "snow": Falling(6, (2, 2), 0.9, 1)}


def falling(frames: torch.Tensor, weather: str) -> torch.Tensor:
    """Frames (F, 3, H, W) in 0..1 with what falls through them; "clear" leaves them as they are."""
    if weather == "clear":
        return frames
    what, (height, width) = WEATHERS[weather], frames.shape[2:]
    step = what.cells * PATCH // FOLD
    sheet = _sheet(weather).to(frames.device).repeat(-(-height // ROWS) + 1, -(-width // COLUMNS))[:, :width]
    starts = [(-step * number) % ROWS for number in range(len(frames))]
    share = torch.stack([sheet[start : start + height] for start in starts])[:, None] * what.strength
    return frames * (1 - share) + share


@lru_cache(maxsize=2)
def _sheet(weather: str) -> torch.Tensor:
    """(ROWS, COLUMNS), 1 where a mark is; marks go on at the other side where they cross an edge."""
    what, dice = WEATHERS[weather], torch.Generator().manual_seed(3)
    sheet = torch.zeros(ROWS, COLUMNS)
    for _ in range(what.marks):
        row, column = (int(torch.randint(size, (), generator=dice)) for size in (ROWS, COLUMNS))
        rows = [(row + i) % ROWS for i in range(what.size[0])]
        columns = [(column + i) % COLUMNS for i in range(what.size[1])]
        sheet[torch.tensor(rows)[:, None], torch.tensor(columns)] = 1
    return sheet
