"""What finished blocks leave behind, and the choice of what may still be looked at.

    remember(block, ...)    a block is finished: its un-rotated keys and values come in
    choose(blocks)          these blocks are drawn next: which remembered entries do they see?

A memory answers these two questions; one that keeps every block's tokens as they come begins from ``Dense``.
Coordinates and times live on the CPU, keys and values where the network is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar, Protocol

import torch

from blockvid_cli.denoiser.attention import Layer, Recalled
from blockvid_cli.denoiser.rope import Rope
from blockvid_cli.story.plan import Block, Plan, PlannedChunk


@dataclass(frozen=True)
class Kept:
    """A layer's kept tokens: keys and values (B, T, H, D), coordinates (T, 3): frame of the entry, row, column."""

    keys: torch.Tensor
    values: torch.Tensor
    coordinates: torch.Tensor

    def at(self, index: torch.Tensor) -> Kept:
        """Only the tokens at ``index``."""
        here = index.to(self.keys.device)
        return Kept(self.keys[:, here], self.values[:, here], self.coordinates[index])


@dataclass(frozen=True)
class Entry:
    """Some remembered frames of the film, by their numbers, and what each layer kept of them."""

    frames: tuple[int, ...]
    layers: tuple[Kept, ...]

    def fetch(self) -> Entry:
        """The entry with its tokens where the network is."""
        return self

    def last(self, count: int) -> Entry:
        """Only its last ``count`` frames."""
        return self.only(range(max(len(self.frames) - count, 0), len(self.frames)))

    def first(self, count: int) -> Entry:
        """Only its first ``count`` frames."""
        return self.only(range(min(count, len(self.frames))))

    def only(self, frames: range) -> Entry:
        """Only those of its frames, counted from 0."""
        if len(frames) == len(self.frames):
            return self
        layers = []
        for kept in self.layers:
            frame = kept.coordinates[:, 0]
            part = kept.at(((frame >= frames.start) & (frame < frames.stop)).nonzero()[:, 0])
            moved = part.coordinates - torch.tensor([frames.start, 0, 0])
            layers.append(replace(part, coordinates=moved))
        return Entry(self.frames[frames.start : frames.stop], tuple(layers))


@dataclass(frozen=True)
class Stored:
    """An entry whose tokens lie elsewhere, and how they come back; ``span`` are the frames wanted of it."""

    whole: tuple[int, ...]
    load: Callable[[], Entry]
    span: range

    @property
    def frames(self) -> tuple[int, ...]:
        """Numbers in the film of the frames that are wanted."""
        return self.whole[self.span.start : self.span.stop]

    def fetch(self) -> Entry:
        """See ``Entry``."""
        return self.load().only(self.span)

    def last(self, count: int) -> Stored:
        """Only its last ``count`` frames."""
        return replace(self, span=self.span[max(len(self.span) - count, 0) :])

    def first(self, count: int) -> Stored:
        """Only its first ``count`` frames."""
        return replace(self, span=self.span[:count])


class Storage(Protocol):
    """Where remembered tokens lie until they are looked at."""

    def keep(self, entry: Entry, blocks: Sequence[Block]) -> Entry | Stored:
        """Puts away what some finished blocks left behind."""


class OnDevice:
    """Where the network is, as they were drawn."""

    def keep(self, entry: Entry, blocks: Sequence[Block]) -> Entry | Stored:
        """See ``Storage``."""
        return entry


class View:
    """The entries that some blocks look at, in the order of their times; made anew for each block."""

    def __init__(self, entries: Sequence[Entry | Stored] = ()) -> None:
        self._stored = [entry for entry in entries if entry.frames]
        self.frames = tuple(frame for entry in self._stored for frame in entry.frames)
        self._recalled: dict[int, Recalled] = {}

    @cached_property
    def entries(self) -> list[Entry]:
        """The entries with their tokens; fetched when the first layer asks."""
        return [entry.fetch() for entry in self._stored]

    def recall(self, layer: int) -> Recalled | None:
        """The tokens a layer may look at; None when nothing is remembered."""
        if not self._stored:
            return None
        if layer not in self._recalled:
            kept = self.tokens(layer)
            self._recalled[layer] = Recalled(kept.keys, kept.values, kept.coordinates)
        return self._recalled[layer]

    def tokens(self, layer: int) -> Kept:
        """All tokens of a layer, with the index of their frame among ``frames``."""
        coordinates, first = [], 0
        for entry in self.entries:
            coordinates.append(entry.layers[layer].coordinates + torch.tensor([first, 0, 0]))
            first += len(entry.frames)
        return Kept(
            torch.cat([entry.layers[layer].keys for entry in self.entries], 1),
            torch.cat([entry.layers[layer].values for entry in self.entries], 1),
            torch.cat(coordinates),
        )


class Memory:
    """The choice of what is kept and seen; a new one overrides what it answers differently."""

    storage: Storage = OnDevice()
    remembers: ClassVar[bool] = True

    def begin(self, chunks: Sequence[PlannedChunk], rope: Rope) -> None:
        """The film's chunks and the network's rotation, before the first block."""

    def remember(self, block: Block, layers: Sequence[Layer], coordinates: torch.Tensor) -> None:
        """Takes in a finished block: each layer's queries, keys, values, and coordinates (T, 3) of its tokens."""
        raise TypeError(f"{type(self).__name__} does not remember")

    def choose(self, blocks: Sequence[Block]) -> View:
        """What these blocks, drawn together next, look back at."""
        raise TypeError(f"{type(self).__name__} does not choose")

    def reach(self, plan: Plan) -> tuple[int, int]:
        """The most latent frames of a film that are looked at at once, and that are kept at its end."""
        total = sum(block.frames for block in plan.blocks)
        return total, total

    def on_caption_change(self, block: Block) -> None:
        """Called before the first block of a chunk is drawn."""

    def on_cut(self, block: Block) -> None:
        """Called before the first block of a shot is drawn."""


class Dense(Memory):
    """Keeps every block's tokens as they come; a memory that forgets overrides ``keep``."""

    def __init__(self) -> None:
        self.entries: dict[int, Entry | Stored] = {}

    def begin(self, chunks: Sequence[PlannedChunk], rope: Rope) -> None:
        """See ``Memory``."""
        self.entries = {}

    def remember(self, block: Block, layers: Sequence[Layer], coordinates: torch.Tensor) -> None:
        """See ``Memory``."""
        self.entries[block.number] = self.storage.keep(dense(block, layers, coordinates), [block])

    def past(self, blocks: Sequence[Block]) -> list[Entry | Stored]:
        """The entries of all blocks before these, in order."""
        return [self.entries[number] for number in sorted(self.entries) if number < blocks[0].number]


def dense(block: Block, layers: Sequence[Layer], coordinates: torch.Tensor) -> Entry:
    """A block's entry with all its tokens."""
    kept = tuple(Kept(layer.keys, layer.values, coordinates) for layer in layers)
    return Entry(tuple(range(block.first, block.first + block.frames)), kept)
