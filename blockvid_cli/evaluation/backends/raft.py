"""RAFT (Teed and Deng 2020), which follows every pixel from one frame to another, as torchvision has it.

``raft_large_C_T_V1`` is the authors' ``raft-things``, which VBench asks, under torchvision's names.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional

from blockvid_cli.errors import MissingModelError
from blockvid_cli.evaluation.backends.checkpoints import RAFT, find
from blockvid_cli.evaluation.backends.dino import normed, pictures, reading
from blockvid_cli.video.reader import Frame

if TYPE_CHECKING:
    from collections.abc import Callable

UPDATES = 20
STEP, LEAST = 8, 128  # pixels: what sides are multiples of, and how long they are at least
HALF = (0.5, 0.5, 0.5)


class Raft:
    """Displacements in pixels of the frames' own grid, at their full size.

    Frames are widened at all sides by repeating their rims, as VBench does; those under 128 pixels, which torchvision
    does not take, more so.

    Raises:
        MissingModelError: torchvision or the checkpoint is not here, or (when first asked) cannot be read.
        UsageError: there is no folder ``weights_dir``.
    """

    checkpoint = RAFT
    suffix = ""

    def __init__(self, weights_dir: Path | None = None, device: str = "cpu") -> None:
        self.device, self._make = device, _raft()
        self._home = find(self.checkpoint, weights_dir)
        self.name = self.checkpoint.label(self._home)

    @torch.inference_mode()
    def flow(self, a: Frame, b: Frame) -> np.ndarray:
        """(H, W, 2) float32 (x, y), from a to b, which are of one size."""
        height, width = a.rgb.shape[:2]
        left, right, top, bottom = *_rims(width), *_rims(height)
        both = normed(pictures([a, b], self.device), HALF, HALF)
        both = functional.pad(both, (left, right, top, bottom), mode="replicate")
        moved = self._network(both[:1], both[1:], num_flow_updates=UPDATES)[-1][0]
        return moved[:, top : top + height, left : left + width].permute(1, 2, 0).float().cpu().numpy()

    @cached_property
    def _network(self) -> torch.nn.Module:
        made = self._make(weights=None, progress=False)
        with reading(self._home):
            made.load_state_dict(torch.load(self._home, map_location="cpu", weights_only=True))
        return made.to(self.device).eval()


def _rims(length: int) -> tuple[int, int]:
    """What is added before and after a side."""
    more = max(LEAST, -(-length // STEP) * STEP) - length
    return more // 2, more - more // 2


def _raft() -> Callable[..., torch.nn.Module]:
    """torchvision's network; it is an extra, since nothing else here needs torchvision.

    Raises:
        MissingModelError: torchvision is not installed, or was built for another torch.
    """
    try:
        from torchvision.models.optical_flow import raft_large
    except ImportError as error:
        raise MissingModelError(
            "dynamic degree in the vbench tier needs torchvision; 'pip install \"blockvid[eval]\"' brings it."
        ) from error
    except RuntimeError as error:  # its operators are compiled against one torch, and for the CPU or for CUDA
        raise MissingModelError(
            f"this torchvision was built for another torch than {torch.__version__}; install it from where torch came,"
            " such as 'pip install torchvision --index-url https://download.pytorch.org/whl/cpu'."
        ) from error
    return raft_large
