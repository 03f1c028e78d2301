"""What the network reads: a caption as a row of token embeddings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch

from blockvid_cli.errors import lookup
from blockvid_cli.models.card import ModelCard
from blockvid_cli.models.embedding_cache import cached_embeddings
from blockvid_cli.models.sentence_encoder import DEFAULT, sentence_model
from blockvid_cli.models.wan.text_encoder import UMT5Tokens


class TextEncoder(Protocol):
    """Captions to tokens."""

    def __call__(self, captions: Sequence[str]) -> torch.Tensor:
        """Token embeddings (captions, L, D), zeros behind each caption's last token."""

    def fits(self, caption: str) -> bool:
        """Whether no token of a caption is left out."""


class MiniLMTokens:
    """Token embeddings of all-MiniLM-L6-v2, the sentence model's last layer before pooling."""

    width = 384

    def __init__(self, card: ModelCard, device: str = "cpu") -> None:
        self.tokens = card.text.tokens

    def __call__(self, captions: Sequence[str]) -> torch.Tensor:
        """See ``TextEncoder``; an empty caption is all zeros."""
        out = torch.zeros(len(captions), self.tokens, self.width)
        written = [number for number, caption in enumerate(captions) if caption.strip()]
        for number, rows in zip(
            written, cached_embeddings("minilm-tokens", [captions[n] for n in written], _read), strict=True
        ):
            count = min(len(rows), self.tokens)
            out[number, :count] = rows[:count]
        return out

    def fits(self, caption: str) -> bool:
        """See ``TextEncoder``."""
        return not caption.strip() or len(cached_embeddings("minilm-tokens", [caption], _read)[0]) <= self.tokens


def _read(captions: Sequence[str]) -> list[torch.Tensor]:
    """One by one, so that a caption's tokens do not depend, to the last bit, on what it is read beside."""
    return list(sentence_model(DEFAULT).encode(list(captions), output_value="token_embeddings", batch_size=1))


ENCODERS: dict[str, Callable[[ModelCard, str], TextEncoder]] = {
    "storybook": MiniLMTokens,
    "wan": UMT5Tokens,
    "skyreels": UMT5Tokens,
}


def load_text_encoder(card: ModelCard, device: str = "cpu") -> TextEncoder:
    """The encoder a card names; a large one reads on ``device``."""
    return lookup("text encoder", ENCODERS, card.family)(card, device)
