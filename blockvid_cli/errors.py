"""Errors that a person can understand: one sentence and an exit code."""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

Entry = TypeVar("Entry")


class BlockvidError(Exception):
    """Something failed; the sentence says what, and the command ends with ``exit_code``."""

    exit_code = 1


class UsageError(BlockvidError):
    """An option, a name or a storyboard is wrong; the sentence says where and what would be right."""

    exit_code = 2


class StoryboardError(UsageError):
    """A storyboard cannot be read: file, line and field are in the sentence."""


class MissingModelError(BlockvidError):
    """A model, or a part of it, is not on this machine and cannot be downloaded, or it is damaged."""

    exit_code = 3


class RefusedModelError(BlockvidError):
    """A file of a model is present and is not opened, because it could run code."""

    exit_code = 3


class OutOfMemoryError(BlockvidError):
    """A phase needs more memory than the device has."""

    exit_code = 4


class PartialError(BlockvidError):
    """A part of the film is finished and kept; the same command continues from there."""

    exit_code = 5


class Interrupted(BlockvidError):
    """A person stopped the command; everything finished is kept, and the same command continues."""

    exit_code = 130


def from_os_error(error: OSError) -> BlockvidError:
    """Returns what the system refused as an error with a sentence; a full disk is a ``PartialError``."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return (PartialError if full else BlockvidError)(f"{error.strerror or error}: {error.filename or ''}")


@contextmanager
def error_prefix(location: str) -> Iterator[None]:
    """Usage errors inside begin with the storyboard's file and line."""
    try:
        yield
    except UsageError as error:
        raise StoryboardError(f"{location}: {error}") from error


def closest_name(word: str, known: list[str]) -> str | None:
    """Returns the known name that is spelt most like ``word``, or None when none is close."""
    matches = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return matches[0] if matches else None


def lookup(what: str, table: Mapping[str, Entry], name: str) -> Entry:
    """Returns the entry ``name`` of a table.

    Raises:
        UsageError: the table has no such entry; the sentence names the closest entry, and all of them.
    """
    if name in table:
        return table[name]
    guess = closest_name(name, list(table))
    hint = f" Did you mean '{guess}'?" if guess else ""
    raise UsageError(f"there is no {what} called '{name}'.{hint} There are: {', '.join(sorted(table))}.")
