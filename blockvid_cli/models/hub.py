"""Where the files of a model lie: beside its card, or in the Hugging Face hub's own cache.

The cache, its variables (HF_HOME, HF_TOKEN, HF_HUB_OFFLINE, HF_ENDPOINT) and resumed downloads are the hub library's.
In its cache a file is a link to a blob named by the file's hash: SHA-256 for large files, git's SHA-1 for small ones.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from blockvid_cli.errors import MissingModelError, UsageError
from blockvid_cli.models.card import FileRef, ModelCard

PIECE = 1 << 22  # bytes hashed at a time


@dataclass(frozen=True)
class RepositoryFiles:
    """Files of one repository at one revision, as patterns."""

    repository: str
    revision: str
    patterns: tuple[str, ...]


def hub_files(card: ModelCard) -> list[RepositoryFiles]:
    """What a model needs from the hub, a repository at a time; nothing for a model that lies beside its card."""
    found: dict[tuple[str, str], list[str]] = {}
    for part in card.files:
        if part.repository:
            found.setdefault((part.repository, part.revision), []).append(_pattern(part.file))
    return [RepositoryFiles(*where, tuple(dict.fromkeys(patterns))) for where, patterns in found.items()]


def _pattern(file: str) -> str:
    """A file as it is, a folder with all inside; what ends like weights is a file."""
    return file if Path(file).suffix in (".safetensors", ".pt", ".pth", ".bin", ".ckpt") else f"{file}/*"


def local_path(card: ModelCard, part: FileRef) -> Path:
    """Where a part lies on this machine; nothing is downloaded.

    Raises:
        MissingModelError: it lies on the hub and not, or not whole, in the cache.
    """
    if part.repository is None:
        return card.folder / part.file
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        snapshot = snapshot_download(
            part.repository, revision=part.revision, allow_patterns=[_pattern(part.file)], local_files_only=True
        )
    except LocalEntryNotFoundError:  # also a snapshot that is not whole
        raise _absent(card, part) from None
    except HFValidationError as error:
        raise UsageError(f"the card of '{card.name}': '{part.repository}' is no repository of the hub.") from error
    found = Path(snapshot) / part.file
    if not found.exists():
        raise _absent(card, part)
    return found


def _absent(card: ModelCard, part: FileRef) -> MissingModelError:
    return MissingModelError(
        f"the model '{card.name}' is not on this machine: {part.repository}/{part.file} is absent;"
        f" 'blockvid models pull {card.name}' brings it."
    )


def require(card: ModelCard) -> None:
    """Nothing, if all files of a model are on this machine and may be used.

    Raises:
        MissingModelError: one is not; the sentence says which, and what brings it.
        UsageError: its licence is non-commercial, and nobody agreed to that yet.
    """
    if card.noncommercial and not licence_accepted(card):
        raise UsageError(
            f"the weights of '{card.name}' are for non-commercial use ({card.licence});"
            f" agree to that once with 'blockvid models pull {card.name}'."
        )
    for part in card.files:
        home = local_path(card, part)
        if not home.exists():
            raise MissingModelError(f"the model '{card.name}' lacks {part.file}; expected at {home}.")


def is_local(card: ModelCard) -> bool:
    """Whether all files of a model are on this machine."""
    with suppress(MissingModelError):
        return all(local_path(card, part).exists() for part in card.files)
    return False


def blob_hash(file: Path) -> str | None:
    """The hash that a file of the hub's cache is named by; None for files elsewhere."""
    name = file.resolve().name
    return name if len(name) in (40, 64) and set(name) <= set("0123456789abcdef") else None


def hash_differs(file: Path, known: str) -> bool:
    """Whether a file differs from its hash: SHA-256, or the 40 digits by which git names its content."""
    if len(known) == 64:
        return sha256(file) != known
    blob = file.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(blob) + blob, usedforsecurity=False).hexdigest() != known


def sha256(file: Path) -> str:
    """The SHA-256 of a file, read in pieces."""
    seen = hashlib.sha256()
    with file.open("rb") as opened:
        while piece := opened.read(PIECE):
            seen.update(piece)
    return seen.hexdigest()


def fingerprint(card: ModelCard, parts: Sequence[FileRef] = ()) -> str:
    """What tells a model's network from another: the hash of its weights' files, or of their hashes on the hub, and of
    what is added to them; or the same of other ``parts``. Empty where they are not here.
    """
    parts = parts or [card.transformer, *([card.transformer.lora] if card.transformer.lora else [])]
    try:
        homes = [local_path(card, part) for part in parts]
    except MissingModelError:
        return ""
    found = [file for home in homes for file in (sorted(home.iterdir()) if home.is_dir() else [home])]
    named = [(file.name, _identity(file)) for file in found if file.is_file()]
    if len(named) < 2:
        return "".join(identity for _, identity in named)
    lora = card.transformer.lora.scale if card.transformer.lora else None
    return hashlib.sha256(repr((named, lora)).encode()).hexdigest()


def _identity(file: Path) -> str:
    """A file's SHA-256; the hub's cache knows it by name, which spares reading gigabytes."""
    state = file.stat()
    return blob_hash(file) or _hashed(file, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=64)
def _hashed(file: Path, size: int, changed: int) -> str:
    """Asked several times in a run, read once as long as the file stays the same."""
    return sha256(file)


def cache_folder() -> Path:
    """blockvid's own cache: ``$BLOCKVID_HOME``, else ``blockvid`` in ``$XDG_CACHE_HOME`` or ``~/.cache``."""
    home = os.environ.get("BLOCKVID_HOME")
    if home:
        return Path(home)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "blockvid"


def licence_accepted(card: ModelCard) -> bool:
    """Whether a person has agreed to a model's licence on this machine."""
    return (cache_folder() / "licences" / card.name).is_file()


def accept_licence(card: ModelCard) -> None:
    """Remembers that a person has agreed, so that they are asked once."""
    file = cache_folder() / "licences" / card.name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(card.licence + "\n", encoding="utf-8")
