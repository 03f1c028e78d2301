"""Teacher forcing: every block is denoised over the memory that the rollout would give it, kept from true blocks.

    context   [recalled | recalled | c-2's last | c-1's last | the block before]   true, a little noisy, each by itself
    drawn                                                                     [block] at its own level, K times

L = mean w ‖v - (ε - x)‖² with w = 1 + 4·subject (flow matching, BlockVid Eq. 3). The context is noised by up to 0.15,
so that the network learns to mend what it is shown. A share of the blocks are the films' first, drawn from the
caption alone, and a share of the captions are dropped, so that guidance works.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from blockvid_cli.denoiser.attention import Layer
from blockvid_cli.denoiser.flow import noised, shifted
from blockvid_cli.denoiser.rope import grid
from blockvid_cli.denoiser.wan import WanDenoiser
from blockvid_cli.rollout.memories.memory import Entry, Kept, View
from blockvid_cli.training.latents import StoryLatents

CONTEXT_NOISE = 0.15
DROPPED = 0.08
RECENT = 2


@dataclass(frozen=True)
class Amounts:
    """Windows a step, noisy copies of each, and first blocks a step."""

    windows: int = 4
    copies: int = 4
    openings: int = 12
    shift: float = 2.0


@dataclass(frozen=True)
class Shelf:
    """What is learnt from: first blocks, and whole stories."""

    openings: StoryLatents
    stories: StoryLatents


class TeacherForcing:
    """See the module; ``module`` is the network inside ``denoiser``."""

    def __init__(self, denoiser: WanDenoiser, learnt: Shelf, held_out: Shelf, amounts: Amounts | None = None) -> None:
        self.denoiser, self.module = denoiser, denoiser.network
        self.learnt, self.held_out = learnt, held_out
        self.amounts = amounts or Amounts()

    def loss(self, step: int, progress: float) -> tuple[torch.Tensor, dict[str, float]]:
        """See ``Objective``."""
        opening, later = self._losses(self.learnt, self.amounts, step)
        figures = {"opening": float(opening.detach()), "later": float(later.detach())}
        return 0.5 * opening + 0.5 * later, figures

    @torch.no_grad()
    def figures(self) -> dict[str, float]:
        """Held-out velocity errors of first blocks and of later ones."""
        losses = [self._losses(self.held_out, self.amounts, seed) for seed in range(4)]
        opening, later = (torch.stack(values).mean() for values in zip(*losses, strict=True))
        return {"opening": float(opening), "later": float(later)}

    def _losses(self, shelf: Shelf, amounts: Amounts, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        dice = torch.Generator().manual_seed(seed)
        stories, openings = shelf.stories, shelf.openings
        first = torch.randint(len(openings.latents), (amounts.openings,), generator=dice)
        opening = self._drawn(openings, first, torch.zeros_like(first), View(), 1, dice)
        chosen, context, target = windows(stories, amounts.windows, dice)
        view = self._view(stories, chosen, context, amounts.copies, dice)
        return opening, self._drawn(stories, chosen, target, view, amounts.copies, dice)

    def _drawn(
        self,
        stories: StoryLatents,
        chosen: torch.Tensor,
        numbers: torch.Tensor,
        view: View,
        copies: int,
        dice: torch.Generator,
    ) -> torch.Tensor:
        """The weighted velocity error of blocks drawn over a view, each ``copies`` times at levels of its own."""
        chosen, numbers = chosen.repeat_interleave(copies), numbers.repeat_interleave(copies)
        clean, subject = stories.blocks(chosen, numbers), stories.subjects(chosen, numbers)
        count, frames = len(clean), clean.shape[1]
        spread = (torch.randperm(count, generator=dice) + torch.rand(count, generator=dice)) / count
        level = shifted(spread, self.amounts.shift).view(-1, 1, 1, 1, 1)
        noise = torch.randn(clean.shape, generator=dice)
        context = _dropped(stories.reads(chosen, numbers), dice)
        times = torch.arange(len(view.frames) + frames)
        with torch.autocast("cpu", torch.bfloat16):
            velocity, _ = self.denoiser(
                noised(clean, noise, level), level.view(-1, 1).expand(-1, frames), context, times, view
            )
        return ((1 + 4 * subject) * (velocity - (noise - clean)) ** 2).mean()

    def _view(
        self,
        stories: StoryLatents,
        chosen: torch.Tensor,
        context: torch.Tensor,
        copies: int,
        dice: torch.Generator,
    ) -> View:
        """What the blocks ``context`` (B, E) leave behind, each seen by itself, for B·copies rows."""
        if not context.shape[1]:
            return View()
        batch, entries = context.shape
        rows, numbers = chosen.repeat_interleave(entries), context.flatten()
        clean = stories.blocks(rows, numbers)
        frames, height, width = clean.shape[1], *clean.shape[3:]
        level = CONTEXT_NOISE * torch.rand(batch, 1, generator=dice).expand(-1, entries).reshape(-1, 1, 1, 1, 1)
        x = noised(clean, torch.randn(clean.shape, generator=dice), level)
        with torch.autocast("cpu", torch.bfloat16):
            _, layers = self.denoiser(
                x,
                level.view(-1, 1).expand(-1, frames),
                stories.reads(rows, numbers),
                torch.arange(frames),
                View(),
            )
        where = grid(frames, height // self.denoiser.patch[1], width // self.denoiser.patch[2])
        return View([_entry(layers, where, e, entries, copies, frames) for e in range(entries)])


def windows(
    stories: StoryLatents, count: int, dice: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """``count`` blocks of one shape of context: stories (B,), what they look back at (B, E), the blocks (B,)."""
    total, blocks = stories.chunk.shape
    wanted: tuple[int, bool] | None = None
    chosen, contexts, targets = [], [], []
    while len(chosen) < count:
        story = int(torch.randint(total, (), generator=dice))
        target = int(torch.randint(1, blocks, (), generator=dice))
        context, shape = look_back(stories, story, target)
        wanted = wanted or shape
        if shape == wanted:
            chosen.append(story)
            contexts.append(context)
            targets.append(target)
    return torch.tensor(chosen), torch.tensor(contexts).view(count, -1), torch.tensor(targets)


def look_back(stories: StoryLatents, story: int, target: int) -> tuple[list[int], tuple[int, bool]]:
    """The blocks a block looks back at: last blocks of recalled and recent chunks, and the block before it."""
    of_block = stories.chunk[story].tolist()
    chunk = of_block[target]
    chunks = [*stories.alike[story][chunk], *range(max(chunk - RECENT, 0), chunk)]
    last = [max(number for number, owner in enumerate(of_block) if owner == c) for c in chunks]
    inside = of_block[target - 1] == chunk
    return last + ([target - 1] if inside else []), (len(last), inside)


def _entry(layers: Sequence[Layer], where: torch.Tensor, number: int, entries: int, copies: int, frames: int) -> Entry:
    """Row ``number`` of every window as an entry for B·copies rows."""
    return Entry(
        tuple(range(frames)),
        tuple(
            Kept(
                layer.keys[number::entries].repeat_interleave(copies, 0),
                layer.values[number::entries].repeat_interleave(copies, 0),
                where,
            )
            for layer in layers
        ),
    )


def _dropped(context: torch.Tensor, dice: torch.Generator) -> torch.Tensor:
    """Captions (B, L, D), a share of them emptied."""
    keep = torch.rand(len(context), 1, 1, generator=dice) >= DROPPED
    return context * keep
