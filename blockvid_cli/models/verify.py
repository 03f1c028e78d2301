"""Whether a model's files are what its card says: names and shapes, hashes, and numbers that are finite."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from blockvid_cli.errors import MissingModelError
from blockvid_cli.models.card import FileRef, ModelCard, Weights
from blockvid_cli.models.checkpoint import read_checkpoint, weight_files
from blockvid_cli.models.hub import blob_hash, hash_differs, local_path
from blockvid_cli.models.registry import lora_of, match_keys, meta_transformer, meta_vae


@dataclass(frozen=True)
class Finding:
    """What was found of a part: where it lies, and a sentence; every one of them is good news."""

    part: str
    file: Path
    says: str


def verify_model(card: ModelCard) -> list[Finding]:
    """Reads every tensor of a model and every hash there is.

    Raises:
        MissingModelError: a part is absent, damaged, or not what the card says; the first that is.
    """
    network = meta_transformer(card)
    found = [
        _weights(card, card.transformer, "transformer", network),
        _weights(card, card.vae, "vae", meta_vae(card)),
    ]
    if card.transformer.lora:
        lora = lora_of(network, card)
        found.append(Finding("lora", local_path(card, card.transformer.lora), f"{len(lora.pairs)} changes fit"))
    if card.text.file:
        found += [_folder(card, card.text, "text encoder")]
        found += [_folder(card, card.text.model_copy(update={"file": card.text.tokenizer}), "tokenizer")]
    return found


def _weights(card: ModelCard, part: Weights, name: str, module: torch.nn.Module) -> Finding:
    home = local_path(card, part)
    hashed = _hashes(home, part.sha256)
    checkpoint = read_checkpoint(home)
    fit = match_keys(module, checkpoint.tensors)
    if not fit.whole:
        raise MissingModelError(f"{home}: these are not the weights of '{card.name}': {fit}.")
    for tensor in fit.fit:
        if not torch.isfinite(checkpoint.tensors[tensor].read()).all():
            raise MissingModelError(f"{home}: {tensor} holds numbers that are not finite; pull or copy the file anew.")
    return Finding(name, home, f"{checkpoint.layout}, {fit}{hashed}")


def _folder(card: ModelCard, part: FileRef, name: str) -> Finding:
    home = local_path(card, part)
    if not home.is_dir():
        raise MissingModelError(f"{home}: the {name} of '{card.name}' is absent.")
    files = [file for file in sorted(home.iterdir()) if file.is_file()]
    for file in files:
        _check(file, None)
    if any(file.suffix == ".safetensors" for file in files):
        tensors = read_checkpoint(home).tensors
        return Finding(name, home, f"{len(files)} files, {len(tensors)} tensors can be read")
    return Finding(name, home, f"{len(files)} files")


def _hashes(home: Path, known: str | None) -> str:
    """Checks each file's hash where one is known; says so."""
    checked = [_check(file, known) for file in weight_files(home)]
    return ", hash right" if any(checked) else ""


def _check(file: Path, known: str | None) -> bool:
    hashes = [hash_ for hash_ in (known, blob_hash(file)) if hash_]
    if any(hash_differs(file, hash_) for hash_ in hashes):
        raise MissingModelError(f"{file}: its hash is wrong, so it was damaged or changed; pull or copy it anew.")
    return bool(hashes)
