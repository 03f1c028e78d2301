"""Reads lengths and times as a person types them, without rounding: ``4s``, ``48f``, ``00:03-00:06``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from blockvid_cli.errors import shorten

NUMBER = r"[0-9]{1,9}(?:\.[0-9]{1,20})?"
CLOCK = re.compile(rf"(?:([0-9]{{1,4}}):)?([0-9]{{1,4}}):({NUMBER})\s*s?")
AMOUNTS = re.compile(rf"{NUMBER}|(?:{NUMBER}\s*[a-z]+\s*){{1,3}}")
AMOUNT = re.compile(rf"({NUMBER})\s*([a-z]*)")
SPAN = re.compile(r"([^-–—]+)[-–—]([^-–—]+)")
FRAMES = re.compile(r"([0-9]{1,9})\s*(?:f|frames?)")
UNITS = {
    Fraction(3600): ("h", "hour", "hours"),
    Fraction(60): ("m", "min", "mins", "minute", "minutes"),
    Fraction(1): ("", "s", "sec", "secs", "second", "seconds"),
    Fraction(1, 1000): ("ms", "millisecond", "milliseconds"),
}
SECONDS = {name: seconds for seconds, names in UNITS.items() for name in names}  # of one unit


@dataclass(frozen=True)
class Length:
    """A length in seconds, or in frames of a film whose frame rate is not known yet."""

    amount: Fraction
    unit: Literal["s", "f"] = "s"

    def seconds(self, fps: Fraction | None) -> Fraction:
        """Returns the length in seconds.

        Raises:
            ValueError: it is in frames, and ``fps`` is not known.
        """
        if self.unit == "s":
            return self.amount
        if fps is None:
            raise ValueError(
                f"a length in frames ({self.amount}f) needs the storyboard's fps; add a line like 'fps: 24', "
                "or write seconds"
            )
        return self.amount / fps


def parse_clock(text: str) -> Fraction:
    """``"3s"``, ``"2.5"``, ``"4 seconds"``, ``"1 min 30 s"``, ``"00:03"`` or ``"1:02:03.5"`` in seconds.

    Raises:
        ValueError: it is none of these, or it has more than 59 minutes or seconds.
    """
    typed = text.strip().lower()
    if match := CLOCK.fullmatch(typed):
        hours, minutes, seconds = int(match[1] or 0), int(match[2]), Fraction(match[3])
        if seconds >= 60 or (match[1] and minutes >= 60):
            raise ValueError(f"'{shorten(text)}' is not a time; minutes and seconds end at 59")
        return hours * 3600 + minutes * 60 + seconds
    parts = AMOUNT.findall(typed) if AMOUNTS.fullmatch(typed) else []
    units = [SECONDS.get(unit, Fraction(0)) for _, unit in parts]
    if not parts or 0 in units or units != sorted(set(units), reverse=True):  # from the largest unit to the smallest
        raise ValueError(f"'{shorten(text)}' is not a time; write 3s, 2 min, 00:03 or 1:02:03.5")
    return sum((Fraction(number) * unit for (number, _), unit in zip(parts, units, strict=True)), Fraction(0))


def parse_span(text: str) -> tuple[Fraction, Fraction]:
    """``"00:03-00:06"`` (or with an en or em dash, or ``"3s - 6s"``) as start and end in seconds.

    Raises:
        ValueError: it is no span, or it ends before it has begun.
    """
    match = SPAN.fullmatch(text.strip())
    if not match:
        raise ValueError(f"'{shorten(text)}' is not a span; write it like 00:03-00:06")
    start, end = parse_clock(match[1]), parse_clock(match[2])
    if end <= start:
        raise ValueError(
            f"the span ends at {format_clock(end)}, which is not after its start at {format_clock(start)}; "
            "write the earlier time first"
        )
    return start, end


def parse_length(value: object) -> Length:
    """``4s``, ``4 seconds``, ``2min``, ``48f``, ``48 frames``, ``4``, ``2.5`` or ``1:30`` as a length.

    Raises:
        ValueError: it is none of these, or not longer than nothing.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        length = Length(Fraction(repr(value)))
    elif isinstance(value, str) and (frames := FRAMES.fullmatch(value.strip().lower())):
        length = Length(Fraction(frames[1]), "f")
    else:
        try:
            length = Length(parse_clock(value if isinstance(value, str) else ""))
        except ValueError as error:
            if isinstance(value, str) and CLOCK.fullmatch(value.strip()):
                raise
            raise ValueError(f"{describe(value)} is not a length; write 4s, 2.5, 2 min or 48f") from error
    if length.amount <= 0:
        raise ValueError("a length must be more than nothing; write 4s, 2.5 or 48f")
    return length


def exact_decimal(number: Fraction) -> str | None:
    """Returns the number written out exactly (``"2.5"``), or None when its decimals never end."""
    rest, digits = number.denominator, 0
    for prime in (2, 5):
        power = 0
        while rest % prime == 0:
            rest, power = rest // prime, power + 1
        digits = max(digits, power)
    if rest != 1:
        return None
    whole, part = divmod(int(number * 10**digits), 10**digits)
    return f"{whole}.{part:0{digits}d}" if digits else str(whole)


def format_clock(seconds: Fraction) -> str:
    """Returns a time for people: ``00:03``, ``00:03.5`` or ``1:02:03``, to the nearest thousandth of a second."""
    whole, thousandths = divmod(round(seconds * 1000), 1000)
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    part = f".{thousandths:03d}".rstrip("0") if thousandths else ""
    return (f"{hours}:" if hours else "") + f"{minutes:02d}:{rest:02d}{part}"


def format_duration(seconds: float) -> str:
    """Returns a duration for people: ``75 s``, ``12 minutes``, ``1.5 hours``."""
    if seconds < 90:
        return f"{max(round(seconds), 1)} s"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


def describe(value: object) -> str:
    """Names a value in an error sentence: text in quotes, else its type in words."""
    if isinstance(value, str):
        return f"'{shorten(value)}'"
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return f"{str(value).lower()} (a word that YAML reads as true or false)"
    if isinstance(value, int | float):
        return f"the number {shorten(str(value))}"
    return "a list" if isinstance(value, list) else "a mapping"
