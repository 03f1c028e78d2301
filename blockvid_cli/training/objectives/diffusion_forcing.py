"""Diffusion forcing: every frame has a level of its own, and what is looked back at may be as noisy as what is drawn.

    context   [0.7 | 0.1 | 0.9 | 0.4]   one level a block, anywhere from clean to noise
    drawn                               [0.2 0.8 0.5]   one level a frame

For networks that are to run the staircase and all-at-once schedules (Chen et al. 2024; SkyReels-V2).
"""

from __future__ import annotations

import torch

from blockvid_cli.models.flow_matching import shift_sigmas
from blockvid_cli.training.objectives.teacher_forcing import TeacherForcing


class DiffusionForcing(TeacherForcing):
    """Teacher forcing with independent levels."""

    def levels(self, count: int, frames: int, dice: torch.Generator) -> torch.Tensor:
        """See ``TeacherForcing``: one level a frame."""
        return shift_sigmas(torch.rand(count, frames, generator=dice), self.amounts.shift)

    def context_levels(self, count: int, entries: int, dice: torch.Generator) -> torch.Tensor:
        """See ``TeacherForcing``: one level a block, of any height."""
        return torch.rand(count, entries, generator=dice)
