"""LAION's aesthetic predictor: a line through CLIP's space, fitted to people's ratings from 1 to 10."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from blockvid_cli.evaluation.backends.checkpoints import CLIP_LARGE, LAION, find
from blockvid_cli.evaluation.backends.clip import Clip
from blockvid_cli.evaluation.backends.dino import reading
from blockvid_cli.video.reader import Frame


class Laion:
    """The rating over 10, as VBench has it; not confined to 0..1, which real pictures hardly leave.

    Raises:
        MissingModelError: a checkpoint is not here, or (when first asked) cannot be read.
        UsageError: there is no folder ``weights_dir``.
    """

    clip, head = CLIP_LARGE, LAION
    suffix = ""

    def __init__(self, weights_dir: Path | None = None, device: str = "cpu") -> None:
        self._clip = Clip(weights_dir, device, self.clip)
        self._home = find(self.head, weights_dir)
        self.name = f"{self.head.label(self._home)} on {self._clip.name}"

    @torch.inference_mode()
    def judge(self, frames: Sequence[Frame]) -> np.ndarray:
        """(N,) float32."""
        looks = functional.normalize(torch.from_numpy(self._clip.encode(frames)), dim=-1)
        return self._line(looks)[:, 0].numpy() / 10

    @cached_property
    def _line(self) -> torch.nn.Linear:
        line = torch.nn.Linear(768, 1)
        with reading(self._home):
            line.load_state_dict(torch.load(self._home, map_location="cpu", weights_only=True))
        return line.eval()
