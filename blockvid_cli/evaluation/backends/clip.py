"""CLIP, which sees pictures and sentences in one space (Radford et al. 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch

from blockvid_cli.errors import MissingModelError
from blockvid_cli.evaluation.backends.checkpoints import CLIP_BASE
from blockvid_cli.evaluation.backends.dino import SIDE, Eyes, middle, normed, reading, resized

if TYPE_CHECKING:
    from transformers import CLIPTextModelWithProjection, CLIPVisionModelWithProjection, PreTrainedTokenizerBase

COLOURS = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # mean and deviation


class Clip(Eyes):
    """CLIP ViT-B/32, by which VBench judges the surroundings (512-d); other checkpoints of CLIP at its ``checkpoint``.

    Its two networks, for pictures and for sentences, are loaded when each is first asked.
    """

    checkpoint = CLIP_BASE

    @torch.inference_mode()
    def read(self, sentences: Sequence[str]) -> np.ndarray:
        """Sentences -> (N, D) float32; what is beyond the network's 77 tokens is not read.

        Raises:
            MissingModelError: the checkpoint has no tokenizer, or cannot be read.
        """
        limit = self._reader.config.max_position_embeddings
        words = self._tokenizer(
            list(sentences), padding=True, truncation=True, max_length=limit, return_tensors="pt"
        ).to(self.device)
        return self._reader(words.input_ids, words.attention_mask).text_embeds.float().cpu().numpy()

    def _looks(self, shown: torch.Tensor) -> torch.Tensor:
        return self._viewer(normed(middle(resized(shown, SIDE, "bicubic"), SIDE), *COLOURS)).image_embeds

    @cached_property
    def _viewer(self) -> CLIPVisionModelWithProjection:
        return self._load("CLIPVisionModelWithProjection")

    @cached_property
    def _reader(self) -> CLIPTextModelWithProjection:
        return self._load("CLIPTextModelWithProjection")

    @cached_property
    def _tokenizer(self) -> PreTrainedTokenizerBase:
        from transformers import CLIPTokenizer

        if not any((self.home / file).is_file() for file in ("tokenizer.json", "vocab.json")):
            raise MissingModelError(f"{self.home}: this checkpoint has no tokenizer (tokenizer.json) to read captions.")
        with reading(self.home):
            return CLIPTokenizer.from_pretrained(self.home, local_files_only=True)
