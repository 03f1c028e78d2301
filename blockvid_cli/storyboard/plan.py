"""Turns a storyboard into a plan: its chunks, and the blocks of latent frames that are denoised together.

    seconds   0         4         8        12            (chunks of 4 s at 12 fps, blocks of 3 latents)
    frames    0 .. 45 ..... 93 ..... 141 ...            a block ends at frame 4·(latents - 1) + 1
    latents   |0 1 2|3 4 5|6 7 8|9 10 11|12 ...
    blocks    0     1     2     3       4               chunk 1 = blocks 0-3, chunk 2 = blocks 4-7, ...

    borders   0        1           2           3       border k >= 1 lies at frame 4·(3k) - 3

The VAE maps 1 + 4k frames to 1 + k latents, so the first latent of a film is one frame. Every chunk is a whole number
of blocks, at least one. Chunk borders are rounded to the nearest block border, the last one up, and the film is trimmed
to its length; what was rounded is noted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cached_property
from math import ceil, floor
from pathlib import Path
from typing import Any

from blockvid_cli.errors import StoryboardError, UsageError, plural
from blockvid_cli.models.card import ModelCard
from blockvid_cli.storyboard.field_types import LARGEST_FPS, SMALLEST_FPS
from blockvid_cli.storyboard.storyboard import Chunk, Storyboard


@dataclass(frozen=True)
class PlannedChunk:
    """A chunk of the film: its prompt, its seed and the blocks it is made of.

    The prompt lives here and nowhere else; the chunk's blocks refer to it.
    """

    number: int  # counted from 1
    shot: int  # counted from 1
    caption: str  # as written, without style
    prompt: str  # the text that the network reads: style and caption, or what a rewriter made of them
    negative_prompt: str  # what guidance steers away from
    start: float  # seconds, as the storyboard has it
    end: float
    first_frame: int  # pixel frames, after rounding; end_frame is one past the last
    end_frame: int
    first_block: int  # counted from 0 through the film
    block_count: int
    block_frames: int  # latent frames in a block
    seed: int  # a pure function of film seed, chunk number and take
    cut: bool
    take: int = 1
    rewritten: bool = False  # a rewriter made the prompt another sentence than the caption
    image: Path | None = None  # the image that the chunk begins with
    end_image: Path | None = None  # the image that the chunk ends with
    recipe: Mapping[str, Any] = field(default_factory=dict, hash=False)  # changes of the recipe for this chunk
    warnings: tuple[str, ...] = ()  # what will not be as caption or picture has it, one sentence each

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """The blocks of this chunk, in order."""
        numbers = range(self.first_block, self.first_block + self.block_count)
        return tuple(Block(number, number * self.block_frames, self.block_frames, self) for number in numbers)

    @property
    def begins_shot(self) -> bool:
        """Whether nothing of its shot comes before it."""
        return self.cut or self.number == 1

    @property
    def retrieval_text(self) -> str:
        """The text by which a KV cache compares this chunk with others: the caption, or the rewritten prompt."""
        return self.prompt if self.rewritten else self.caption


@dataclass(frozen=True)
class Block:
    """A group of latent frames that are denoised together."""

    number: int  # counted from 0 through the film
    first: int  # its first latent frame, counted from 0 through the film
    frames: int  # how many latent frames
    planned: PlannedChunk  # the chunk it belongs to

    @property
    def frame_indices(self) -> range:
        """Its latent frames, counted from 0 through the film."""
        return range(self.first, self.first + self.frames)

    @property
    def chunk(self) -> int:
        """The number of its chunk, counted from 1."""
        return self.planned.number

    @property
    def shot(self) -> int:
        """The number of its shot, counted from 1."""
        return self.planned.shot

    @property
    def prompt(self) -> str:
        """The prompt of its chunk."""
        return self.planned.prompt

    @property
    def negative_prompt(self) -> str:
        """The negative prompt of its chunk."""
        return self.planned.negative_prompt

    @property
    def seed(self) -> int:
        """The seed of its chunk."""
        return self.planned.seed

    @property
    def take(self) -> int:
        """The take of its chunk."""
        return self.planned.take


@dataclass(frozen=True)
class Plan:
    """The chunks and blocks of a film, in order."""

    chunks: tuple[PlannedChunk, ...]
    fps: float
    size: tuple[int, int]  # width, height in pixels
    latent: tuple[int, int, int]  # (C, H, W) of one latent frame
    frames: int  # pixel frames of the film after trimming
    seed: int
    notes: tuple[str, ...] = ()  # what was rounded, one sentence each
    warnings: tuple[str, ...] = ()  # what the model cannot draw, one sentence for all chunks concerned

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """All blocks of the film."""
        return tuple(block for chunk in self.chunks for block in chunk.blocks)


def chunk_seed(film_seed: int, chunk: int, take: int = 1) -> int:
    """Returns the seed of a take: 63 bits that depend on film seed, chunk number and take, and on nothing else."""
    digest = hashlib.blake2b(f"{film_seed} {chunk} {take}".encode()).digest()
    return int.from_bytes(digest[:8], "big") & (2**63 - 1)


def make_plan(
    storyboard: Storyboard,
    card: ModelCard,
    *,
    seed: int,
    size: tuple[int, int] | None = None,
    fps: float | None = None,
    takes: Mapping[int, int] | None = None,
    untrained_size: bool = False,
) -> Plan:
    """Plans the blocks of a storyboard for a model; ``size`` and ``fps`` replace the storyboard's.

    ``untrained_size`` allows a size that the model was not trained for, as the storyboard's own key does.

    ``takes`` names, by chunk number, the chunks that are to use another take than the first.

    Raises:
        UsageError: the model was not trained for the size, or cannot draw it at all, or the frame rate makes no sense.
        StoryboardError: a chunk is too short to have a block.
    """
    storyboard = replace(storyboard, negative=storyboard.negative or card.negative_prompt)
    size = _check_size(size or storyboard.size or card.size, card, untrained_size or storyboard.untrained_size)
    rate = fps if fps is not None else storyboard.fps or card.fps
    if not SMALLEST_FPS <= rate <= LARGEST_FPS:
        raise UsageError(f"{rate:g} frames a second are out of bounds; choose {SMALLEST_FPS} to {LARGEST_FPS}")
    grid = Grid(card.latent.time, card.block, Fraction(repr(float(rate))))
    frames = max(1, round(storyboard.seconds * grid.fps))
    borders = chunk_borders(storyboard, grid, frames)
    chunks: list[PlannedChunk] = []
    for chunk, first, last in zip(storyboard.chunks, [0, *borders], borders, strict=False):
        shot = chunks[-1].shot + chunk.cut if chunks else 1
        number = len(chunks) + 1
        take = (takes or {}).get(number, 1)
        chunks.append(_planned(storyboard, chunk, number, take, shot, range(first, last), grid, seed, frames))
    return Plan(
        chunks=tuple(chunks),
        fps=float(rate),
        size=size,
        latent=card.latent_shape(size),
        frames=frames,
        seed=seed,
        notes=_notes(storyboard, chunks, grid.fps),
    )


def _check_size(size: tuple[int, int], card: ModelCard, untrained_size: bool) -> tuple[int, int]:
    """Returns the size, if the model was trained for it or ``untrained_size`` allows another that it can draw."""
    if size in card.sizes_trained_for:
        return size
    said = f"the model '{card.name}' was trained for {trained_sizes(card)}"
    if any(side <= 0 or side % step for side, step in zip(size, card.size_multiple, strict=True)):
        steps = "{}x{}".format(*card.size_multiple)
        raise UsageError(f"{said}, and cannot draw {size[0]}x{size[1]}: its sizes are multiples of {steps} pixels")
    if not untrained_size:
        raise UsageError(
            f"{said}, and draws {size[0]}x{size[1]} badly or not at all; leave the size out, or allow it all the same"
            " with --untrained-size (in a storyboard: 'untrained_size: true'). Finished films cannot be enlarged yet"
        )
    return size


def trained_sizes(card: ModelCard) -> str:
    """The sizes that a model was trained for, as a person writes them."""
    return " or ".join(f"{width}x{height}" for width, height in card.sizes_trained_for)


def _planned(
    storyboard: Storyboard,
    chunk: Chunk,
    number: int,
    take: int,
    shot: int,
    blocks: range,
    grid: Grid,
    film_seed: int,
    frames: int,
) -> PlannedChunk:
    """Plans one chunk; the end of the last one is trimmed to the film's ``frames``."""
    seed = chunk.seed if chunk.seed is not None and take == 1 else None
    if seed is None:
        seed = chunk_seed(film_seed if chunk.seed is None else chunk.seed, number, take)
    return PlannedChunk(
        number=number,
        shot=shot,
        caption=chunk.caption,
        prompt=f"{storyboard.style}, {chunk.caption}" if storyboard.style else chunk.caption,
        negative_prompt=storyboard.negative if chunk.negative is None else chunk.negative,
        start=float(chunk.start),
        end=float(chunk.end),
        first_frame=grid.frame(blocks.start),
        end_frame=min(grid.frame(blocks.stop), frames),
        first_block=blocks.start,
        block_count=len(blocks),
        block_frames=grid.block,
        seed=seed,
        take=take,
        cut=chunk.cut,
        image=chunk.image,
        end_image=chunk.end_image,
        recipe=chunk.recipe,
    )


def _notes(storyboard: Storyboard, chunks: list[PlannedChunk], fps: Fraction) -> tuple[str, ...]:
    """Returns a sentence for all borders that are not where the storyboard has them, and one for the end."""
    notes = []
    starts = [(c.number, c.first_frame / fps, w.start) for w, c in zip(storyboard.chunks, chunks, strict=True)]
    moved = [(number, start, written) for number, start, written in starts if start != written]
    if moved:
        number, start, written = max(moved, key=lambda each: abs(each[1] - each[2]))
        instead = f"chunk {number} begins at {_two_decimals(start)} s instead of {_two_decimals(written)} s"
        others = f"; {plural(len(moved) - 1, 'other chunk')} moved by no more than that" if len(moved) > 1 else ""
        notes.append(f"{instead} (block border){others}")
    film = chunks[-1].end_frame / fps
    if film != storyboard.seconds:
        notes.append(
            f"the film lasts {_two_decimals(film)} s instead of {_two_decimals(storyboard.seconds)} s (whole frames)"
        )
    return tuple(notes)


@dataclass(frozen=True)
class Grid:
    """Where blocks may end: border 0 at frame 0, border k >= 1 at frame time·(k·block - 1) + 1."""

    time: int  # pixel frames a latent frame
    block: int  # latent frames a block
    fps: Fraction

    @property
    def step(self) -> int:
        """Pixel frames from one border to the next (the first block is ``time - 1`` shorter)."""
        return self.time * self.block

    def frame(self, border: int) -> int:
        """Returns the pixel frame that a border lies at."""
        return max(0, self.step * border - self.time + 1)

    def position(self, seconds: Fraction) -> Fraction:
        """Returns a time counted in borders: a whole number where it falls on one."""
        return (seconds * self.fps + self.time - 1) / self.step


def chunk_borders(storyboard: Storyboard, grid: Grid, frames: int) -> list[int]:
    """Returns the block border that ends each chunk: the nearest one, a later one where chunks would share it.

    The last border is the first at which the film is long enough. The others may be moved by one block at most: a
    short chunk may last longer than the storyboard says, but later chunks do not drift.

    Raises:
        StoryboardError: a chunk is too short to have a block.
    """
    exact = [grid.position(chunk.end) for chunk in storyboard.chunks]
    borders: list[int] = []
    for position in exact:
        borders.append(max(floor(position + Fraction(1, 2)), borders[-1] + 1 if borders else 1))
    borders[-1] = ceil(grid.position(frames / grid.fps))
    for index in range(len(borders) - 2, -1, -1):
        borders[index] = min(borders[index], borders[index + 1] - 1)
    for index, (border, position) in enumerate(zip(borders, exact, strict=True)):
        displaced = abs(border - position) > 1 and index < len(borders) - 1
        if border < index + 1 or displaced:
            raise _too_short(storyboard, index, grid)
    return borders


def _too_short(storyboard: Storyboard, index: int, grid: Grid) -> StoryboardError:
    """Returns an error about the chunk nearest to ``index`` that is shorter than a block."""
    shortest = grid.step / grid.fps
    short = [n for n, chunk in enumerate(storyboard.chunks) if chunk.end - chunk.start < shortest] or [index]
    number = min(short, key=lambda n: abs(n - index))
    chunk = storyboard.chunks[number]
    return StoryboardError(
        f"{chunk.location}: chunks[{number + 1}]: lasts {_two_decimals(chunk.end - chunk.start)} s, which is shorter "
        f"than a block; with this model make it at least {_two_decimals(shortest)} s, or join it with the next chunk"
    )


def _two_decimals(seconds: Fraction) -> str:
    """Returns seconds with two decimals, or three where two would round."""
    return f"{float(seconds):.2f}" if (seconds * 100).denominator == 1 else f"{float(seconds):.3f}"
