"""Own-rollout context: in the last phase the block before the target is one that the network has drawn itself.

    context   [recalled | recent | ...  the network's own drawing of the block before]   ->   [the true block]

The rollout continues its own blocks, not true ones; a network that has seen its own mistakes beside the true
continuation mends them (Self Forcing's exposure to its own rollout, here with the flow-matching loss).
"""

from __future__ import annotations

import torch

from blockvid_cli.training.objectives.teacher_forcing import DataSplit, TeacherForcing
from blockvid_cli.training.windows import Windows, windows, windows_at

BEGINS = 0.8  # of the way


class OwnRollout(TeacherForcing):
    """Teacher forcing until ``BEGINS`` of the way, then over the network's own blocks."""

    def loss(self, step: int, progress: float) -> tuple[torch.Tensor, dict[str, float]]:
        """See ``Objective``."""
        if progress < BEGINS:
            return super().loss(step, progress)
        dice = torch.Generator().manual_seed(step)
        chosen = windows(self.learnt.stories, self.amounts.windows, dice, before=1)
        context = self.true(self.learnt, chosen).to(self.device)
        context[:, -1] = self.own(self.learnt, chosen, dice)
        opening, later = self.openings(self.learnt, dice), self.later(self.learnt, chosen, context, dice)
        figures = {"opening": float(opening.detach()), "own": float(later.detach())}
        return 0.5 * opening + 0.5 * later, figures

    @torch.no_grad()
    def own(self, shelf: DataSplit, chosen: Windows, dice: torch.Generator) -> torch.Tensor:
        """The network's drawing (B, F, C, H, W) of the block before each target, over its true context."""
        before = windows_at(shelf.stories, chosen.stories, chosen.targets - 1)
        view = self.view(shelf.stories, before, self.true(shelf, before), dice)
        reads = shelf.stories.reads(before.stories, before.targets)
        return self.solved(reads, view, self.true(shelf, chosen)[:, -1], dice)
