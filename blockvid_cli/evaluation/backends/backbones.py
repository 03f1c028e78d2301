"""The vbench tier's networks: DINO, DINOv2, CLIP, LAION's aesthetic predictor on CLIP, and RAFT.

    frames -> (N, 3, H, W) 0..255 -> resized, perhaps cropped -> 0..1, less a mean, over a deviation -> network

VBench (github.com/Vchitect/VBench) resizes images as floats, without antialiasing, so that bicubic ones may leave
0..255. The networks are used in float32. Checkpoints are located at once, and loaded on first use.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Sequence
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
from blockvid_cli.evaluation.backends.checkpoints import (
    CLIP_BASE,
    CLIP_LARGE,
    DINO,
    DINOV2,
    LAION,
    RAFT,
    SAFETENSORS,
    Checkpoint,
    locate,
)
from blockvid_cli.files import open_regular_file
from blockvid_cli.models.checkpoint import DAMAGED
from blockvid_cli.video.reader import Frame

if TYPE_CHECKING:
    from transformers import (
        CLIPTextModelWithProjection,
        CLIPVisionModelWithProjection,
        Dinov2Model,
        PreTrainedModel,
        PreTrainedTokenizerBase,
        ViTModel,
    )

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # mean and deviation of red, green and blue
CLIP = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
SIDE = 224


class VisionBackbone:
    """A network that makes an embedding of an image.

    Raises:
        MissingModelError: the checkpoint is not on this machine, or (on first use) cannot be read.
        UsageError: there is no folder ``weights_dir``.
    """

    checkpoint: ClassVar[Checkpoint]
    suffix = ""

    def __init__(
        self, weights_dir: Path | None = None, device: str = "cpu", checkpoint: Checkpoint | None = None
    ) -> None:
        self.device, self._checkpoint = device, checkpoint or self.checkpoint
        self.path = locate(self._checkpoint, weights_dir)
        self.name = self._checkpoint.label(self.path)

    @torch.inference_mode()
    def encode(self, frames: Sequence[Frame]) -> np.ndarray:
        """Embeddings (N, D) float32 of one or more frames, which may differ in size."""
        batches = [list(run) for _, run in groupby(frames, key=lambda frame: frame.rgb.shape)]
        return np.concatenate([self._embed(to_tensor(batch, self.device)).float().cpu().numpy() for batch in batches])

    def _embed(self, images: torch.Tensor) -> torch.Tensor:
        """Images (N, 3, H, W), 0..255 -> embeddings (N, D)."""
        raise TypeError(f"{type(self).__name__} does not implement _embed")

    def _load(self, kind: str, **options: Any) -> Any:  # noqa: ANN401  (whichever network it is)
        return load_network(kind, self._checkpoint, self.path, **options).to(self.device)


class Dino(VisionBackbone):
    """DINO ViT-B/16 (Caron et al. 2021), VBench's backend for the subject: the class token of whole images, 768-d.

    The position embeddings are resized to the image's shape as transformers does; DINO's own code resizes them by 0.1
    of a patch more.
    """

    checkpoint = DINO

    def _embed(self, images: torch.Tensor) -> torch.Tensor:
        images = normalize(resize(images, SIDE, "bilinear"), *IMAGENET)
        return self._network(images, interpolate_pos_encoding=True).last_hidden_state[:, 0]

    @cached_property
    def _network(self) -> ViTModel:
        return self._load("ViTModel", add_pooling_layer=False)


class Dinov2(VisionBackbone):
    """DINOv2 ViT-B/14 (Oquab et al. 2023), by which VBench-Long compares clips: the middle's class token, 768-d."""

    checkpoint = DINOV2

    def _embed(self, images: torch.Tensor) -> torch.Tensor:
        images = normalize(center_crop(resize(images, 256, "bicubic"), SIDE), *IMAGENET)
        return self._network(images).last_hidden_state[:, 0]

    @cached_property
    def _network(self) -> Dinov2Model:
        return self._load("Dinov2Model")


class Clip(VisionBackbone):
    """CLIP ViT-B/32 (Radford et al. 2021), VBench's backend for the background: images and sentences in one space,
    512-d. With ``checkpoint``, another CLIP.

    Its two networks, for images and for sentences, are loaded on the first use of each.
    """

    checkpoint = CLIP_BASE

    @torch.inference_mode()
    def encode_text(self, sentences: Sequence[str]) -> np.ndarray:
        """Sentences -> (N, D) float32; the network's 77 tokens are read, the rest is cut off.

        Raises:
            MissingModelError: the checkpoint has no tokenizer, or cannot be read.
        """
        limit = self._text_network.config.max_position_embeddings
        tokens = self._tokenizer(
            list(sentences), padding=True, truncation=True, max_length=limit, return_tensors="pt"
        ).to(self.device)
        return self._text_network(tokens.input_ids, tokens.attention_mask).text_embeds.float().cpu().numpy()

    def _embed(self, images: torch.Tensor) -> torch.Tensor:
        return self._image_network(normalize(center_crop(resize(images, SIDE, "bicubic"), SIDE), *CLIP)).image_embeds

    @cached_property
    def _image_network(self) -> CLIPVisionModelWithProjection:
        return self._load("CLIPVisionModelWithProjection")

    @cached_property
    def _text_network(self) -> CLIPTextModelWithProjection:
        return self._load("CLIPTextModelWithProjection")

    @cached_property
    def _tokenizer(self) -> PreTrainedTokenizerBase:
        from transformers import CLIPTokenizer

        if not any((self.path / file).is_file() for file in ("tokenizer.json", "vocab.json")):
            raise MissingModelError(f"{self.path}: this checkpoint has no tokenizer (tokenizer.json) to read captions.")
        with checkpoint_errors(self.path):
            return CLIPTokenizer.from_pretrained(self.path, local_files_only=True)


class Laion:
    """LAION's aesthetic predictor: a linear layer on CLIP, fitted to people's ratings from 1 to 10.

    The score is the rating over 10, as in VBench; it is not clamped to 0..1, which real images hardly leave.

    Raises:
        MissingModelError: a checkpoint is not on this machine, or (on first use) cannot be read.
        UsageError: there is no folder ``weights_dir``.
    """

    clip, head = CLIP_LARGE, LAION
    suffix = ""

    def __init__(self, weights_dir: Path | None = None, device: str = "cpu") -> None:
        self._clip = Clip(weights_dir, device, self.clip)
        self._path = locate(self.head, weights_dir)
        self.name = f"{self.head.label(self._path)} on {self._clip.name}"

    @torch.inference_mode()
    def score(self, frames: Sequence[Frame]) -> np.ndarray:
        """(N,) float32."""
        embeddings = functional.normalize(torch.from_numpy(self._clip.encode(frames)), dim=-1)
        return self._linear(embeddings)[:, 0].numpy() / 10

    @cached_property
    def _linear(self) -> torch.nn.Linear:
        linear = torch.nn.Linear(768, 1)
        with checkpoint_errors(self._path):
            linear.load_state_dict(torch.load(open_regular_file(self._path), map_location="cpu", weights_only=True))
        return linear.eval()


def to_tensor(frames: Sequence[Frame], device: str = "cpu") -> torch.Tensor:
    """Frames of one size -> (N, 3, H, W) float32, 0..255."""
    stacked = torch.from_numpy(np.stack([frame.rgb for frame in frames]))
    return stacked.to(device).permute(0, 3, 1, 2).float()


def resize(images: torch.Tensor, side: int, mode: str) -> torch.Tensor:
    """Images whose shorter side is ``side``; the longer one is rounded down, as in torchvision."""
    height, width = images.shape[-2:]
    size = (side, int(side * width / height)) if height <= width else (int(side * height / width), side)
    return functional.interpolate(images, size, mode=mode, align_corners=False, antialias=False)


def center_crop(images: torch.Tensor, side: int) -> torch.Tensor:
    """The square in the middle of images; an odd margin is split by Python's rounding, as in torchvision."""
    top, left = (round((length - side) / 2) for length in images.shape[-2:])
    return images[..., top : top + side, left : left + side]


def normalize(images: torch.Tensor, mean: Sequence[float], deviation: Sequence[float]) -> torch.Tensor:
    """Images 0..255 -> 0..1, less the mean of each colour, over its deviation."""
    mean, deviation = (images.new_tensor(values)[:, None, None] for values in (mean, deviation))
    return (images / 255 - mean) / deviation


def load_network(
    kind: str,
    checkpoint: Checkpoint,
    path: Path,
    **options: Any,  # noqa: ANN401
) -> PreTrainedModel:
    """Loads a network of transformers, by the name of its class, in float32, for inference.

    Raises:
        MissingModelError: its files are damaged, or of another kind of network; or transformers cannot be used.
    """
    import transformers
    from transformers.utils import logging

    try:
        from_pretrained = getattr(transformers, kind).from_pretrained
    except ImportError as error:  # it imports torchvision where there is one, whatever torch that was built for
        raise MissingModelError(
            f"transformers cannot be used ({error}); does the torchvision here go with torch {torch.__version__}?"
        ) from error
    logging.set_verbosity_error()  # otherwise it reports each unused tensor, such as CLIP's other half
    logging.disable_progress_bar()
    safetensors = checkpoint.files[0] == SAFETENSORS  # the file whose hash was compared, should both exist
    with checkpoint_errors(path):
        network, report = from_pretrained(
            path,
            local_files_only=True,
            dtype=torch.float32,
            use_safetensors=safetensors,
            output_loading_info=True,
            **options,
        )
    absent = sorted(report["missing_keys"])
    if absent:
        raise MissingModelError(f"{path}: this checkpoint lacks {len(absent)} tensors, the first is {absent[0]}.")
    return network.eval()


@contextmanager
def checkpoint_errors(path: Path) -> Iterator[None]:
    """Turns the errors of reading a checkpoint into a sentence.

    Raises:
        MissingModelError: in place of what the libraries raise.
    """
    try:
        yield
    except (*DAMAGED, SafetensorError, pickle.UnpicklingError) as error:
        why = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".:")
        raise MissingModelError(f"{path}: this checkpoint is damaged, or of another kind ({why}).") from error


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
            network.load_state_dict(torch.load(open_regular_file(self._path), map_location="cpu", weights_only=True))
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
