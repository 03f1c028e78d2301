"""What an edition of the picture book can draw: its lists of subjects, colours, settings, lights, actions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml

from blockvid_cli.models.card import parse_size, shipped
from blockvid_cli.models.tiny_vae import FOLD, PATCH
from blockvid_cli.storybook.actions import Stage


@dataclass(frozen=True)
class Edition:
    """The names a story is told with; ``size`` is (width, height), ``block`` latent frames a block."""

    subjects: tuple[str, ...]
    colours: tuple[str, ...]
    settings: tuple[str, ...]
    lights: tuple[str, ...]
    actions: tuple[str, ...]
    weathers: tuple[str, ...]
    cameras: tuple[str, ...]
    size: tuple[int, int]
    fps: int
    block: int

    @property
    def stage(self) -> Stage:
        """The picture in cells."""
        return Stage(self.size[0] // PATCH, self.size[1] // PATCH)

    @property
    def period(self) -> int:
        """Pixel frames of a block; the film's first block shows all but its first three."""
        return FOLD * self.block

    def block_frames(self, number: int) -> range:
        """Pixel frames of block ``number``: 4·block - 3 for the first, 4·block for each later one."""
        border = [max(self.period * k - FOLD + 1, 0) for k in (number, number + 1)]
        return range(border[0], border[1])


def read_edition(file: Path | None = None) -> Edition:
    """Reads an edition file; the bundled one when none is named."""
    values = yaml.safe_load((file or shipped("models") / "storybook" / "edition.yaml").read_text("utf-8"))
    lists = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    return Edition(**{**lists, "size": parse_size(values["size"])})
