"""The tier that asks whom VBench asks, where their weights are free: DINO, CLIP, LAION's predictor and RAFT.

Motion smoothness and imaging quality are not here: AMT's weights are CC BY-NC, MUSIQ's port in pyiqa is PolyForm-NC.
The builtin ones stand in for them under their own names, or what a user installed does (see ``installed``).
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from blockvid_cli.evaluation.backends.clip import Clip
from blockvid_cli.evaluation.backends.dino import Dino, Dinov2
from blockvid_cli.evaluation.backends.laion import Laion
from blockvid_cli.evaluation.backends.protocol import Backend
from blockvid_cli.evaluation.backends.raft import Raft

WHO = {
    "subject_consistency": Dino,
    "background_consistency": Clip,
    "aesthetic_quality": Laion,
    "dynamic_degree": Raft,
    "clips": Dinov2,  # compares the clips of a long film
}
TEXTS = "texts"  # compares frames with captions: who judges the surroundings does, so that frames are seen once


def vbench(
    weights_dir: Path | None = None, device: str = "cpu", asked: Collection[str] = (*WHO, TEXTS)
) -> dict[str, Backend]:
    """Who answers, for each measure that is asked; networks are loaded when they first are.

    Raises:
        MissingModelError: a checkpoint, or torchvision, is not on this machine.
        UsageError: there is no folder ``weights_dir``.
    """
    found: dict[str, Backend] = {name: make(weights_dir, device) for name, make in WHO.items() if name in asked}
    if TEXTS in asked:
        found[TEXTS] = found.get("background_consistency") or Clip(weights_dir, device)
    return found
