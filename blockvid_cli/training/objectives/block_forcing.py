"""What a denoiser's velocity is compared with: flow matching's target, or Block Forcing's (BlockVid section 3.3).

    flow        ε - x_start                                       Eq. 3
    anchored    ε - ((1 - γ)·x_start + γ·x_cond)                  Eq. 5 with the x_start that Eq. 2 has; γ = 0 is flow
    paper       ε - γ·x_cond                                      Eq. 5 as printed

x_cond is the semantic reference of a chunk: the clean latents of the ``top`` earlier chunks with the most similar
captions, each resampled in time to the chunk's length, averaged, without gradients. A chunk without an earlier one is
compared with flow matching's target.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch.nn.functional import interpolate

from blockvid_cli.datasets.films import FilmBatch
from blockvid_cli.errors import UsageError
from blockvid_cli.models.sentence_encoder import DEFAULT, embed, top_k_similar
from blockvid_cli.storyboard.plan import Block, Plan


class FlowTarget:
    """Flow matching's target; another target overrides it."""

    def __call__(self, batch: FilmBatch, block: Block, clean: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """The velocity (B, F, C, h, w) that a block's is compared with.

        Args:
            clean: the block's latents, (B, F, C, h, w).
            noise: of the same shape.
        """
        return noise - clean


@dataclass(frozen=True)
class BlockForcingTarget(FlowTarget):
    """Args:
    formula: ``anchored`` or ``paper``.
    gamma: the weight of the semantic reference, 0 to 1.
    top: how many earlier chunks it is the mean of (l).
    sentence_model: the sentence-transformers model that compares captions.

    Raises:
        UsageError: an unknown formula, or a number out of range.
    """

    formula: Literal["anchored", "paper"] = "anchored"
    gamma: float = 0.1
    top: int = 2
    sentence_model: str = DEFAULT

    def __post_init__(self) -> None:
        if self.formula not in ("anchored", "paper") or not 0 <= self.gamma <= 1 or self.top < 1:
            raise UsageError(
                "block forcing needs the formula anchored or paper, a gamma from 0 to 1 and a top of 1 or more;"
                f" not {self.formula}, {self.gamma} and {self.top}."
            )

    def __call__(self, batch: FilmBatch, block: Block, clean: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Flow matching's target, drawn towards the semantic reference."""
        if block.chunk == 1 or (self.formula == "anchored" and self.gamma == 0):
            return noise - clean
        first = block.first - batch.plan.chunks[block.chunk - 1].blocks[0].first
        reference = self.references(batch, block.chunk)[:, first : first + block.frames].to(clean)
        if self.formula == "paper":
            return noise - self.gamma * reference
        return noise - ((1 - self.gamma) * clean + self.gamma * reference)

    @torch.no_grad()
    def references(self, batch: FilmBatch, chunk: int) -> torch.Tensor:
        """The semantic reference (B, F, C, h, w) of a chunk, counted from 1 and not the first, for every film."""
        frames = batch.chunk(chunk).shape[1]
        return torch.stack(
            [
                torch.stack([resample(batch.chunk(past)[film], frames) for past in self.similar(plan, chunk)]).mean(0)
                for film, plan in enumerate(batch.plans)
            ]
        )

    def similar(self, plan: Plan, chunk: int) -> tuple[int, ...]:
        """The numbers of the earlier chunks of a film with the captions most similar to a chunk's."""
        embeddings = embed([planned.retrieval_text for planned in plan.chunks], self.sentence_model)
        return tuple(number + 1 for number in top_k_similar(embeddings, range(chunk - 1), chunk - 1, self.top))


def resample(latents: torch.Tensor, frames: int) -> torch.Tensor:
    """Latents (F, C, h, w) at another number of frames, linearly in time."""
    if len(latents) == frames:
        return latents
    rows = latents.flatten(1).T[None]  # (1, C·h·w, F)
    return interpolate(rows, frames, mode="linear", align_corners=True)[0].T.unflatten(1, latents.shape[1:])
