"""Captions as Wan's networks read them: UMT5-XXL's last hidden states, zeros behind the last token.

The encoder is 11 GB in half precision. It is loaded when a caption is met that was never read before, and let go as
soon as that is read; what it made is kept by caption.
"""

from __future__ import annotations

import gc
import html
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError

from blockvid_cli.errors import MissingModelError
from blockvid_cli.models.card import ModelCard
from blockvid_cli.models.embedding_cache import cached_embeddings
from blockvid_cli.models.hub import local_path

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class UMT5Tokens:
    """The encoder and tokenizer of a card, on ``device``; see ``text.encoders.TextEncoder``."""

    def __init__(self, card: ModelCard, device: str = "cpu", dtype: torch.dtype = torch.bfloat16) -> None:
        self.card, self.device, self.dtype = card, device, dtype
        self.tokens = card.text.tokens
        home = local_path(card, card.text)
        self.name = "umt5/" + re.sub(r"[^\w.-]+", "-", f"{card.text.repository or home}-{card.text.revision}-{dtype}")
        self._tokenizer = None

    def __call__(self, captions: Sequence[str]) -> torch.Tensor:
        """See ``TextEncoder``."""
        rows = cached_embeddings(self.name, [cleaned(caption) for caption in captions], self._read)
        out = torch.zeros(len(rows), self.tokens, rows[0].shape[-1])
        for number, row in enumerate(rows):
            out[number, : len(row)] = row
        return out

    def fits(self, caption: str) -> bool:
        """See ``TextEncoder``."""
        return len(self.tokenizer(cleaned(caption)).input_ids) <= self.tokens

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The card's tokenizer."""
        if self._tokenizer is None:
            from transformers import AutoTokenizer

            home = local_path(self.card, self.card.text.model_copy(update={"file": self.card.text.tokenizer}))
            try:
                self._tokenizer = AutoTokenizer.from_pretrained(home, local_files_only=True)
            except (OSError, ValueError) as error:
                raise MissingModelError(f"{home}: the tokenizer cannot be read ({error}).") from error
        return self._tokenizer

    @torch.inference_mode()
    def _read(self, captions: Sequence[str]) -> list[torch.Tensor]:
        """Each caption's own tokens (L, D), read alone, so that they depend on nothing it is read beside."""
        from transformers import UMT5EncoderModel

        home = local_path(self.card, self.card.text)
        try:
            encoder, found = UMT5EncoderModel.from_pretrained(
                home, local_files_only=True, dtype=self.dtype, output_loading_info=True
            )
        except (OSError, ValueError, SafetensorError) as error:
            raise MissingModelError(f"{home}: the text encoder cannot be read ({error}).") from error
        absent = sorted(found["missing_keys"])
        if absent:
            raise MissingModelError(f"{home}: the text encoder lacks {len(absent)} tensors, the first is {absent[0]}.")
        encoder = encoder.to(self.device).eval()
        rows = []
        for caption in captions:
            words = self.tokenizer(caption, truncation=True, max_length=self.tokens, return_tensors="pt")
            rows.append(encoder(**words.to(self.device)).last_hidden_state[0].float().cpu())
        del encoder
        gc.collect()
        if self.device.startswith("cuda"):
            torch.cuda.empty_cache()
        return rows


def cleaned(caption: str) -> str:
    """A caption as the network's training data were: no HTML entities, single spaces."""
    return re.sub(r"\s+", " ", html.unescape(html.unescape(caption))).strip()
