"""Bringing a model's files from the Hugging Face hub into its cache, and taking them out again."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from blockvid_cli.errors import BlockvidError, MissingModelError, PartialError
from blockvid_cli.models.card import FileRef, ModelCard, bundled_models, find_card
from blockvid_cli.models.hub import hub_files, is_local, local_path

UNREACHED = "the hub cannot be reached; 'blockvid doctor' looks at the way there"


@dataclass(frozen=True)
class Download:
    """A file of a repository: its name, bytes, and whether it is here already."""

    name: str
    bytes: int
    local: bool


def list_downloads(card: ModelCard) -> list[Download]:
    """Every file that a pull would see to, with its size; asks the hub.

    Raises:
        MissingModelError: the hub cannot be reached, or has no such repository.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import DryRunError

    files = []
    with _telling(card):
        for want in hub_files(card):
            patterns = list(want.patterns)
            try:
                found = snapshot_download(
                    want.repository, revision=want.revision, allow_patterns=patterns, dry_run=True
                )
            except DryRunError as error:
                raise error.__cause__ or error from error
            files += [Download(f.filename, f.file_size or 0, f.is_cached) for f in found]
    return files


def pull(card: ModelCard) -> None:
    """Downloads what is missing; a broken download goes on where it stopped.

    Raises:
        MissingModelError: the hub cannot be reached, or has no such repository or file.
    """
    from huggingface_hub import snapshot_download

    with _telling(card):
        for want in hub_files(card):
            snapshot_download(want.repository, revision=want.revision, allow_patterns=list(want.patterns))
    for part in card.files:
        local_path(card, part)


def pull_part(card: ModelCard, part: FileRef) -> Path:
    """Downloads one file that a model can do without, such as the weights of its previews; where it lies then.

    Raises:
        MissingModelError: the hub cannot be reached, or has no such repository or file.
    """
    from huggingface_hub import snapshot_download

    with _telling(card):
        snapshot_download(part.repository or "", revision=part.revision, allow_patterns=[part.file])
    return local_path(card, part)


@contextmanager
def _telling(card: ModelCard) -> Iterator[None]:
    """What the hub's errors mean, in one sentence."""
    from huggingface_hub import logging
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HTTPError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    logging.set_verbosity_error()  # it tells of every try; one sentence at the end will do

    def missing(why: str) -> MissingModelError:
        return MissingModelError(f"the model '{card.name}' cannot be pulled: {why}.")

    try:
        yield
    except GatedRepoError as error:
        raise missing("its repository is gated; ask for access on the hub and set HF_TOKEN") from error
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise missing("the hub has no such repository or revision, or HF_TOKEN may not read it") from error
    except HfHubHTTPError as error:
        raise missing(f"the hub answered {error.response.status_code}") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise PartialError("the disk of the hub's cache is full; make room, and the pull goes on.") from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise BlockvidError(
                f"the hub's cache cannot be written to ({error.strerror}: {error.filename})."
            ) from error
        raise missing(UNREACHED) from error
    except HTTPError as error:
        raise missing(UNREACHED) from error


def remove(card: ModelCard) -> int:
    """Deletes what a model alone takes in the hub's cache; returns the bytes that became free.

    A repository that another model on this machine needs stays.
    """
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    others = [find_card(name) for name in bundled_models() if name != card.name]
    shared = {part.repository for other in others if is_local(other) for part in other.files}
    mine = {want.repository for want in hub_files(card)} - shared
    try:
        cache = scan_cache_dir()
    except CacheNotFound:
        return 0
    revisions = [r.commit_hash for repo in cache.repos if repo.repo_id in mine for r in repo.revisions]
    if not revisions:
        return 0
    strategy = cache.delete_revisions(*revisions)
    strategy.execute()
    return strategy.expected_freed_size
