"""DINO and DINOv2, and what all networks of the vbench tier share: how pictures come to them, how they are read.

    frames -> (N, 3, H, W) 0..255 -> resized, perhaps cropped -> 0..1, less a mean, over a deviation -> network

VBench (github.com/Vchitect/VBench) resizes pictures as floats, without antialiasing, so that bicubic ones may leave
0..255. The networks are used in float32.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from safetensors import SafetensorError
from torch.nn import functional

from blockvid_cli.errors import MissingModelError
from blockvid_cli.evaluation.backends.checkpoints import DINO, DINOV2, SAFETENSORS, Checkpoint, find
from blockvid_cli.video.reader import Frame
from blockvid_cli.models.checkpoint import DAMAGED

if TYPE_CHECKING:
    from transformers import Dinov2Model, PreTrainedModel, ViTModel

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # mean and deviation of red, green and blue
SIDE = 224


class Eyes:
    """A network that makes an embedding of a picture; its checkpoint is found at once, and loaded when first asked.

    Raises:
        MissingModelError: the checkpoint is not here, or (when first asked) cannot be read.
        UsageError: there is no folder ``weights_dir``.
    """

    checkpoint: ClassVar[Checkpoint]
    suffix = ""

    def __init__(
        self, weights_dir: Path | None = None, device: str = "cpu", checkpoint: Checkpoint | None = None
    ) -> None:
        self.device, self._of = device, checkpoint or self.checkpoint
        self.home = find(self._of, weights_dir)
        self.name = self._of.label(self.home)

    @torch.inference_mode()
    def encode(self, frames: Sequence[Frame]) -> np.ndarray:
        """Embeddings (N, D) float32 of one or more frames, which may differ in size."""
        alike = [list(run) for _, run in groupby(frames, key=lambda frame: frame.rgb.shape)]
        return np.concatenate([self._looks(pictures(run, self.device)).float().cpu().numpy() for run in alike])

    def _looks(self, shown: torch.Tensor) -> torch.Tensor:
        """Pictures (N, 3, H, W), 0..255 -> embeddings (N, D)."""
        raise TypeError(f"{type(self).__name__} has no look")

    def _load(self, kind: str, **options: Any) -> Any:  # noqa: ANN401  (whichever network it is)
        return network(kind, self._of, self.home, **options).to(self.device)


class Dino(Eyes):
    """DINO ViT-B/16 (Caron et al. 2021), by which VBench judges the subject: the class token of whole pictures, 768-d.

    The table of places is stretched to the picture's shape as transformers does; DINO's own code stretches it by 0.1 of
    a patch more.
    """

    checkpoint = DINO

    def _looks(self, shown: torch.Tensor) -> torch.Tensor:
        shown = normed(resized(shown, SIDE, "bilinear"), *IMAGENET)
        return self._network(shown, interpolate_pos_encoding=True).last_hidden_state[:, 0]

    @cached_property
    def _network(self) -> ViTModel:
        return self._load("ViTModel", add_pooling_layer=False)


class Dinov2(Eyes):
    """DINOv2 ViT-B/14 (Oquab et al. 2023), by which VBench-Long compares clips: the middle's class token, 768-d."""

    checkpoint = DINOV2

    def _looks(self, shown: torch.Tensor) -> torch.Tensor:
        shown = normed(middle(resized(shown, 256, "bicubic"), SIDE), *IMAGENET)
        return self._network(shown).last_hidden_state[:, 0]

    @cached_property
    def _network(self) -> Dinov2Model:
        return self._load("Dinov2Model")


def pictures(frames: Sequence[Frame], device: str = "cpu") -> torch.Tensor:
    """Frames of one size -> (N, 3, H, W) float32, 0..255."""
    stacked = torch.from_numpy(np.stack([frame.rgb for frame in frames]))
    return stacked.to(device).permute(0, 3, 1, 2).float()


def resized(shown: torch.Tensor, side: int, mode: str) -> torch.Tensor:
    """Pictures whose shorter side is ``side``; the longer one is rounded down, as torchvision does."""
    height, width = shown.shape[-2:]
    size = (side, int(side * width / height)) if height <= width else (int(side * height / width), side)
    return functional.interpolate(shown, size, mode=mode, align_corners=False, antialias=False)


def middle(shown: torch.Tensor, side: int) -> torch.Tensor:
    """The square in the middle of pictures; where the rim is odd, Python's rounding decides, as torchvision's does."""
    top, left = (round((length - side) / 2) for length in shown.shape[-2:])
    return shown[..., top : top + side, left : left + side]


def normed(shown: torch.Tensor, mean: Sequence[float], deviation: Sequence[float]) -> torch.Tensor:
    """Pictures 0..255 -> 0..1, less the mean of each colour, over its deviation."""
    mean, deviation = (shown.new_tensor(values)[:, None, None] for values in (mean, deviation))
    return (shown / 255 - mean) / deviation


def network(
    kind: str,
    checkpoint: Checkpoint,
    home: Path,
    **options: Any,  # noqa: ANN401
) -> PreTrainedModel:
    """A network of transformers, by the name of its class, in float32, for use and not for training.

    Raises:
        MissingModelError: its files are damaged, or of another kind of network; or transformers cannot be used.
    """
    import transformers
    from transformers.utils import logging

    try:
        made_by = getattr(transformers, kind).from_pretrained
    except ImportError as error:  # it imports torchvision where there is one, whatever torch that was built for
        raise MissingModelError(
            f"transformers cannot be used ({error}); does the torchvision here go with torch {torch.__version__}?"
        ) from error
    logging.set_verbosity_error()  # it tells of each tensor that is not asked for, such as CLIP's other half
    logging.disable_progress_bar()
    safe = checkpoint.files[0] == SAFETENSORS  # the file whose hash was compared, should both be there
    with reading(home):
        made, found = made_by(
            home,
            local_files_only=True,
            dtype=torch.float32,
            use_safetensors=safe,
            output_loading_info=True,
            **options,
        )
    absent = sorted(found["missing_keys"])
    if absent:
        raise MissingModelError(f"{home}: this checkpoint lacks {len(absent)} tensors, the first is {absent[0]}.")
    return made.eval()


@contextmanager
def reading(home: Path) -> Iterator[None]:
    """What it means when a checkpoint cannot be read.

    Raises:
        MissingModelError: in place of what the libraries raise.
    """
    try:
        yield
    except (*DAMAGED, SafetensorError, pickle.UnpicklingError) as error:
        why = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".:")
        raise MissingModelError(f"{home}: this checkpoint is damaged, or of another kind ({why}).") from error
