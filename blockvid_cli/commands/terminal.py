"""The only module that writes to the terminal: results on stdout, notes and errors on stderr.

Captions, file names, cards and messages of libraries may hold control characters, which would move the cursor, colour
the screen or reverse the text. They are shown (``\\x1b``) and never obeyed, whoever prints them. What an encoding
cannot write is shown in the same way.
"""

from __future__ import annotations

import io
import json
import logging
import os
import re
import sys
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from blockvid_cli.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console

# C0 without tab and line feed, DEL, C1, line separators, and what changes the direction of text
CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def visible(text: str) -> str:
    """Returns the text with its control characters written out: ``\\x1b``, ``\\u202e``."""
    return CONTROLS.sub(lambda match: ascii(match[0])[1:-1], text)


class _VisibleRecord(logging.LogRecord):
    """A log record of any library, with visible control characters."""

    def getMessage(self) -> str:
        """Returns the message as it may be shown."""
        return visible(super().getMessage())


def prepare_streams() -> None:
    """Makes stdout and stderr writable in any encoding, and logs and warnings of libraries visible."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by whoever started the command
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    logging.setLogRecordFactory(_VisibleRecord)
    warnings.formatwarning = lambda message, category, *_: f"{category.__name__}: {visible(str(message))}\n"


def write(text: str, end: str = "\n") -> None:
    """Writes a result to stdout."""
    print(visible(text), end=end, flush=True)


def write_image(sequence: str) -> None:
    """Writes the escape sequence of an image, which ``terminal_images`` made of pixels alone, to stdout."""
    print(sequence, flush=True)


def note(text: str) -> None:
    """Writes a line to stderr; a reader that went away costs nothing."""
    with suppress(OSError):
        print(visible(text), file=sys.stderr, flush=True)


def error(sentence: str) -> None:
    """Writes an error to stderr."""
    note(f"blockvid: {sentence}")


def write_json(values: Mapping[str, Any] | Sequence[Any], indent: int | None = None) -> None:
    """Writes a result to stdout as JSON, in ASCII, which every encoding has."""
    write(json.dumps(values, indent=indent))


def note_json(values: Mapping[str, Any]) -> None:
    """Writes an event to stderr as one line of JSON, in ASCII."""
    note(json.dumps(values))


def confirm(question: str, default: bool = False) -> bool:
    """Asks on stderr, and returns whether the answer on stdin is yes.

    Raises:
        UsageError: nobody answers.
    """
    print(f"{visible(question)} [{'Y/n' if default else 'y/N'}]: ", end="", file=sys.stderr, flush=True)
    answer = sys.stdin.readline() if sys.stdin else ""
    if not answer:
        raise UsageError("nobody answers; --yes agrees beforehand.")
    word = answer.strip().lower()
    return word in ("y", "yes") if word else default


def can_write(text: str) -> bool:
    """Whether stdout writes the text as it is."""
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return False
    return visible(text) == text


def is_interactive() -> bool:
    """Whether stderr is a terminal."""
    return sys.stderr.isatty()


def console(stderr: bool = False) -> Console:
    """Returns a console for tables and bars; text is neither read as markup nor highlighted."""
    from collections.abc import Iterator

    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.segment import Segment

    class VisibleConsole(Console):
        """A console that shows control characters; those that Rich itself sends are not text."""

        def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
            for segment in super().render(renderable, options):
                yield segment if segment.control else segment._replace(text=visible(segment.text))

    return VisibleConsole(stderr=stderr, highlight=False, markup=False, emoji=False)
