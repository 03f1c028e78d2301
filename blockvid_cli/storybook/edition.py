"""What an edition of the picture book can draw: its lists of subjects, colours, settings, lights, actions."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from blockvid_cli.models.card import packaged_folder, parse_size
from blockvid_cli.models.tiny_vae import FOLD, PATCH


@dataclass(frozen=True)
class Stage:
    """Where actions lead to, in cells: a picture's width and height, and the places in it."""

    width: int
    height: int

    @property
    def middle(self) -> int:
        """Where every shot begins."""
        return self.width // 2

    @property
    def left(self) -> int:
        """Where gliding left ends."""
        return round(0.2 * self.width)

    @property
    def right(self) -> int:
        """Where gliding right ends."""
        return self.width - self.left

    @property
    def high(self) -> int:
        """How far above the ground rising ends."""
        return round(0.25 * self.height)


@dataclass(frozen=True)
class Pose:
    """Where a subject is, in cells: x from the left, height above the ground; the side it faces; its hop."""

    x: float
    height: float = 0.0
    facing: int = 1  # 1 right, -1 left
    hop: float = 0.0  # added to the height while hopping


def move(pose: Pose, action: str, frame: int, period: int, stage: Stage) -> Pose:
    """The pose one pixel frame later; ``frame`` counts within the block, ``period`` is a block's length in frames."""
    goal_x = {"left": stage.left, "right": stage.right}.get(action, pose.x)
    share = (frame + 1) / period
    return replace(
        pose,
        x=_towards(pose.x, goal_x),
        height=_towards(pose.height, stage.high if action == "rise" else 0),
        facing={"left": -1, "right": 1}.get(action, pose.facing),
        hop=min(1.0, 3 * share, 3 * (1 - share)) if action == "hop" else 0.0,
    )


def _towards(now: float, goal: float) -> float:
    """One frame's way towards a goal, exact in binary fractions."""
    return min(max(goal, now - 1 / FOLD), now + 1 / FOLD)


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
    values = yaml.safe_load((file or packaged_folder("models") / "storybook" / "edition.yaml").read_text("utf-8"))
    lists = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    return Edition(**{**lists, "size": parse_size(values["size"])})
