"""The embeddings of all prompts of a film, computed once before anything is denoised."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from blockvid_cli.models.sentence_encoder import TextEncoder
from blockvid_cli.storyboard.plan import Block, Plan


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
