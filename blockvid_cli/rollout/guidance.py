"""Classifier-free guidance: a denoiser around a denoiser; the unguided film is a second batch row, hence one memory.

v = v_neg + scale·(v_text - v_neg); row 0 reads the caption, row 1 the negative. Where nothing is remembered the rows
know nothing of each other and are drawn one after the other, in half the memory.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from blockvid_cli.models.wan.attention import LayerQKV, KVSource
from blockvid_cli.models.wan.denoiser import Denoiser


@dataclass(frozen=True)
class GuidedDenoiser:
    """Draws one film with two rows; ``context`` must have two rows, (2, L, D) or (2, F, L, D)."""

    denoiser: Denoiser
    scale: float
    in_turn: bool = False

    def __call__(
        self, x: torch.Tensor, level: torch.Tensor, context: torch.Tensor, times: torch.Tensor, memory: KVSource
    ) -> tuple[torch.Tensor, list[LayerQKV]]:
        """See ``Denoiser``; x and velocity have one row, keys and values two."""
        if self.in_turn:
            passes = (self.denoiser(x, level, row[None], times, memory) for row in context)
            (text, layers), (negative, _) = passes
        else:
            velocity, layers = self.denoiser(x.expand(2, -1, -1, -1, -1), level, context, times, memory)
            text, negative = velocity.chunk(2)
        return negative + self.scale * (text - negative), layers
