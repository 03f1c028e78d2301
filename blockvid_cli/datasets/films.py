"""A dataset's films for training: windows of whole chunks, in batches of the same layout, in an order the seed decides.

    video      |chunk 1|chunk 2|chunk 3|chunk 4|chunk 5|       planned as a render plans the same captions
    window             |chunk 2|chunk 3|chunk 4|               one window of a video an epoch, at a random chunk
    batch      films whose windows have the same blocks and cuts; with several processes, another part of them for each

A window that does not begin with its video lacks what came before its first block; that block is given, not learned.
"""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch

from blockvid_cli.datasets.cache import LatentCache, PromptCache, VideoFormat
from blockvid_cli.datasets.folder import DatasetSettings, Split, VideoRow
from blockvid_cli.errors import StoryboardError, UsageError
from blockvid_cli.models.card import ModelCard
from blockvid_cli.rollout.films import PromptSource
from blockvid_cli.storyboard.plan import Block, Plan, PlannedChunk, chunk_seed, make_plan

Rewrite = Callable[[Plan, ModelCard], Plan]


class BatchRandom:
    """Random numbers of a batch: a generator for each film, so that a film is noised alike on whatever process it is,
    and one for what all films of all processes share.

    Args:
        names: what the numbers are for, such as a step and a part of the loss.
        films: the films' numbers in the whole batch, over all processes.
    """

    def __init__(self, names: object, films: Sequence[int]) -> None:
        self.shared = _generator(names)
        self.films = [_generator(names, film) for film in films]

    def normal(self, shape: Sequence[int]) -> torch.Tensor:
        """(B, *shape) of normal numbers, each film's of its own."""
        return torch.stack([torch.randn(*shape, generator=generator) for generator in self.films])

    def uniform(self, *shape: int) -> torch.Tensor:
        """(B, *shape) of numbers from 0 to 1, each film's of its own."""
        return torch.stack([torch.rand(*shape, generator=generator) for generator in self.films])

    def integers(self) -> list[int]:
        """A large number for each film."""
        return [int(torch.randint(2**62, (), generator=generator)) for generator in self.films]


def _generator(*names: object) -> torch.Generator:
    digest = hashlib.blake2b(repr(names).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") & (2**63 - 1))


@dataclass(frozen=True)
class FilmBatch:
    """B films whose plans have the same layout.

    Args:
        plans: one a film.
        latents: clean, (B, L, C, h, w).
        prompts: the embeddings of some blocks' prompts, as a rollout asks for them.
        opening: whether the films begin with their first block; otherwise it is given, and not learned.
        numbers: of the films in the whole batch, over all processes.
    """

    plans: tuple[Plan, ...]
    latents: torch.Tensor
    prompts: PromptSource
    opening: bool = True
    numbers: tuple[int, ...] = (0,)

    def random(self, *names: object) -> BatchRandom:
        """Random numbers for these films, a pure function of ``names``."""
        return BatchRandom(names, self.numbers)

    @property
    def plan(self) -> Plan:
        """The first film's plan, by which blocks are named."""
        return self.plans[0]

    def block(self, block: Block) -> torch.Tensor:
        """The clean latents (B, F, C, h, w) of a block."""
        return self.latents[:, block.first : block.first + block.frames].float()

    def chunk(self, number: int) -> torch.Tensor:
        """The clean latents (B, F, C, h, w) of a chunk, counted from 1."""
        blocks = self.plan.chunks[number - 1].blocks
        return self.latents[:, blocks[0].first : blocks[-1].first + blocks[-1].frames].float()

    def given(self) -> dict[int, torch.Tensor]:
        """The clean latents of the blocks that are given, by number: the first one, unless the films begin with it."""
        return {} if self.opening else {0: self.block(self.plan.blocks[0])}

    def with_seeds(self, random: BatchRandom) -> FilmBatch:
        """The same films with other seeds, for films that the network generates itself."""
        plans = [
            replace(plan, seed=seed, chunks=tuple(replace(c, seed=chunk_seed(seed, c.number)) for c in plan.chunks))
            for plan, seed in zip(self.plans, random.integers(), strict=True)
        ]
        return replace(self, plans=tuple(plans))


class FilmSource(Protocol):
    """Where batches of films come from."""

    def batch(self, step: int) -> FilmBatch:
        """The films of a training step, a pure function of the step."""
        ...

    def batches(self, count: int) -> Sequence[FilmBatch]:
        """Up to ``count`` batches of different films, always the same ones."""
        ...


class WindowedFilms:
    """Windows of a split's videos as a source of batches.

    Args:
        chunks: of a window; a shorter video is one window. None for whole videos.
        size: films in a batch.
        seed: of the order and of the windows.
        rank, ranks: which of several processes this is; each gets other films of the same layout.

    Raises:
        UsageError: no video is in the cache.
    """

    def __init__(
        self,
        split: Split,
        card: ModelCard,
        latents: LatentCache,
        prompts: PromptCache,
        rewrite: Rewrite,
        chunks: int | None = None,
        size: int = 1,
        seed: int = 0,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        self.split, self.latents, self.chunks = split, latents, chunks
        self.size, self.seed, self.rank, self.ranks = size, seed, rank, ranks
        self.prompts = BatchPrompts(prompts.read)
        self.films = [
            (number, plan) for number, row in enumerate(split) if (plan := self._plan(row, card, rewrite)) is not None
        ]
        if not self.films:
            raise UsageError(f"{split.folder}: there is no prepared video; 'blockvid data check' says why.")
        self._epochs: dict[int, list[list[tuple[int, int]]]] = {}

    @property
    def steps(self) -> int:
        """Steps of an epoch: every video once, a batch filled with videos that come twice where one is not full."""
        return len(self._epoch(0))

    def batch(self, step: int) -> FilmBatch:
        """The films of a step, a pure function of seed, step and rank."""
        epoch, index = divmod(step, self.steps)
        batches = self._epoch(epoch)
        batch = batches[index % len(batches)]
        return self._load(batch[self.rank * self.size : (self.rank + 1) * self.size])

    def batches(self, count: int) -> list[FilmBatch]:
        """Batches of different films, always the same ones: what figures are computed on."""
        return [self.batch(step) for step in range(min(count, self.steps))]

    def _plan(self, row: VideoRow, card: ModelCard, rewrite: Rewrite) -> Plan | None:
        """The plan of a video; None where it is not in the cache, or has no whole block."""
        frames = self.latents.frames(self.split, row)
        if not frames:
            return None
        plan = plan_video(row, self.split, card, self.latents.form, frames)
        return rewrite(plan, card) if plan else None

    def _length(self, plan: Plan) -> int:
        """How many chunks a window of a video has."""
        return min(self.chunks or len(plan.chunks), len(plan.chunks))

    def _epoch(self, epoch: int) -> list[list[tuple[int, int]]]:
        """All batches of an epoch, over all ranks: (film, first chunk) pairs with windows of one layout."""
        if epoch not in self._epochs:
            order = random.Random(f"{self.seed} {epoch}")
            by_layout: dict[object, list[tuple[int, int]]] = {}
            for film in order.sample(range(len(self.films)), len(self.films)):
                plan = self.films[film][1]
                first = order.randrange(len(plan.chunks) - self._length(plan) + 1)
                if sum(chunk.block_count for chunk in plan.chunks[first : first + self._length(plan)]) < 2:
                    first = 0  # of a single block nothing is learned unless it begins the video
                layout = _layout(plan.chunks[first : first + self._length(plan)], opening=first == 0)
                by_layout.setdefault(layout, []).append((film, first))
            count = self.size * self.ranks
            batches = [
                list(itertools.islice(itertools.cycle(films[start : start + count]), count))
                for films in by_layout.values()
                for start in range(0, len(films), count)
            ]
            order.shuffle(batches)
            self._epochs = {epoch: batches}
        return self._epochs[epoch]

    def _load(self, windows: Sequence[tuple[int, int]]) -> FilmBatch:
        plans, latents = [], []
        for film, first in windows:
            number, whole = self.films[film]
            plan = window(whole, first, self._length(whole))
            start = whole.chunks[first].blocks[0].first
            frames = plan.blocks[-1].first + plan.blocks[-1].frames
            plans.append(plan)
            latents.append(self.latents.read(self.split, self.split[number])[start : start + frames])
        numbers = tuple(range(self.rank * self.size, (self.rank + 1) * self.size))
        return FilmBatch(tuple(plans), torch.stack(latents), self.prompts, windows[0][1] == 0, numbers)


class BatchPrompts:
    """Prompt embeddings as a rollout asks for them.

    Args:
        read: the embedding (tokens, D) of a prompt.
    """

    def __init__(self, read: Callable[[str], torch.Tensor]) -> None:
        self.read, self.device = read, "cpu"

    def __call__(self, blocks: Sequence[Block]) -> torch.Tensor:
        """(1, tokens, D) for blocks of one prompt, else (1, F, tokens, D)."""
        if len({block.prompt for block in blocks}) == 1:
            return self.read(blocks[0].prompt)[None].to(self.device)
        frames = [self.read(block.prompt) for block in blocks for _ in range(block.frames)]
        return torch.stack(frames)[None].to(self.device)


def plan_video(row: VideoRow, split: Split, card: ModelCard, form: VideoFormat, frames: int) -> Plan | None:
    """The plan of a video of ``frames`` latents: as of a storyboard, without blocks that reach beyond the video.

    None where the video has no whole block, or a chunk that is shorter than a block.
    """
    settings = DatasetSettings(size=form.size, fps=form.fps)
    try:
        storyboard = row.storyboard(settings, split.folder / row.file_name)
        plan = make_plan(storyboard, card, seed=0, size=form.size, fps=form.fps, untrained_size=True)
    except StoryboardError:
        return None
    blocks = frames // card.block
    chunks = [
        replace(chunk, block_count=min(chunk.block_count, blocks - chunk.first_block))
        for chunk in plan.chunks
        if chunk.first_block < blocks
    ]
    return replace(plan, chunks=tuple(chunks)) if chunks else None


def window(plan: Plan, first: int, count: int) -> Plan:
    """``count`` chunks of a plan from chunk ``first`` on, counted from 0, as a film of its own."""
    chunks = plan.chunks[first : first + count]
    moved = [
        replace(
            chunk,
            number=number,
            shot=chunk.shot - chunks[0].shot + 1,
            first_block=chunk.first_block - chunks[0].first_block,
            cut=chunk.cut and number > 1,
        )
        for number, chunk in enumerate(chunks, start=1)
    ]
    return replace(plan, chunks=tuple(moved))


def _layout(chunks: Sequence[PlannedChunk], opening: bool) -> object:
    """What the windows of one batch have in common."""
    return opening, tuple((chunk.block_count, chunk.cut and number > 0) for number, chunk in enumerate(chunks))
