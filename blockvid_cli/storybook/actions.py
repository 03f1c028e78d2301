"""How a subject moves: on the codec's own lattice, so that what is drawn at one place is drawn alike at every other.

    latent frame     0 | 1 | 2 | 3 | ...        four pixel frames each
    gliding left    x0   x0-1  x0-2  x0-3       one cell of the lattice a latent frame, never faster
    hopping         up   hold  down | up ...    one hop a block

A cell is one latent pixel (eight pixels of the picture, ``codec.tiny.PATCH``). Every action is an attractor: it leads
the subject to a place and keeps it there, whatever came before, so that a story of any length stays where stories are.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from blockvid_cli.models.tiny_vae import FOLD


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
