"""Prompts as Wan's networks read them: UMT5-XXL's last hidden states, zeros behind the last token.

The encoder is 11 GB in half precision. It is loaded only for prompts that are not in the cache, and freed as soon as
they are encoded.
"""

from __future__ import annotations

import gc
import html
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from blockvid_cli.errors import MissingModelError, is_out_of_memory
from blockvid_cli.models.card import ModelCard
from blockvid_cli.models.checkpoint import DAMAGED, reason
from blockvid_cli.models.devices import empty_cache
from blockvid_cli.models.find import read_config
from blockvid_cli.models.hub import local_path
from blockvid_cli.models.sentence_encoder import cached_embedding, cached_embeddings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class UMT5Tokens:
    """The UMT5 encoder and tokenizer of a card, on ``device``."""

    def __init__(self, card: ModelCard, device: str = "cpu", dtype: torch.dtype = torch.bfloat16) -> None:
        self.card, self.device, self.dtype = card, device, dtype
        self.tokens = card.text.tokens
        path = local_path(card, card.text)
        self.name = "umt5/" + re.sub(r"[^\w.-]+", "-", f"{card.text.repository or path}-{card.text.revision}-{dtype}")
        self._tokenizer = None

    def __call__(self, prompts: Sequence[str]) -> torch.Tensor:
        """Token embeddings (prompts, L, D) in float32, whatever the encoder computes in."""
        rows = cached_embeddings(self.name, [clean_prompt(prompt) for prompt in prompts], self._encode)
        out = torch.zeros(len(rows), self.tokens, rows[0].shape[-1])
        for number, row in enumerate(rows):
            out[number, : len(row)] = row
        return out

    def fits(self, prompt: str) -> bool:
        """Whether the tokenizer makes no more tokens of the prompt than the network reads; the cache may know it."""
        row = cached_embedding(self.name, clean_prompt(prompt))
        if row is not None and len(row) < self.tokens:
            return True
        return len(self.tokenizer(clean_prompt(prompt)).input_ids) <= self.tokens

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The card's tokenizer."""
        if self._tokenizer is None:
            from transformers import AutoTokenizer

            path = local_path(self.card, self.card.text.model_copy(update={"file": self.card.text.tokenizer}))
            try:
                self._tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
            except DAMAGED as error:
                raise MissingModelError(f"{path}: the tokenizer cannot be read ({reason(error)}).") from error
        return self._tokenizer

    @torch.inference_mode()
    def _encode(self, prompts: Sequence[str]) -> list[torch.Tensor]:
        """Each prompt's tokens (L, D), encoded alone, so that they do not depend on other prompts."""
        from huggingface_hub.errors import StrictDataclassError
        from transformers import UMT5EncoderModel

        path = local_path(self.card, self.card.text)
        read_config(path / "config.json")  # before a network of its sizes is built
        try:
            encoder, report = UMT5EncoderModel.from_pretrained(
                path, local_files_only=True, dtype=self.dtype, output_loading_info=True, use_safetensors=True
            )
        except (*DAMAGED, StrictDataclassError) as error:
            if is_out_of_memory(error):
                raise
            raise MissingModelError(f"{path}: the text encoder cannot be read ({reason(error)}).") from error
        absent = sorted(report["missing_keys"])
        if absent:
            raise MissingModelError(f"{path}: the text encoder lacks {len(absent)} tensors, the first is {absent[0]}.")
        encoder = encoder.to(self.device).eval()
        rows = []
        for prompt in prompts:
            tokens = self.tokenizer(prompt, truncation=True, max_length=self.tokens, return_tensors="pt")
            rows.append(encoder(**tokens.to(self.device)).last_hidden_state[0].float().cpu())
        del encoder
        gc.collect()
        empty_cache(self.device)
        return rows


def clean_prompt(prompt: str) -> str:
    """A prompt in the form of the network's training data: no HTML entities, single spaces."""
    return re.sub(r"\s+", " ", html.unescape(html.unescape(prompt))).strip()
