"""The KV cache: what finished blocks leave behind, and which of it the next blocks attend to.

    update(block, ...)    a block is finished: its un-rotated keys and values are stored
    view(blocks)          these blocks are denoised next: which cached tokens do they attend to?

A cut means the same in every cache: frames of another shot are not attended to, unless a retrieval names them. A cache
that stores all tokens of every block derives from ``DenseCache``. Coordinates and positions are on the CPU, keys and
values where the network is.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol

import torch

from blockvid_cli.models.wan.attention import LayerQKV, TokenKV, concat_bias
from blockvid_cli.models.wan.rope import CosSin, Rope, apply_rope
from blockvid_cli.storyboard.plan import Block, Plan, PlannedChunk


@dataclass(frozen=True)
class CacheEntry:
    """Some cached frames of the film, and the tokens each layer has of them.

    Args:
        all_frames: their numbers in the film.
        read_layer: the tokens of a layer; called in every pass unless ``resident``.
        span: which of the frames are attended to.
        shot: the shot they belong to.
        resident: whether a layer's tokens, once read, may stay where the network is while a block is denoised.
    """

    all_frames: tuple[int, ...]
    read_layer: Callable[[int], TokenKV]
    span: range
    shot: int = 1
    resident: bool = True

    @property
    def frames(self) -> tuple[int, ...]:
        """Numbers in the film of the frames that are attended to."""
        return self.all_frames[self.span.start : self.span.stop]

    def layer(self, number: int) -> TokenKV:
        """The tokens of a layer."""
        tokens = self.read_layer(number)
        return tokens if len(self.span) == len(self.all_frames) else tokens.of_frames(self.span)

    def last(self, count: int) -> CacheEntry:
        """Only its last ``count`` frames."""
        return replace(self, span=self.span[max(len(self.span) - count, 0) :])

    def first(self, count: int) -> CacheEntry:
        """Only its first ``count`` frames."""
        return replace(self, span=self.span[:count])


def resident_entry(frames: Sequence[int], layers: Sequence[TokenKV], shot: int = 1) -> CacheEntry:
    """An entry whose tokens are where the network is."""
    return CacheEntry(tuple(frames), tuple(layers).__getitem__, range(len(frames)), shot)


class Storage(Protocol):
    """Where cached tokens are kept until they are attended to."""

    def store(self, frames: Sequence[int], layers: Sequence[TokenKV], blocks: Sequence[Block]) -> CacheEntry:
        """Stores the tokens that each layer has of some frames of finished blocks (all of one shot)."""
        ...


class OnDevice:
    """Keeps tokens where the network is, in its precision."""

    def store(self, frames: Sequence[int], layers: Sequence[TokenKV], blocks: Sequence[Block]) -> CacheEntry:
        """Keeps the tensors themselves."""
        return resident_entry(frames, layers, blocks[0].shot)


class KVView:
    """The entries that some blocks attend to, in the order of their positions; made anew for each block.

    Args:
        record: whether the network's layers record the new tokens, for a cache update.
    """

    def __init__(self, entries: Iterable[CacheEntry] = (), record: bool = False) -> None:
        self.entries = [entry for entry in entries if entry.frames]
        self.record = record
        self.frames = tuple(frame for entry in self.entries for frame in entry.frames)
        self.shots = tuple(entry.shot for entry in self.entries for _ in entry.frames)
        self._tokens: dict[int, TokenKV] = {}
        self._rotated: dict[int, tuple[TokenKV, torch.Tensor, torch.Tensor]] = {}  # tokens, positions, keys
        self._coordinates: dict[bytes, torch.Tensor] = {}  # layers that cache the same tokens share coordinates
        self._tables: dict[tuple[int, bytes], CosSin] = {}

    def positions(
        self, part: Callable[[KVView, Sequence[Block]], torch.Tensor], blocks: Sequence[Block]
    ) -> torch.Tensor:
        """The positions that a part of the recipe gives to the cached frames and to those of the blocks."""
        return part(self, blocks)

    def read(self, layer: int, query: torch.Tensor | None = None) -> TokenKV | None:
        """All tokens of a layer, their frames counted as in ``frames``; None when there are none.

        A view that chooses by ``query`` (B, T, H, D) overrides this. Tokens stay joined for the passes that follow,
        unless gradients flow through them: a checkpointed layer must do the same again when it is run again.
        """
        if not self.entries:
            return None
        if layer in self._tokens:
            return self._tokens[layer]
        parts = [entry.layer(layer) for entry in self.entries]
        keys = torch.cat([part.keys for part in parts], 1)
        values = torch.cat([part.values for part in parts], 1)
        coordinates = self._joined([part.coordinates for part in parts])
        tokens = TokenKV(keys, values, coordinates, concat_bias(parts))
        if all(entry.resident for entry in self.entries) and not any(part.requires_grad for part in parts):
            self._tokens[layer] = tokens
        return tokens

    def rotated_keys(self, layer: int, tokens: TokenKV, rope: Rope, positions: torch.Tensor) -> torch.Tensor:
        """The keys (B, T, H, D) of tokens of this view when its frame i is at positions[i].

        Tokens that stay joined are rotated once for as long as the positions are the same.
        """
        rotated = self._rotated.get(layer)
        if rotated is not None and rotated[0] is tokens and torch.equal(rotated[1], positions):
            return rotated[2]
        keys = apply_rope(tokens.keys, self._table(tokens, rope, positions))
        if self._tokens.get(layer) is tokens:
            self._rotated[layer] = tokens, positions, keys
        return keys

    def _joined(self, parts: Sequence[torch.Tensor]) -> torch.Tensor:
        """Coordinates of all entries' tokens, frames counted through; one tensor for all layers of equal parts."""
        same = b"".join(part.numpy().tobytes() for part in parts)
        if same not in self._coordinates:
            firsts = itertools.accumulate((len(entry.frames) for entry in self.entries[:-1]), initial=0)
            moved = [part + torch.tensor([first, 0, 0]) for part, first in zip(parts, firsts, strict=True)]
            self._coordinates[same] = torch.cat(moved)
        return self._coordinates[same]

    def _table(self, tokens: TokenKV, rope: Rope, positions: torch.Tensor) -> CosSin:
        """Cosines and sines of tokens; layers of the same coordinates share them."""
        if not any(tokens.coordinates is shared for shared in self._coordinates.values()):
            return rope.cos_sin(tokens.coordinates, positions, tokens.keys.device)
        key = id(tokens.coordinates), repr(positions.shape).encode() + positions.double().numpy().tobytes()
        if key not in self._tables:
            self._tables[key] = rope.cos_sin(tokens.coordinates, positions, tokens.keys.device)
        return self._tables[key]


class KVCache:
    """What is cached and what is attended to; a new cache overrides what it does differently.

    A view is valid for as long as ``version`` stays the same: every update increments it, and so does a hook that
    changes what may be attended to.
    """

    storage: Storage = OnDevice()
    needs_update: ClassVar[bool] = True  # whether finished blocks must be passed through the network for this cache
    per_film: ClassVar[bool] = False  # whether films of a batch may attend to different frames or tokens
    version: int = 0

    @property
    def token_counts(self) -> Mapping[int, tuple[int, int]]:
        """By finished chunk: how many of how many tokens are cached; empty where all are."""
        return {}

    def begin(self, chunks: Sequence[PlannedChunk], rope: Rope) -> None:
        """Empties the cache and prepares it for a film, before the first block."""

    def update(self, block: Block, layers: Sequence[LayerQKV], coordinates: torch.Tensor) -> None:
        """Stores a finished block: each layer's queries, keys and values, and coordinates (T, 3) of its tokens."""
        raise TypeError(f"{type(self).__name__} cannot be updated")

    def view(self, blocks: Sequence[Block]) -> KVView:
        """What these blocks, denoised together next, attend to."""
        raise TypeError(f"{type(self).__name__} has no view")

    def max_cached_frames(self, plan: Plan) -> tuple[int, int]:
        """The most latent frames of a film that a block attends to, itself included, and that are stored at once."""
        total = sum(block.frames for block in plan.blocks)
        return total, total

    def on_prompt_change(self, block: Block) -> None:
        """Called before the first block of a chunk is denoised."""

    def on_cut(self, block: Block) -> None:
        """Called before the first block of a shot is denoised."""


class NoCache(KVCache):
    """Caches nothing: blocks must be denoised side by side to know of each other (SkyReels-V2, bidirectional clips)."""

    needs_update: ClassVar[bool] = False

    def view(self, blocks: Sequence[Block]) -> KVView:
        """Nothing."""
        return KVView()

    def max_cached_frames(self, plan: Plan) -> tuple[int, int]:
        """None and none."""
        return 0, 0


class DenseCache(KVCache):
    """Caches all tokens of every block; a cache that forgets says in ``needed`` what it still needs."""

    def __init__(self) -> None:
        self.entries: dict[int, CacheEntry] = {}  # by number of the block, in the order in which they were finished
        self._unfinished: dict[int, Block] = {}

    def begin(self, chunks: Sequence[PlannedChunk], rope: Rope) -> None:
        """Empties the cache; all blocks of the chunks are unfinished."""
        self.entries = {}
        self._unfinished = {block.number: block for chunk in chunks for block in chunk.blocks}
        self.version += 1

    def update(self, block: Block, layers: Sequence[LayerQKV], coordinates: torch.Tensor) -> None:
        """Stores all tokens, and drops the entries that no unfinished block will attend to."""
        self.entries[block.number] = self.storage.store(*block_tokens(block, layers, coordinates), [block])
        self._unfinished.pop(block.number, None)
        for number, entry in list(self.entries.items()):
            if not any(self.needed(entry, later) for later in self._unfinished.values()):
                del self.entries[number]
        self.version += 1

    def needed(self, entry: CacheEntry, block: Block) -> bool:
        """Whether an unfinished block may still attend to an entry."""
        return True

    def visible(self, blocks: Sequence[Block]) -> list[CacheEntry]:
        """The entries of the same shot that were finished before these blocks, in the film's order."""
        numbers, shots = {block.number for block in blocks}, {block.shot for block in blocks}
        before = itertools.takewhile(lambda number: number not in numbers, self.entries)  # as they were finished
        return [self.entries[number] for number in sorted(before) if self.entries[number].shot in shots]


class FullCache(DenseCache):
    """Attends to every finished block of the shot; cost grows with the shot's length."""

    def view(self, blocks: Sequence[Block]) -> KVView:
        """All of the shot."""
        return KVView(self.visible(blocks))

    def needed(self, entry: CacheEntry, block: Block) -> bool:
        """As long as its shot lasts."""
        return entry.shot == block.shot

    def max_cached_frames(self, plan: Plan) -> tuple[int, int]:
        """The longest shot."""
        longest = max(shot_frames(plan).values())
        return longest, longest


def shot_frames(plan: Plan) -> dict[int, int]:
    """How many latent frames each shot has."""
    frames: dict[int, int] = {}
    for block in plan.blocks:
        frames[block.shot] = frames.get(block.shot, 0) + block.frames
    return frames


def block_tokens(block: Block, layers: Sequence[LayerQKV], coordinates: torch.Tensor) -> tuple[range, list[TokenKV]]:
    """The frames of a block, and all tokens of each layer."""
    return block.frame_indices, [TokenKV(layer.keys, layer.values, coordinates) for layer in layers]
