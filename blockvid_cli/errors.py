"""What a person is told when something cannot be done: one sentence and an exit code."""

from __future__ import annotations

import difflib
import errno
from collections.abc import Mapping
from typing import TypeVar

Answer = TypeVar("Answer")


class BlockvidError(Exception):
    """Something failed that a person can understand; the command ends with ``exit_code``."""

    exit_code = 1


class UsageError(BlockvidError):
    """An option, a name or a storyboard is wrong; the sentence says where and what would be right."""

    exit_code = 2


class StoryboardError(UsageError):
    """A storyboard cannot be read: file, line and field are in the sentence."""


class MissingModelError(BlockvidError):
    """A model, or a part of it, is neither here nor to be had."""

    exit_code = 3


class OutOfMemoryError(BlockvidError):
    """A phase needed more memory than there is."""

    exit_code = 4


class PartialError(BlockvidError):
    """Some of the film is drawn and kept; the same command goes on from there."""

    exit_code = 5


class Interrupted(BlockvidError):
    """A person stopped it; what is finished is kept and the same command goes on."""

    exit_code = 130


def from_os_error(error: OSError) -> BlockvidError:
    """What the system refused, as a sentence; a full disk leaves something to go on from."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return (PartialError if full else BlockvidError)(f"{error.strerror or error}: {error.filename or ''}")


def closest_name(word: str, known: list[str]) -> str | None:
    """The known word most like ``word``, or None when none is near."""
    found = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return found[0] if found else None


def lookup(what: str, table: Mapping[str, Answer], name: str) -> Answer:
    """The entry ``name`` of a table; else a sentence with the nearest name and all there are.

    Raises:
        UsageError: the table has no such entry.
    """
    if name in table:
        return table[name]
    guess = closest_name(name, list(table))
    hint = f" Did you mean '{guess}'?" if guess else ""
    raise UsageError(f"there is no {what} called '{name}'.{hint} There are: {', '.join(sorted(table))}.")
