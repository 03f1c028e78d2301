"""What an edition of the picture book can show, and how its subjects move.

    latent frame     0 | 1 | 2 | 3 | ...        four pixel frames each
    moving left     x0   x0-1  x0-2  x0-3       one cell of the lattice a latent frame, never faster
    hopping         up   hold  down | up ...    one hop a block

A cell is one latent pixel (``CELL`` pixels of a frame). Subjects stand on whole cells wherever a latent frame ends, so
that their latents are shifted copies of one another. Every action is an attractor: it leads the subject to a goal and
keeps it there, whatever came before, so that a story of any length stays inside the range of the training stories.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter

from blockvid_cli.models.card import packaged_folder, read_fields, size_in_pixels, validated

CELL = 8  # pixels, the spatial factor of the bundled VAE
FRAMES_PER_LATENT = 4  # its temporal factor


@dataclass(frozen=True)
class Stage:
    """The size of a frame in cells, and the goals that actions lead to."""

    width: int
    height: int

    @property
    def middle(self) -> int:
        """x at which every shot begins."""
        return self.width // 2

    @property
    def left(self) -> int:
        """x at which moving left ends."""
        return round(0.2 * self.width)

    @property
    def right(self) -> int:
        """x at which moving right ends."""
        return self.width - self.left

    @property
    def high(self) -> int:
        """Height above the ground at which rising ends."""
        return round(0.25 * self.height)


Side = Annotated[int, Field(ge=2 * CELL, le=2048)]
Names = Annotated[tuple[Annotated[str, Field(max_length=100)], ...], Field(min_length=1, max_length=200)]


@dataclass(frozen=True)
class Edition:
    """The names that stories are made of; ``size`` is (width, height) in pixels, ``block`` latent frames a block."""

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")

    subjects: Names
    colours: Names
    settings: Names
    lights: Names
    actions: Names
    weathers: Names
    cameras: Names
    size: Annotated[tuple[Side, Side], BeforeValidator(size_in_pixels)]
    fps: Annotated[int, Field(gt=0, le=1000)]
    block: Annotated[int, Field(gt=0, le=1000)]

    @property
    def stage(self) -> Stage:
        """The frame in cells."""
        return Stage(self.size[0] // CELL, self.size[1] // CELL)

    @property
    def period(self) -> int:
        """Pixel frames of a block; the film's first block shows all but its first three."""
        return FRAMES_PER_LATENT * self.block

    def block_frames(self, number: int) -> range:
        """Pixel frames of block ``number``: 4·block - 3 for the first, 4·block for each later one."""
        first, end = (max(self.period * k - FRAMES_PER_LATENT + 1, 0) for k in (number, number + 1))
        return range(first, end)


def read_edition(file: Path | None = None) -> Edition:
    """Reads an edition file; the bundled one by default.

    Raises:
        MissingModelError: the file is damaged.
    """
    file = file or packaged_folder("models") / "storybook" / "edition.yaml"
    return validated(file, TypeAdapter(Edition), read_fields(file))


@dataclass(frozen=True)
class Pose:
    """The position of a subject in cells: x from the left, height above the ground; the side it faces; its hop."""

    x: float
    height: float = 0.0
    facing: int = 1  # 1 right, -1 left
    hop: float = 0.0  # added to the height while hopping


def move(pose: Pose, action: str, frame: int, period: int, stage: Stage) -> Pose:
    """The pose one pixel frame later; ``frame`` counts within the block, ``period`` is a block's length in frames."""
    goal_x = {"left": stage.left, "right": stage.right}.get(action, pose.x)
    phase = (frame + 1) / period
    return replace(
        pose,
        x=_step_towards(pose.x, goal_x),
        height=_step_towards(pose.height, stage.high if action == "rise" else 0),
        facing={"left": -1, "right": 1}.get(action, pose.facing),
        hop=min(1.0, 3 * phase, 3 * (1 - phase)) if action == "hop" else 0.0,
    )


def _step_towards(position: float, goal: float) -> float:
    """The position one frame later; exact, because a step is a power of two."""
    return min(max(goal, position - 1 / FRAMES_PER_LATENT), position + 1 / FRAMES_PER_LATENT)
