"""All captions of a film as tokens, read once before anything is drawn."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from blockvid_cli.models.text_encoders import TextEncoder
from blockvid_cli.storyboard.plan import Block, Plan


class PromptEmbeddings:
    """The tokens of a plan's captions and negatives; ``rows`` is 2 where guidance needs the negative, else 1."""

    def __init__(self, plan: Plan, encoder: TextEncoder, rows: int = 1, device: str = "cpu") -> None:
        words = sorted({text for block in plan.blocks for text in (block.prompt, block.negative_prompt)})
        self.rows = rows
        self._tokens = dict(zip(words, encoder(words), strict=True))  # on the CPU: a caption of Wan's is 8 MB
        self._device = device

    def __call__(self, blocks: Sequence[Block]) -> torch.Tensor:
        """(rows, L, D) for blocks of one caption, else (rows, F, L, D): the caption's row, then the negative's."""
        rows = [[block.prompt for block in blocks], [block.negative_prompt for block in blocks]][: self.rows]
        if all(len(set(words)) == 1 for words in rows):
            return torch.stack([self._tokens[words[0]] for words in rows]).to(self._device)
        frames = [[w for w, block in zip(words, blocks, strict=True) for _ in range(block.frames)] for words in rows]
        return torch.stack([torch.stack([self._tokens[word] for word in words]) for words in frames]).to(self._device)
