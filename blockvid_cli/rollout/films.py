"""The films of one batch: plans of the same layout, whose prompt embeddings and noise become rows of one tensor.

rows of x, noise     film 0, film 1, ...
rows of a prompt     film 0, film 1, ...  and with guidance  film 0's negative prompt, film 1's, ...
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from blockvid_cli.models.sentence_encoder import TextEncoder
from blockvid_cli.rollout.noise import Noise, gaussian
from blockvid_cli.rollout.schedules.step import Step
from blockvid_cli.storyboard.plan import Block, Plan, chunk_seed

PromptSource = Callable[[Sequence[Block]], torch.Tensor]


@dataclass(frozen=True)
class Films:
    """Plans with the same blocks, chunks, cuts and latent size; a block is named by the first film's.

    Args:
        prompts: the prompt embeddings of some blocks of a film: (rows, L, D), or (rows, F, L, D) where prompts differ;
            two rows with guidance, the prompt's and the negative prompt's.

    Raises:
        ValueError: the plans differ in layout.
    """

    plans: tuple[Plan, ...]
    prompts: PromptSource

    def __post_init__(self) -> None:
        if len({_layout(plan) for plan in self.plans}) > 1:
            raise ValueError("the films of a batch need the same blocks, chunks, cuts and latent size")

    def embeddings(self, blocks: Sequence[Block]) -> torch.Tensor:
        """The prompts of blocks for all films: (rows·B, L, D) or (rows·B, F, L, D)."""
        films = [self.prompts(tuple(plan.blocks[block.number] for block in blocks)) for plan in self.plans]
        if len(films) == 1:
            return films[0]
        frames = sum(block.frames for block in blocks)
        if len({film.ndim for film in films}) > 1:
            films = [film if film.ndim == 4 else film[:, None].expand(-1, frames, -1, -1) for film in films]
        return torch.stack(films, 1).flatten(0, 1)

    def stack(self, block: Block, make: Callable[[Block, Plan, int], torch.Tensor]) -> torch.Tensor:
        """(B, F, C, H, W) of what ``make`` gives for each film's block, its plan and the film's index."""
        return torch.stack([make(plan.blocks[block.number], plan, film) for film, plan in enumerate(self.plans)])

    def noise(
        self,
        part: Noise,
        block: Block,
        finished: Mapping[int, torch.Tensor],
        attempt: int,
        renoise_at: float | None = None,
    ) -> torch.Tensor:
        """The noise (B, F, C, H, W) a block begins from, or the noise it is renoised with at a sigma.

        Args:
            finished: clean latents (B, F, C, H, W) by block number.
            attempt: counted from 0; another attempt is another noise.
        """

        def make(block: Block, plan: Plan, film: int) -> torch.Tensor:
            latents = {number: batch[film] for number, batch in finished.items()}
            if attempt:
                planned = replace(block.planned, seed=chunk_seed(block.seed, block.chunk, attempt + 1))
                block = replace(block, planned=planned)
                plan = replace(plan, seed=chunk_seed(plan.seed, block.chunk, attempt + 1))
            return part(block, plan, latents) if renoise_at is None else part.renoise(block, plan, latents, renoise_at)

        return self.stack(block, make)

    def context_noise(self, block: Block, step: Step) -> torch.Tensor:
        """The noise (B, F, C, H, W) of a finished block that is context above sigma 0; another in each step."""
        return self.stack(
            block,
            lambda part, plan, _: gaussian((part.frames, *plan.latent), "held", part.seed, part.number, *step.sigma),
        )


def _layout(plan: Plan) -> tuple[object, ...]:
    """What plans of one batch have in common."""
    return plan.latent, tuple((b.first, b.frames, b.chunk, b.shot) for b in plan.blocks)


class PromptEmbeddings:
    """Embeddings by prompt; ``rows`` is 2 where guidance needs the negative prompts as well, else 1."""

    def __init__(self, plan: Plan, encoder: TextEncoder, rows: int = 1, device: str = "cpu") -> None:
        prompts = sorted({text for block in plan.blocks for text in (block.prompt, block.negative_prompt)})
        self.rows = rows
        self._embeddings = dict(zip(prompts, encoder(prompts), strict=True))  # on the CPU: one of Wan's is 8 MB
        self._device = device

    def __call__(self, blocks: Sequence[Block]) -> torch.Tensor:
        """(rows, L, D) for blocks of one prompt, else (rows, F, L, D): the prompt's row, then the negative prompt's."""
        rows = [[block.prompt for block in blocks], [block.negative_prompt for block in blocks]][: self.rows]
        if all(len(set(prompts)) == 1 for prompts in rows):
            return self._stacked([prompts[0] for prompts in rows]).to(self._device)
        frames = [[p for p, block in zip(row, blocks, strict=True) for _ in block.frame_indices] for row in rows]
        return torch.stack([self._stacked(prompts) for prompts in frames]).to(self._device)

    def _stacked(self, prompts: Sequence[str]) -> torch.Tensor:
        return torch.stack([self._embeddings[prompt] for prompt in prompts])
