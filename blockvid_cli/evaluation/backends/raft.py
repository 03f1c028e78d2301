"""RAFT (Teed and Deng 2020), optical flow for every pixel, as torchvision has it.

``raft_large_C_T_V1`` is the authors' ``raft-things``, which VBench uses, under torchvision's names.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional

from blockvid_cli.errors import MissingModelError
from blockvid_cli.evaluation.backends.backbones import checkpoint_errors, normalize, to_tensor
from blockvid_cli.evaluation.backends.checkpoints import RAFT, locate
from blockvid_cli.video.reader import Frame

if TYPE_CHECKING:
    from collections.abc import Callable

UPDATES = 20
MULTIPLE, MIN_SIDE = 8, 128  # pixels: what sides are multiples of, and how long they are at least
HALF = (0.5, 0.5, 0.5)


class Raft:
    """Displacements in pixels of the frames' own grid, at their full size.

    Frames are padded on all sides by repeating their edges, as VBench does; those under 128 pixels, which torchvision
    refuses, more.

    Raises:
        MissingModelError: torchvision or the checkpoint is not installed, or (on first use) cannot be read.
        UsageError: there is no folder ``weights_dir``.
    """

    checkpoint = RAFT
    suffix = ""

    def __init__(self, weights_dir: Path | None = None, device: str = "cpu") -> None:
        self.device, self._make_network = device, _raft_large()
        self._path = locate(self.checkpoint, weights_dir)
        self.name = self.checkpoint.label(self._path)

    @torch.inference_mode()
    def flow(self, a: Frame, b: Frame) -> np.ndarray:
        """(H, W, 2) float32 (x, y), from a to b, which are of one size."""
        height, width = a.rgb.shape[:2]
        left, right, top, bottom = *_padding(width), *_padding(height)
        pair = normalize(to_tensor([a, b], self.device), HALF, HALF)
        pair = functional.pad(pair, (left, right, top, bottom), mode="replicate")
        flow = self._network(pair[:1], pair[1:], num_flow_updates=UPDATES)[-1][0]
        return flow[:, top : top + height, left : left + width].permute(1, 2, 0).float().cpu().numpy()

    @cached_property
    def _network(self) -> torch.nn.Module:
        network = self._make_network(weights=None, progress=False)
        with checkpoint_errors(self._path):
            network.load_state_dict(torch.load(self._path, map_location="cpu", weights_only=True))
        return network.to(self.device).eval()


def _padding(length: int) -> tuple[int, int]:
    """How many pixels are added before and after a side."""
    padding = max(MIN_SIDE, -(-length // MULTIPLE) * MULTIPLE) - length
    return padding // 2, padding - padding // 2


def _raft_large() -> Callable[..., torch.nn.Module]:
    """torchvision's network; torchvision is an extra, because nothing else here needs it.

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
