"""Reads files that were damaged at random: whatever they hold, reading ends in time, in little memory, in a sentence.

A target is a row of ``tests/test_fuzz.py``: files that are right, and the function that reads one. Case ``n`` of a
target is always the same file, so a failure names all that is needed to see it again.
"""

from __future__ import annotations

import faulthandler
import resource
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random

from blockvid_cli.errors import BlockvidError

CPU_SECONDS = 10  # a case may take; of the processor, so that a busy machine changes nothing
WALL_SECONDS = 120  # nothing waits longer than this, not even for a pipe
MEMORY = 1 << 30  # bytes by which reading may let the process grow
LARGEST = 1_000_100  # bytes of a damaged file: a little more than a storyboard may have


class Hang(BaseException):
    """A case took too long; no ``except Exception`` catches it."""


@contextmanager
def time_limit(cpu: float = CPU_SECONDS, wall: float = WALL_SECONDS) -> Iterator[None]:
    """Ends what takes more than ``cpu`` seconds of the processor, or more than ``wall`` seconds.

    Raises:
        Hang: it did.
    """

    def stop(number: int, _frame: object) -> None:
        raise Hang(f"{cpu} s of the processor" if number == signal.SIGPROF else f"{wall} s")

    handlers = {number: signal.signal(number, stop) for number in (signal.SIGPROF, signal.SIGALRM)}
    signal.setitimer(signal.ITIMER_PROF, cpu)
    signal.setitimer(signal.ITIMER_REAL, wall)
    faulthandler.dump_traceback_later(2 * wall, exit=True, file=sys.__stderr__)  # where no handler of Python's runs
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in handlers.items():
            signal.signal(number, handler)


@dataclass(frozen=True)
class Target:
    """What is read: some right files, and a function of a file's bytes and an empty folder that reads it.

    The function may raise ``BlockvidError`` and nothing else; it checks what it can about what was read.
    """

    seeds: tuple[bytes, ...]
    read: Callable[[bytes, Path], object]


ODD = [
    *(
        "yes",
        "~",
        "[]",
        "{}",
        "{a: b}",
        "- - a",
        "*a",
        "&a x",
        "!!set {a}",
        "2024-01-01",
        ".nan",
        "-.inf",
        "1e999",
        "0x",
    ),
    *("1:99:99", "-", "?", ":", "'", '"', "\t", "|", ">", "%YAML 9.9", "---", "...", "<<: {a: b}", "\0", "\x1b[2J"),
    *("9" * 5000, "1e99999", "-1", "0", "010", "1_0", "0x1F", "1" + ":1" * 400 + ".5", "Infinity", "NaN", "1e-300"),
    *("null", "true", '"take": Infinity', "[" * 3000, "{" * 3000, '{"a":' * 3000, "- " * 600, "&#" + "9" * 5000 + ";"),
    *(
        "\ud800",
        "\U0001f9a2",
        "\u2028",
        "\ufeff",
        "at: 0-1",
        "at: 3-1",
        "duration: 1e-9",
        "seed: ''",
        "pipe",
        "../a",
        "/",
    ),
    *("audio: {file: pipe}", "image: pipe", "font: pipe", "audio: {file: [a]}", "transition: fade", "subtitle: |"),
    *("title_card: {text: [a], seconds: -1}", "caption:", "00:00 --> 00:01", "0-->1", "A (" + "0-" * 900, "[0s-3s] A"),
    *('"captions": [', "“A”,", "]", "(0s - 3s)", "<" * 500, "{\\" * 500, "\r", "4 seconds", "2min", "48f"),
]


def mutate(content: bytes, others: Sequence[bytes], dice: Random) -> bytes:
    """Returns a file to which one to six things have happened."""
    for _ in range(dice.choice((1, 1, 2, 2, 3, 6))):
        content = _CHANGES[dice.randrange(len(_CHANGES))](content, others, dice)[:LARGEST]
    return content


def _span(content: bytes, dice: Random, longest: int = 60) -> tuple[int, int]:
    start = dice.randrange(len(content) + 1)
    return start, min(len(content), start + dice.randrange(longest))


def _line(content: bytes, dice: Random) -> tuple[list[bytes], int]:
    lines = content.split(b"\n")
    return lines, dice.randrange(len(lines))


def _odd(dice: Random) -> bytes:
    return dice.choice(ODD).encode("utf-8", "surrogatepass")


def _remove(content: bytes, _: Sequence[bytes], dice: Random) -> bytes:
    start, end = _span(content, dice)
    return content[:start] + content[end:]


def _insert_odd(content: bytes, _: Sequence[bytes], dice: Random) -> bytes:
    start, _end = _span(content, dice)
    return content[:start] + _odd(dice) + content[start:]


def _replace_value(content: bytes, _: Sequence[bytes], dice: Random) -> bytes:
    lines, at = _line(content, dice)
    name, colon, value = lines[at].partition(b":")
    end = b"," if value.rstrip().endswith(b",") else b""
    lines[at] = name + (colon or b":") + b" " + _odd(dice) + end
    return b"\n".join(lines)


def _line_of_odd(content: bytes, _: Sequence[bytes], dice: Random) -> bytes:
    lines, at = _line(content, dice)
    lines.insert(at, b"  " * dice.randrange(3) + _odd(dice))
    return b"\n".join(lines)


def _move_line(content: bytes, _: Sequence[bytes], dice: Random) -> bytes:
    lines, at = _line(content, dice)
    line = lines.pop(at)
    if dice.random() < 0.7:
        lines.insert(dice.randrange(len(lines) + 1), line)
    return b"\n".join(lines)


def _repeat(content: bytes, _: Sequence[bytes], dice: Random) -> bytes:
    """A few bytes or a line many times: where a reader is quadratic, this shows it."""
    start, end = _span(content, dice, dice.choice((2, 8, 60, 400)))
    longest = dice.choice((1_000, 10_000, 10_000, 100_000, LARGEST))
    count = min(dice.choice((2, 30, 1_000, 100_000)), max(1, longest // max(1, end - start)))
    return content[:start] + content[start:end] * count + content[end:]


def _random_bytes(content: bytes, _: Sequence[bytes], dice: Random) -> bytes:
    start, end = _span(content, dice, 4)
    return content[:start] + dice.randbytes(dice.randrange(1, 5)) + content[end:]


def _number(content: bytes, _: Sequence[bytes], dice: Random) -> bytes:
    digits = [at for at, byte in enumerate(content[:20_000]) if 48 <= byte < 58]
    if not digits:
        return content
    at = dice.choice(digits)
    number = dice.choice((b"0", b"-1", b"99999999999", b"1e400", b"0.5", b"1.5e-9", b"007", b"NaN", b"9" * 40))
    return content[:at] + number + content[at + 1 :]


def _splice(content: bytes, others: Sequence[bytes], dice: Random) -> bytes:
    other = dice.choice(others)
    return content[: _span(content, dice)[0]] + other[_span(other, dice)[0] :]


def _cut(content: bytes, _: Sequence[bytes], dice: Random) -> bytes:
    return content[: dice.randrange(len(content) + 1)]


_CHANGES = [
    _remove,
    _insert_odd,
    _replace_value,
    _replace_value,
    _line_of_odd,
    _move_line,
    _repeat,
    _random_bytes,
    _number,
    _splice,
    _cut,
]


def case(name: str, target: Target, number: int) -> bytes:
    """Returns the file of a case."""
    dice = Random(f"{name} {number}")
    return mutate(dice.choice(target.seeds), target.seeds, dice)


def _peak() -> int:
    """Bytes that the process took at most so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def fuzz(name: str, target: Target, numbers: range) -> list[str]:
    """Reads many cases; returns a line about each that did not end well."""
    failures, limit = [], _peak() + MEMORY
    with tempfile.TemporaryDirectory() as folder:
        for number in numbers:
            content = case(name, target, number)
            try:
                with time_limit():
                    target.read(content, Path(folder))
            except BlockvidError:
                pass
            except (Exception, Hang) as error:  # noqa: BLE001 - any of them is what is looked for
                failures.append(f"{name} {number}: {type(error).__name__}: {str(error)[:300]}")
            if _peak() > limit:
                return [*failures, f"{name} {number}: takes more than {MEMORY >> 20} MiB"]
    return failures
