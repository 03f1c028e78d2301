"""What finished blocks leave behind, and the choice of what may still be looked at.

    remember(block, ...)    a block is finished: its un-rotated keys and values come in
    choose(blocks)          these blocks are drawn next: which remembered entries do they see?

A memory answers these two questions; one that keeps every block's tokens as they come begins from ``Dense``.
Coordinates and times live on the CPU, keys and values where the network is.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol

import torch

from blockvid_cli.models.wan.attention import LayerQKV, Recalled
from blockvid_cli.models.wan.rope import Rope
from blockvid_cli.storyboard.plan import Block, Plan, PlannedChunk


@dataclass(frozen=True)
class TokenKV:
    """A layer's kept tokens: keys and values (B, T, H, D), coordinates (T, 3): frame of the entry, row, column."""

    keys: torch.Tensor
    values: torch.Tensor
    coordinates: torch.Tensor

    def select(self, index: torch.Tensor) -> TokenKV:
        """Only the tokens at ``index``."""
        here = index.to(self.keys.device)
        return TokenKV(self.keys[:, here], self.values[:, here], self.coordinates[index])

    def of_frames(self, frames: range) -> TokenKV:
        """Only the tokens of some of the entry's frames, which are then counted from 0."""
        frame = self.coordinates[:, 0]
        part = self.select(((frame >= frames.start) & (frame < frames.stop)).nonzero()[:, 0])
        return replace(part, coordinates=part.coordinates - torch.tensor([frames.start, 0, 0]))


@dataclass(frozen=True)
class CacheEntry:
    """Some remembered frames of the film, by their numbers, and what each layer kept of them.

    Args:
        whole: numbers of all its frames.
        read: what a layer kept; asked for in every pass unless ``stays``.
        span: which of its frames are wanted.
        stays: whether a layer's tokens, once read, may stay where the network is while a block is drawn.
    """

    all_frames: tuple[int, ...]
    read_layer: Callable[[int], TokenKV]
    span: range
    resident: bool = True

    @property
    def frames(self) -> tuple[int, ...]:
        """Numbers in the film of the frames that are wanted."""
        return self.all_frames[self.span.start : self.span.stop]

    def layer(self, number: int) -> TokenKV:
        """The tokens of a layer."""
        kept = self.read_layer(number)
        return kept if len(self.span) == len(self.all_frames) else kept.of_frames(self.span)

    def last(self, count: int) -> CacheEntry:
        """Only its last ``count`` frames."""
        return replace(self, span=self.span[max(len(self.span) - count, 0) :])

    def first(self, count: int) -> CacheEntry:
        """Only its first ``count`` frames."""
        return replace(self, span=self.span[:count])


def resident_entry(frames: Sequence[int], layers: Sequence[TokenKV]) -> CacheEntry:
    """An entry whose tokens are where the network is."""
    return CacheEntry(tuple(frames), tuple(layers).__getitem__, range(len(frames)))


class Storage(Protocol):
    """Where remembered tokens lie until they are looked at."""

    def store(self, frames: Sequence[int], layers: Sequence[TokenKV], blocks: Sequence[Block]) -> CacheEntry:
        """Puts away what the layers kept of some finished blocks' frames."""


class OnDevice:
    """Where the network is, as they were drawn."""

    def store(self, frames: Sequence[int], layers: Sequence[TokenKV], blocks: Sequence[Block]) -> CacheEntry:
        """See ``Storage``."""
        return resident_entry(frames, layers)


class KVView:
    """The entries that some blocks look at, in the order of their times; made anew for each block."""

    def __init__(self, entries: Sequence[CacheEntry] = (), record: bool = False) -> None:
        self.entries = [entry for entry in entries if entry.frames]
        self.record = record
        self.frames = tuple(frame for entry in self.entries for frame in entry.frames)
        self._recalled: dict[int, Recalled] = {}
        self._places: dict[bytes, torch.Tensor] = {}  # layers that keep the same tokens share coordinates
        self._angles: dict[tuple[int, bytes], tuple[torch.Tensor, torch.Tensor]] = {}

    def read(self, layer: int) -> Recalled | None:
        """The tokens a layer may look at; None when nothing is remembered."""
        if not self.entries:
            return None
        if layer in self._recalled:
            return self._recalled[layer]
        kept = self.tokens(layer)
        recalled = Recalled(kept.keys, kept.values, kept.coordinates, angles=self._angles)
        if all(entry.resident for entry in self.entries):
            self._recalled[layer] = recalled
        return recalled

    def tokens(self, layer: int) -> TokenKV:
        """All tokens of a layer, with the index of their frame among ``frames``."""
        parts = [entry.layer(layer) for entry in self.entries]
        keys = torch.cat([part.keys for part in parts], 1)
        values = torch.cat([part.values for part in parts], 1)
        return TokenKV(keys, values, self._located([part.coordinates for part in parts]))

    def _located(self, parts: Sequence[torch.Tensor]) -> torch.Tensor:
        """Coordinates of all entries' tokens, frames counted through; one tensor for all layers of equal parts."""
        same = b"".join(part.numpy().tobytes() for part in parts)
        if same not in self._places:
            firsts = itertools.accumulate((len(entry.frames) for entry in self.entries[:-1]), initial=0)
            moved = [part + torch.tensor([first, 0, 0]) for part, first in zip(parts, firsts, strict=True)]
            self._places[same] = torch.cat(moved)
        return self._places[same]


class KVCache:
    """The choice of what is kept and seen; a new one overrides what it answers differently."""

    storage: Storage = OnDevice()
    needs_update: ClassVar[bool] = True

    @property
    def token_counts(self) -> Mapping[int, tuple[int, int]]:
        """How many of how many tokens were kept of each finished chunk; nothing where all are."""
        return {}

    def begin(self, chunks: Sequence[PlannedChunk], rope: Rope) -> None:
        """The film's chunks and the network's rotation, before the first block."""

    def update(self, block: Block, layers: Sequence[LayerQKV], coordinates: torch.Tensor) -> None:
        """Takes in a finished block: each layer's queries, keys, values, and coordinates (T, 3) of its tokens."""
        raise TypeError(f"{type(self).__name__} does not remember")

    def view(self, blocks: Sequence[Block]) -> KVView:
        """What these blocks, drawn together next, look back at."""
        raise TypeError(f"{type(self).__name__} does not choose")

    def max_cached_frames(self, plan: Plan) -> tuple[int, int]:
        """The most latent frames of a film that are looked at at once, and that are kept at its end."""
        total = sum(block.frames for block in plan.blocks)
        return total, total

    def on_prompt_change(self, block: Block) -> None:
        """Called before the first block of a chunk is drawn."""

    def on_cut(self, block: Block) -> None:
        """Called before the first block of a shot is drawn."""


class DenseCache(KVCache):
    """Keeps every block's tokens as they come; a memory that forgets overrides ``keep``."""

    def __init__(self) -> None:
        self.entries: dict[int, CacheEntry] = {}

    def begin(self, chunks: Sequence[PlannedChunk], rope: Rope) -> None:
        """See ``Memory``."""
        self.entries = {}

    def update(self, block: Block, layers: Sequence[LayerQKV], coordinates: torch.Tensor) -> None:
        """See ``Memory``."""
        self.entries[block.number] = self.storage.store(*block_tokens(block, layers, coordinates), [block])

    def visible(self, blocks: Sequence[Block]) -> list[CacheEntry]:
        """The entries of all blocks before these, in order."""
        return [self.entries[number] for number in sorted(self.entries) if number < blocks[0].number]


def block_tokens(block: Block, layers: Sequence[LayerQKV], coordinates: torch.Tensor) -> tuple[range, list[TokenKV]]:
    """A block's frames, and all tokens of each layer."""
    kept = [TokenKV(layer.keys, layer.values, coordinates) for layer in layers]
    return range(block.first, block.first + block.frames), kept
