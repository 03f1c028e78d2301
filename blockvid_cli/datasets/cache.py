"""Latents and prompt embeddings of a dataset, computed once and kept beside it.

    lv1m/.cache/latents-3f2a.../train/videos/000001.safetensors    latents (L, C, h, w) half; header: source, frames
    lv1m/.cache/prompts-91c0.../4e/4e21...safetensors              embedding (tokens, D) half, without the padding

The key of a folder is a hash of all that decides the values: the VAE's weights, size, rate and number format; or the
text encoder's weights. A video's own content is in the header of its file, so that a video which was replaced is
encoded again. Videos are encoded in pieces, large frames in tiles, whatever their length. Several processes share the
work: each takes the files whose number leaves its rank.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from blockvid_cli.datasets.folder import DatasetSettings, Split, VideoRow
from blockvid_cli.errors import BlockvidError
from blockvid_cli.files import open_regular_file, read_plain_json, read_regular_file
from blockvid_cli.models.card import ModelCard
from blockvid_cli.models.hub import fingerprint, sha256
from blockvid_cli.models.sentence_encoder import TextEncoder, text_hash
from blockvid_cli.models.vae import VAE
from blockvid_cli.project.atomic_files import write_atomically
from blockvid_cli.video.reader import frames_at

CACHE_FOLDER = ".cache"
PIECE_FRAMES = 32  # pixel frames that are encoded at once
MAX_LATENT_BYTES = 20_000_000_000
MAX_PROMPT_BYTES = 100_000_000
MAX_HEADER_BYTES = 1_000_000
PROMPTS_AT_ONCE = 16

Notify = Callable[[int, int], None]


@dataclass(frozen=True)
class VideoFormat:
    """What videos are encoded at: width and height in pixels, frames a second."""

    size: tuple[int, int]
    fps: float


def video_format(settings: DatasetSettings, card: ModelCard) -> VideoFormat:
    """The dataset's size and rate, or the model's where it names none."""
    return VideoFormat(settings.size or card.size, settings.fps or card.fps)


class LatentCache:
    """The latents of a dataset's videos for one VAE and format.

    Args:
        root: the dataset's folder.
    """

    def __init__(self, root: Path, card: ModelCard, form: VideoFormat) -> None:
        self.card, self.form = card, form
        parts = (fingerprint(card, [card.vae]), form.size, form.fps, "float16", PIECE_FRAMES)
        self.folder = root / CACHE_FOLDER / f"latents-{hashlib.sha256(repr(parts).encode()).hexdigest()[:16]}"

    def file(self, split: Split, row: VideoRow) -> Path:
        """The file of a video's latents."""
        return self.folder / split.folder.name / f"{row.file_name}.safetensors"

    def bytes_of(self, seconds: float) -> int:
        """How much disk the latents of a video need, in bytes."""
        channels, height, width = self.card.latent_shape(self.form.size)
        frames = 1 + int(seconds * self.form.fps) // self.card.latent.time
        return 2 * frames * channels * height * width

    def missing(self, split: Split) -> list[int]:
        """The numbers of the rows whose video has no latents, or has changed since."""
        return [number for number, row in enumerate(split) if not self.is_current(split, row)]

    def is_current(self, split: Split, row: VideoRow) -> bool:
        """Whether a video's latents are there and were made of the file as it is."""
        file, video = self.file(split, row), split.video(row)
        header = _header(file).get("__metadata__", {})
        try:
            state = video.stat()
        except OSError:
            return False
        if header.get("modified") == str(state.st_mtime_ns) and header.get("bytes") == str(state.st_size):
            return True
        return header.get("sha256") == sha256(video)

    def fill(self, split: Split, vae: VAE, notify: Notify, rank: int = 0, ranks: int = 1) -> None:
        """Encodes the videos that are missing; of several processes, each its share.

        Raises:
            UsageError: a video cannot be decoded.
            BlockvidError: the cache cannot be written to (``PartialError``: the disk is full).
        """
        missing = self.missing(split)[rank::ranks]
        for count, number in enumerate(missing, start=1):
            row = split[number]
            self.encode(split, row, vae)
            notify(count, len(missing))

    def encode(self, split: Split, row: VideoRow, vae: VAE) -> None:
        """Encodes one video and writes its latents."""
        video = split.video(row)
        state = video.stat()
        frames = frames_at(video, self.form.fps, self.form.size)
        latents = torch.cat([part.half().cpu() for part in vae.encode_stream(_pieces(frames, self.card.latent.time))])
        header = {
            "sha256": sha256(video),
            "bytes": str(state.st_size),
            "modified": str(state.st_mtime_ns),
            "source": row.file_name,
        }
        write_atomically(self.file(split, row), save({"latents": latents.contiguous()}, header))

    def read(self, split: Split, row: VideoRow) -> torch.Tensor:
        """The latents (L, C, h, w) of a video, half precision.

        Raises:
            BlockvidError: they are not in the cache, or their file is damaged.
        """
        file = self.file(split, row)
        try:
            return load(read_regular_file(file, MAX_LATENT_BYTES))["latents"]
        except (OSError, SafetensorError, KeyError) as error:
            raise BlockvidError(f"{file}: these latents cannot be read; 'blockvid data prepare' makes them.") from error

    def frames(self, split: Split, row: VideoRow) -> int:
        """How many latent frames a video has, 0 where it is not in the cache."""
        shape = _header(self.file(split, row)).get("latents", {}).get("shape", [])
        return shape[0] if shape and isinstance(shape[0], int) else 0


def _header(file: Path) -> dict[str, Any]:
    """The header of a safetensors file; empty where there is none, or it cannot be read."""
    try:
        with open_regular_file(file) as content:
            length = int.from_bytes(content.read(8), "little")
            header = read_plain_json(content.read(length)) if 0 < length < MAX_HEADER_BYTES else {}
    except (OSError, ValueError):
        return {}
    if not isinstance(header, dict):
        return {}
    return {name: value for name, value in header.items() if isinstance(value, dict)}


def _pieces(frames: Iterator[np.ndarray], time: int) -> Iterator[torch.Tensor]:
    """Frames in pieces as a VAE takes them: 1 + k·time first, then multiples of ``time``; a rest is left out."""
    piece: list[np.ndarray] = []
    first = True
    for frame in frames:
        piece.append(frame)
        if len(piece) == PIECE_FRAMES + first:
            yield _as_tensor(piece)
            piece, first = [], False
    rest = (len(piece) - first) // time * time + first
    if rest > 0 and len(piece) >= rest:
        yield _as_tensor(piece[:rest])


def _as_tensor(frames: Sequence[np.ndarray]) -> torch.Tensor:
    """Frames (F, 3, H, W) in 0..1."""
    return torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2).float() / 255


class PromptCache:
    """The prompts' embeddings by a model's text encoder.

    Args:
        root: the dataset's folder.
    """

    def __init__(self, root: Path, card: ModelCard) -> None:
        self.tokens = card.text.tokens
        encoder = (fingerprint(card, [card.text]) if card.text.file else card.family, self.tokens)
        self.folder = root / CACHE_FOLDER / f"prompts-{hashlib.sha256(repr(encoder).encode()).hexdigest()[:16]}"
        self.read = lru_cache(maxsize=512)(self._read)

    def missing(self, prompts: Sequence[str]) -> list[str]:
        """The prompts that are not in the cache."""
        return [prompt for prompt in dict.fromkeys(prompts) if not self._file(prompt).exists()]

    def fill(self, prompts: Sequence[str], encoder: TextEncoder, notify: Notify, rank: int = 0, ranks: int = 1) -> None:
        """Encodes the prompts that are missing; of several processes, each its share."""
        missing = self.missing(prompts)[rank::ranks]
        for first in range(0, len(missing), PROMPTS_AT_ONCE):
            texts = missing[first : first + PROMPTS_AT_ONCE]
            for text, embedding in zip(texts, encoder(texts), strict=True):
                used = int(embedding.abs().sum(-1).nonzero().max()) + 1 if embedding.any() else 1
                write_atomically(self._file(text), save({"embedding": embedding[:used].half().contiguous()}))
            notify(min(first + PROMPTS_AT_ONCE, len(missing)), len(missing))

    def _read(self, prompt: str) -> torch.Tensor:
        """The embedding (tokens, D) of a prompt, zeros behind its last token.

        Raises:
            BlockvidError: it is not in the cache, or its file is damaged.
        """
        file = self._file(prompt)
        try:
            embedding = load(read_regular_file(file, MAX_PROMPT_BYTES))["embedding"].float()
        except (OSError, SafetensorError, KeyError) as error:
            raise BlockvidError(f"{file}: this prompt cannot be read; 'blockvid data prepare' makes it.") from error
        padding = embedding.new_zeros(max(self.tokens - len(embedding), 0), embedding.shape[1])
        return torch.cat([embedding, padding])

    def _file(self, prompt: str) -> Path:
        name = text_hash(prompt)
        return self.folder / name[:2] / f"{name}.safetensors"
