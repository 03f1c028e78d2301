"""Teacher forcing: every block is denoised over the memory that the rollout would give it, kept from true blocks.

    context   [recalled | recalled | the last chunk's end | the block before]   true, a little noisy, each by itself
    drawn                                                              [block] at its own level, K times

L = mean w ‖v - (ε - x)‖² with w = 1 + 4·subject, less at the lowest levels (flow matching, BlockVid Eq. 3). The
context is noised by up to 0.15, so that the network learns to mend what it is shown. A share of the blocks are the
films' first, drawn from the caption alone; a share of the others begin a shot; a share of the captions are dropped, so
that guidance works.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from blockvid_cli.datasets.storybook_latents import StoryLatents
from blockvid_cli.models.flow_matching import make_sigmas, add_noise, shift_sigmas
from blockvid_cli.models.vae import VAE, decode
from blockvid_cli.models.wan.attention import LayerQKV
from blockvid_cli.models.wan.denoiser import WanDenoiser
from blockvid_cli.models.wan.rope import token_grid
from blockvid_cli.rollout.kv_cache.base import CacheEntry, TokenKV, KVView, resident_entry
from blockvid_cli.training.objectives.objective import tile_rows
from blockvid_cli.training.windows import Windows, windows

CONTEXT_NOISE = 0.15
DROPPED = 0.08
SAMPLE_STEPS = 4
LOW = 0.25  # below this level an error of the velocity weighs less, as the error of the clean latents it is


@dataclass(frozen=True)
class BatchConfig:
    """Windows a step, noisy copies of each, and first blocks a step."""

    windows: int = 5
    copies: int = 3
    openings: int = 8
    shift: float = 2.0


@dataclass(frozen=True)
class DataSplit:
    """What is learnt from: first blocks, and whole stories."""

    openings: StoryLatents
    stories: StoryLatents


class TeacherForcing:
    """See the module; ``module`` is the network inside ``denoiser``."""

    def __init__(
        self, denoiser: WanDenoiser, codec: VAE, learnt: DataSplit, held_out: DataSplit, amounts: BatchConfig | None = None
    ) -> None:
        self.denoiser, self.module, self.codec = denoiser, denoiser.network, codec
        self.learnt, self.held_out = learnt, held_out
        self.amounts = amounts or BatchConfig()
        self.device = next(self.module.parameters()).device

    def loss(self, step: int, progress: float) -> tuple[torch.Tensor, dict[str, float]]:
        """See ``Objective``."""
        opening, later = self.losses(self.learnt, step)
        figures = {"opening": float(opening.detach()), "later": float(later.detach())}
        return 0.5 * opening + 0.5 * later, figures

    @torch.no_grad()
    def figures(self) -> dict[str, float]:
        """Held-out velocity errors of first blocks and of later ones."""
        losses = [self.losses(self.held_out, seed) for seed in range(4)]
        opening, later = (torch.stack(values).mean() for values in zip(*losses, strict=True))
        return {"opening": float(opening), "later": float(later)}

    @torch.no_grad()
    def sample(self) -> torch.Tensor:
        """See ``Objective``: true last frames of held-out blocks, first and later ones, above the network's."""
        dice, shelf = torch.Generator().manual_seed(1), self.held_out
        first = torch.arange(4)
        chosen = windows(shelf.stories, 4, dice)
        context = self.true(shelf, chosen)
        seen, rows = self.view(shelf.stories, chosen, context, dice), []
        for stories, row, number, view, before in (
            (shelf.openings, first, first * 0, KVView(), context[:, -1, :0]),
            (shelf.stories, chosen.stories, chosen.targets, seen, context[:, -1]),
        ):
            true = stories.blocks(row, number)
            for blocks in (true, self.solved(stories.reads(row, number), view, true, dice).cpu()):
                clips = [torch.cat(clip) for clip in zip(before, blocks, strict=True)]
                rows.append(torch.stack([decode(self.codec, clip)[-1] for clip in clips]))
        return tile_rows(rows)

    def solved(self, reads: torch.Tensor, view: KVView, like: torch.Tensor, dice: torch.Generator) -> torch.Tensor:
        """Blocks of the shape of ``like`` (B, F, C, H, W), drawn from noise in SAMPLE_STEPS Euler steps over a view."""
        x = torch.randn(like.shape, generator=dice).to(self.device)
        way = make_sigmas(SAMPLE_STEPS, self.amounts.shift)
        for now, then in itertools.pairwise(way):
            velocity, _ = self.drawn(x, torch.full(x.shape[:2], now, device=self.device), reads.to(self.device), view)
            x = x + (then - now) * velocity
        return x

    def losses(self, shelf: DataSplit, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The velocity errors of first blocks and of later ones; everything random comes from ``seed``."""
        dice = torch.Generator().manual_seed(seed)
        chosen = windows(shelf.stories, self.amounts.windows, dice)
        return self.openings(shelf, dice), self.later(shelf, chosen, self.true(shelf, chosen), dice)

    def openings(self, shelf: DataSplit, dice: torch.Generator) -> torch.Tensor:
        """The velocity error of first blocks, drawn from their captions alone."""
        first = torch.randint(len(shelf.openings.latents), (self.amounts.openings,), generator=dice)
        return self._error(shelf.openings, first, torch.zeros_like(first), KVView(), dice)

    def later(self, shelf: DataSplit, chosen: Windows, context: torch.Tensor, dice: torch.Generator) -> torch.Tensor:
        """The velocity error of later blocks over ``context`` (B, E, F, C, H, W), each drawn ``copies`` times."""
        copies = self.amounts.copies
        view = self.view(shelf.stories, chosen, context, dice, copies)
        stories, targets = (rows.repeat_interleave(copies) for rows in (chosen.stories, chosen.targets))
        return self._error(shelf.stories, stories, targets, view, dice)

    def true(self, shelf: DataSplit, chosen: Windows) -> torch.Tensor:
        """The latents (B, E, F, C, H, W) of all that the windows look back at."""
        rows = chosen.stories.repeat_interleave(chosen.context.shape[1])
        return shelf.stories.blocks(rows, chosen.context.flatten()).unflatten(0, chosen.context.shape)

    def _error(
        self, stories: StoryLatents, chosen: torch.Tensor, numbers: torch.Tensor, view: KVView, dice: torch.Generator
    ) -> torch.Tensor:
        """The weighted velocity error of blocks drawn over a view, at levels spread evenly over the batch."""
        clean, subject = (
            x.to(self.device) for x in (stories.blocks(chosen, numbers), stories.subjects(chosen, numbers))
        )
        noise = torch.randn(clean.shape, generator=dice).to(self.device)
        level = self.levels(len(clean), clean.shape[1], dice).to(self.device)
        context = _dropped(stories.reads(chosen, numbers), dice).to(self.device)
        velocity, _ = self.drawn(add_noise(clean, noise, level[..., None, None, None]), level, context, view)
        weight = (1 + 4 * subject) * (level / level.clamp(min=LOW))[..., None, None, None] ** 2
        return (weight * (velocity - (noise - clean)) ** 2).mean()

    def levels(self, count: int, frames: int, dice: torch.Generator) -> torch.Tensor:
        """The levels (count, frames) of blocks to draw: one a block, spread evenly."""
        spread = (torch.randperm(count, generator=dice) + torch.rand(count, generator=dice)) / count
        return shift_sigmas(spread, self.amounts.shift)[:, None].expand(-1, frames)

    def context_levels(self, count: int, entries: int, dice: torch.Generator) -> torch.Tensor:
        """The levels (count, entries) of what is looked back at: one a window."""
        return CONTEXT_NOISE * torch.rand(count, 1, generator=dice).expand(-1, entries)

    def drawn(
        self, x: torch.Tensor, level: torch.Tensor, context: torch.Tensor, view: KVView
    ) -> tuple[torch.Tensor, list[LayerQKV]]:
        """One pass in bfloat16: x (B, F, C, H, W) at levels (B, F), times packed."""
        times = torch.arange(len(view.frames) + x.shape[1])
        with torch.autocast(self.device.type, torch.bfloat16):
            return self.denoiser(x, level, context, times, view)

    def view(
        self, stories: StoryLatents, chosen: Windows, clean: torch.Tensor, dice: torch.Generator, copies: int = 1
    ) -> KVView:
        """What the blocks ``clean`` (B, E, F, C, H, W) leave behind, each seen by itself, for B·copies rows."""
        batch, entries = chosen.context.shape
        if not entries:
            return KVView()
        flat = clean.flatten(0, 1).to(self.device)
        frames, height, width = flat.shape[1], *flat.shape[3:]
        level = self.context_levels(batch, entries, dice).reshape(-1, 1).expand(-1, frames).to(self.device)
        noise = torch.randn(flat.shape, generator=dice).to(self.device)
        reads = stories.reads(chosen.stories.repeat_interleave(entries), chosen.context.flatten()).to(self.device)
        _, layers = self.drawn(add_noise(flat, noise, level[..., None, None, None]), level, reads, KVView(record=True))
        where = token_grid(frames, height // self.denoiser.patch[1], width // self.denoiser.patch[2])
        return KVView([_entry(layers, where, e, entries, copies, frames) for e in range(entries)])


def _entry(layers: Sequence[LayerQKV], where: torch.Tensor, number: int, entries: int, copies: int, frames: int) -> CacheEntry:
    """Row ``number`` of every window as an entry for B·copies rows."""
    kept = [
        TokenKV(
            layer.keys[number::entries].repeat_interleave(copies, 0),
            layer.values[number::entries].repeat_interleave(copies, 0),
            where,
        )
        for layer in layers
    ]
    return resident_entry(range(frames), kept)


def _dropped(context: torch.Tensor, dice: torch.Generator) -> torch.Tensor:
    """Captions (B, L, D), a share of them emptied."""
    keep = torch.rand(len(context), 1, 1, generator=dice) >= DROPPED
    return context * keep
