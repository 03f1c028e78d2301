"""Errors that a person can understand: one sentence and an exit code."""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeVar

Entry = TypeVar("Entry")

DISK_FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "it would be larger than files may be here (ulimit -f, or the file system)",
}
MEMORY_WORDS = (  # in messages of torch, CUDA, Intel's and Apple's libraries, the C++ runtime, the loader, and threads
    "allocate memory",
    "out of memory",
    "ALLOC_FAILED",
    "OUT_OF_DEVICE_MEMORY",
    "OUT_OF_HOST_MEMORY",
    "OUT_OF_RESOURCES",
    "Invalid buffer size",
    "bad_alloc",
    "failed to map segment",
    "can't start new thread",
    "DefaultCPUAllocator",
)
MEMORY_ADVICE = "Close other programs, raise the limit (ulimit -v, or the container's), or give a lower --preset."


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


class Stopped(KeyboardInterrupt):
    """A signal asks the process to end: Ctrl-C (SIGINT), SIGTERM or SIGHUP."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


STOP_WORDS = {130: "interrupted", 143: "terminated", 129: "hung up"}


class Interrupted(BlockvidError):
    """A person or the system stopped the command; everything finished is kept, and the same command continues.

    The sentence begins with what happened: interrupted (exit code 130), terminated (143) or hung up (129).
    """

    exit_code = 130

    def __init__(self, sentence: str, stop: KeyboardInterrupt) -> None:
        self.exit_code = stop_exit_code(stop)
        super().__init__(f"{STOP_WORDS[self.exit_code]}; {sentence}")


def stop_exit_code(stop: KeyboardInterrupt | Interrupted) -> int:
    """Returns 130, 143 or 129: 128 and the number of the signal, as a shell has it."""
    if isinstance(stop, Interrupted):
        return stop.exit_code
    return 128 + stop.number if isinstance(stop, Stopped) else Interrupted.exit_code


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of Python, torch or the system means that memory, or room for a thread, ran out."""
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    if isinstance(error, RuntimeError) and type(error).__name__ == "OutOfMemoryError":  # torch's, which is not imported
        return True
    kinds = (RuntimeError, ImportError, OSError)
    return isinstance(error, MemoryError) or (isinstance(error, kinds) and any(w in str(error) for w in MEMORY_WORDS))


def to_blockvid_error(error: BaseException) -> BlockvidError | None:
    """Returns an error with a sentence and an exit code; None where none of ours fits, because it is a mistake here."""
    if isinstance(error, BlockvidError):
        return error
    if is_out_of_memory(error):
        return _memory_error(error)
    return from_os_error(error) if isinstance(error, OSError) else None


def from_os_error(error: OSError) -> BlockvidError:
    """Returns what the system refused as an error with a sentence; a full disk is a ``PartialError``."""
    if is_out_of_memory(error):
        return _memory_error(error)
    kind = PartialError if error.errno in DISK_FULL else BlockvidError
    return kind(f"{error.strerror or error}: {error.filename or ''}")


def _memory_error(error: BaseException) -> OutOfMemoryError:
    what = getattr(error, "strerror", None) or (str(error).splitlines() or ["no reason is given"])[0]
    return OutOfMemoryError(f"memory ran out ({what}); everything finished is kept. {MEMORY_ADVICE}")


@contextmanager
def error_prefix(location: str) -> Iterator[None]:
    """Usage errors inside begin with the storyboard's file and line."""
    try:
        yield
    except UsageError as error:
        raise StoryboardError(f"{location}: {error}") from error


def plural(count: int, noun: str) -> str:
    """Returns ``1 chunk`` or ``2 chunks``."""
    return f"{count} {noun if count == 1 else noun + 's'}"


def join_words(words: Sequence[str], last: str = "and") -> str:
    """Returns ``a``, ``a and b`` or ``a, b and c``."""
    return f" {last} ".join(part for part in (", ".join(words[:-1]), *words[-1:]) if part)


def ranges(noun: str, numbers: Sequence[int]) -> str:
    """Returns ``chunk 5``, or ``chunks 5-7, 9``, of ascending numbers."""
    spans: list[list[int]] = []
    for number in numbers:
        if spans and spans[-1][1] == number - 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    words = ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in spans)
    return f"{noun}{'s' * (len(numbers) > 1)} {words}"


def shorten(text: str, longest: int = 40) -> str:
    """Returns one line of at most ``longest`` characters."""
    beginning = text[: 20 * longest]  # enough of a text of megabytes
    line = " ".join(beginning.split())
    return line if len(line) <= longest and len(beginning) == len(text) else line[: longest - 1] + "…"


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
