"""The files of a model: beside its card, or in the Hugging Face hub's own cache; downloads into it, and removal.

The cache, its variables (HF_HOME, HF_TOKEN, HF_HUB_OFFLINE, HF_ENDPOINT) and resumed downloads are the hub library's.
In its cache a file is a link to a blob named by the file's hash: SHA-256 for large files, git's SHA-1 for small ones.
What a hub answers becomes names of files there, so every answer is checked before the library sees it
(``check_answer``): another endpoint than huggingface.co may send anything.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blockvid_cli.errors import BlockvidError, MissingModelError, PartialError, UsageError, is_out_of_memory, shorten
from blockvid_cli.files import open_regular_file, read_plain_json
from blockvid_cli.models.card import FileRef, ModelCard, bundled_models, find_card

if TYPE_CHECKING:
    from httpx2 import Client, Response

PIECE = 1 << 22  # bytes hashed at a time
MAX_ANSWER_BYTES = 50_000_000  # of a listing; one of a thousand files has 300 kB
MAX_PAGES = 500  # of listings
MAX_FILE_SIZE = 10**14  # bytes
HUB_SECONDS = 30.0  # that the hub may stay silent
COMMIT = re.compile(r"[0-9a-f]{40}")
HASH = re.compile(r"[0-9A-Za-z-]{1,128}")  # of a file: it names a blob of the cache
FILE_NAME = re.compile(r"(?!/)(?:(?!\.{1,2}(?:/|$))[^\x00-\x1f\x7f\\/]{1,200}(?:/|$)){1,20}(?<!/)")
UNREACHED = "the hub cannot be reached; 'blockvid doctor' looks at the way there"
OFFLINE = "HF_HUB_OFFLINE is set, which forbids downloads; unset it, or copy the files into the hub's cache"
NONSENSE = (ValueError, TypeError, KeyError, IndexError, AttributeError, AssertionError, ArithmeticError, RuntimeError)


@dataclass(frozen=True)
class RepositoryFiles:
    """Files of one repository at one revision, as patterns."""

    repository: str
    revision: str
    patterns: tuple[str, ...]


def hub_files(card: ModelCard) -> list[RepositoryFiles]:
    """What a model needs from the hub, a repository at a time; nothing for a model that lies beside its card."""
    patterns_of: dict[tuple[str, str], list[str]] = {}
    for part in card.files:
        if part.repository:
            patterns_of.setdefault((part.repository, part.revision), []).append(_pattern(part.file))
    return [
        RepositoryFiles(repository, revision, tuple(dict.fromkeys(patterns)))
        for (repository, revision), patterns in patterns_of.items()
    ]


def _pattern(file: str) -> str:
    """A file's own name, or everything in a folder; a name that ends like weights is a file."""
    return file if Path(file).suffix in (".safetensors", ".pt", ".pth", ".bin", ".ckpt") else f"{file}/*"


def local_path(card: ModelCard, part: FileRef) -> Path:
    """The path of a part on this machine; nothing is downloaded.

    Raises:
        MissingModelError: it is a file of the hub that is not, or not completely, in the cache.
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
    path = Path(snapshot) / part.file
    if not path.exists():
        raise _absent(card, part)
    return path


def _absent(card: ModelCard, part: FileRef) -> MissingModelError:
    return MissingModelError(
        f"the model '{card.name}' is not on this machine: {part.repository}/{part.file} is absent;"
        f" 'blockvid models pull {card.name}' brings it."
    )


def require(card: ModelCard) -> None:
    """Checks that all files of a model are on this machine and may be used.

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
        path = local_path(card, part)
        if not path.exists():
            raise MissingModelError(f"the model '{card.name}' lacks {part.file}; expected at {path}.")


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
    return _digest(file, hashlib.sha1(b"blob %d\0" % file.stat().st_size, usedforsecurity=False)) != known


def sha256(file: Path) -> str:
    """The SHA-256 of a file."""
    return _digest(file, hashlib.sha256())


def _digest(file: Path, digest: hashlib._Hash) -> str:
    """Adds a file, read in pieces, to a digest."""
    with open_regular_file(file) as opened:
        while piece := opened.read(PIECE):
            digest.update(piece)
    return digest.hexdigest()


def fingerprint(card: ModelCard, parts: Sequence[FileRef] = ()) -> str:
    """A hash of a model's transformer weights, or of the hashes of their files on the hub, with its LoRA and the LoRA's
    scale; or the same of other ``parts``. Empty where they are not on this machine.
    """
    parts = parts or [card.transformer, *([card.transformer.lora] if card.transformer.lora else [])]
    try:
        paths = [local_path(card, part) for part in parts]
    except MissingModelError:
        return ""
    files = [file for path in paths for file in (sorted(path.iterdir()) if path.is_dir() else [path])]
    named = [(file.name, _identity(file)) for file in files if file.is_file()]
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
    """Called several times in a run; the file is read once as long as it stays the same."""
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
    """Records that a person has agreed to the licence, so that they are asked once."""
    file = cache_folder() / "licences" / card.name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(card.licence + "\n", encoding="utf-8")


@dataclass(frozen=True)
class Download:
    """A file of a repository: its name, bytes, and whether it is on this machine already."""

    name: str
    bytes: int
    local: bool


def list_downloads(card: ModelCard) -> list[Download]:
    """Every file that a pull downloads or already has, with its size; asks the hub.

    Raises:
        MissingModelError: the hub cannot be reached, or has no such repository.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import DryRunError

    files = []
    with _hub_errors(card):
        for group in hub_files(card):
            patterns = list(group.patterns)
            try:
                listed = snapshot_download(
                    group.repository, revision=group.revision, allow_patterns=patterns, dry_run=True
                )
            except DryRunError as error:
                raise error.__cause__ or error from error
            files += [Download(f.filename, f.file_size or 0, f.is_cached) for f in listed]
    return files


def pull(card: ModelCard) -> None:
    """Downloads what is missing; an interrupted download continues where it stopped.

    Raises:
        MissingModelError: the hub cannot be reached, or has no such repository or file.
    """
    from huggingface_hub import snapshot_download

    with _hub_errors(card):
        for group in hub_files(card):
            snapshot_download(group.repository, revision=group.revision, allow_patterns=list(group.patterns))
    for part in card.files:
        try:
            local_path(card, part)
        except MissingModelError as error:
            absent = f"{part.repository} has no {part.file} at the revision {part.revision}"
            raise MissingModelError(f"the model '{card.name}' cannot be pulled: the hub's {absent}.") from error


def pull_part(card: ModelCard, part: FileRef) -> Path:
    """Downloads one file that a model can do without, such as the weights of its preview decoder; returns its path.

    Raises:
        MissingModelError: the hub cannot be reached, or has no such repository or file.
    """
    from huggingface_hub import snapshot_download

    with _hub_errors(card):
        snapshot_download(part.repository or "", revision=part.revision, allow_patterns=[part.file])
    return local_path(card, part)


def checked_hub() -> None:
    """Lets the hub's library talk to the hub through ``check_answer`` from now on, and waits for no silent hub.

    Raises:
        MissingModelError: HF_HUB_OFFLINE forbids it to talk at all.
    """
    from huggingface_hub import is_offline_mode, logging, set_client_factory
    from huggingface_hub.utils._http import default_client_factory

    if is_offline_mode():
        raise MissingModelError(f"{OFFLINE}.")
    logging.set_verbosity_error()  # it reports every attempt; one sentence at the end is enough
    pages = iter(range(MAX_PAGES))

    def client() -> Client:
        made = default_client_factory()
        hooks = made.event_hooks
        made.event_hooks = {**hooks, "response": [*hooks.get("response", ()), lambda got: check_answer(got, pages)]}
        made.timeout = HUB_SECONDS
        return made

    set_client_factory(client)


def check_answer(response: Response, pages: Iterator[int]) -> None:
    """Checks what the hub's library makes names of files of: a file's hash and commit, and listings of files.

    Args:
        pages: one is taken for each listing.

    Raises:
        MissingModelError: something is no such name, or a listing is too long or nests too deeply.
    """
    _check("commit", response.headers.get("X-Repo-Commit"), COMMIT)
    if response.request.method == "HEAD" and response.status_code < 400:  # as the library chooses between them
        _check("file hash", response.headers.get("X-Linked-ETag") or response.headers.get("ETag"), HASH)
    path = response.request.url.path
    if "/api/models/" not in path or "/resolve" in path or response.status_code >= 300:
        return
    content = bytearray()
    for piece in response.iter_bytes() if next(pages, None) is not None else ():
        content += piece
        if len(content) > MAX_ANSWER_BYTES:
            raise _bad_answer("listing", f"{bytes(content[:40])!r}, and so on without end")
    response._content = bytes(content)  # as response.read() does, which has no limit
    try:
        values: Any = read_plain_json(response.content)
        for entry in values if isinstance(values, list) else [values, *(values.get("siblings") or ())]:
            _check("commit", entry.get("sha"), COMMIT)
            _check("file name", entry.get("path"), FILE_NAME)
            _check("file name", entry.get("rfilename"), FILE_NAME)
            lfs = entry.get("lfs") or {}
            for name in (entry.get("oid"), entry.get("blobId"), lfs.get("oid"), lfs.get("sha256")):
                _check("file hash", name, HASH)
            for size in (entry.get("size") or 0, lfs.get("size") or 0):
                if type(size) is not int or not 0 <= size <= MAX_FILE_SIZE:
                    raise _bad_answer("size of a file", str(size))
    except NONSENSE as error:
        raise _bad_answer("listing", str(error)) from error


def _check(what: str, text: str | None, pattern: re.Pattern[str]) -> None:
    if text is not None and not pattern.fullmatch(text.removeprefix("W/").strip('"') if what == "file hash" else text):
        raise _bad_answer(what, text)


def _bad_answer(what: str, text: str) -> MissingModelError:
    return MissingModelError(
        f"the hub sent a {what} that cannot be one ('{shorten(text, 80)}'); nothing of it was used."
        " Look at HF_ENDPOINT, and pull from a hub that you trust."
    )


@contextmanager
def _hub_errors(card: ModelCard) -> Iterator[None]:
    """Turns the hub's errors into one sentence each."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HTTPError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    def missing(why: str) -> MissingModelError:
        return MissingModelError(f"the model '{card.name}' cannot be pulled: {why.rstrip('.')}.")

    try:
        checked_hub()
        yield
    except MissingModelError as error:
        raise missing(str(error)) from error
    except GatedRepoError as error:
        raise missing("its repository is gated; ask for access on the hub and set HF_TOKEN") from error
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise missing("the hub has no such repository or revision, or HF_TOKEN may not read it") from error
    except HfHubHTTPError as error:
        raise missing(f"the hub answered {error.response.status_code}") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise PartialError("the disk of the hub's cache is full; make room, and pull again.") from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise BlockvidError(
                f"the hub's cache cannot be written to ({error.strerror}: {error.filename})."
            ) from error
        raise missing(UNREACHED) from error
    except HTTPError as error:
        raise missing(UNREACHED) from error
    except NONSENSE as error:
        if is_out_of_memory(error):
            raise
        raise missing(f"the hub's answer makes no sense ({shorten(str(error), 100)})") from error


def remove(card: ModelCard) -> int:
    """Deletes the files of a model that no other model uses from the hub's cache; returns the bytes freed.

    A repository that another model on this machine needs stays.
    """
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    others = [find_card(name) for name in bundled_models() if name != card.name]
    shared = {part.repository for other in others if is_local(other) for part in other.files}
    removable = {group.repository for group in hub_files(card)} - shared
    try:
        cache = scan_cache_dir()
    except CacheNotFound:
        return 0
    revisions = [r.commit_hash for repo in cache.repos if repo.repo_id in removable for r in repo.revisions]
    if not revisions:
        return 0
    strategy = cache.delete_revisions(*revisions)
    strategy.execute()
    return strategy.expected_freed_size
