"""How a subject moves: every action is an attractor, so that a story of any length stays where stories are.

An action eases the subject towards a place and keeps it there, whatever came before. Positions are shares of the
picture: x from the left, y upwards from the ground. Hopping keeps time with the blocks (one hop a block).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

LEFT, RIGHT, HIGH, HOP = 0.22, 0.78, 0.36, 0.16


@dataclass(frozen=True)
class Pose:
    """Where a subject is: x (share of the width), height above ground (share of the height), the side it faces."""

    x: float
    height: float = 0.0
    facing: int = 1  # 1 right, -1 left
    hop: float = 0.0  # added to the height while hopping


def _eased(now: float, goal: float, rate: float) -> float:
    return now + (goal - now) * rate


def move(pose: Pose, action: str, frame: int, period: int) -> Pose:
    """The pose one frame later; ``frame`` counts within the block, ``period`` is a block's length in frames."""
    goal_x = {"left": LEFT, "right": RIGHT}.get(action, pose.x)
    goal_height = HIGH if action == "rise" else 0.0
    facing = {"left": -1, "right": 1}.get(action, pose.facing)
    hop = HOP * abs(math.sin(math.pi * (frame + 1) / period)) if action == "hop" else 0.0
    return replace(
        pose,
        x=_eased(pose.x, goal_x, 0.055),
        height=_eased(pose.height, goal_height, 0.06),
        facing=facing,
        hop=hop,
    )


ACTIONS = ("rest", "left", "right", "rise", "hop")
