"""What a storyboard's fields may hold: text, seed, size, span, each with its bounds and its sentence."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Annotated, Any

from pydantic import PlainValidator, WithJsonSchema

from blockvid_cli.models.card import parse_size
from blockvid_cli.storyboard.seconds import CLOCK, kind, parse_clock, parse_length, parse_span, shorten

LONGEST_CAPTION = 2000  # characters
LARGEST_SEED = 2**63 - 1
SMALLEST_FPS = 0.01
LARGEST_FPS = 120
LONGEST_SOUND = 86400  # seconds
SHORTEST = 0.01  # seconds that a transition, a still or a part of a sound may last
QUIETEST, LOUDEST = -70, -5  # LUFS that may be aimed at
SUBTITLES = ("beside", "none", "soft", "burned")
TRANSITIONS = ("cut", "fade", "dissolve")
COLOURS = ("black", "white", "grey", "red", "orange", "yellow", "green", "blue", "purple")


def _text(value: object) -> str:
    """Text on one line: whatever white space it holds becomes single spaces."""
    if not isinstance(value, str):
        raise ValueError(f"{kind(value)} is not text; put it in quotes if it is meant as text")
    line = " ".join(value.split())
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in line):
        raise ValueError("a control character stands in this text; remove it")
    if len(line) > LONGEST_CAPTION:
        raise ValueError(f"this text has {len(line)} characters; at most {LONGEST_CAPTION} are read")
    return line


def _filled(value: object) -> str:
    text = _text(value)
    if not text:
        raise ValueError("this text is blank; write what is seen, or remove the line")
    return text


def _lines(value: object) -> str:
    """Text whose line breaks are kept; blank lines at its ends are not."""
    if not isinstance(value, str):
        return _text(value)
    text = "\n".join(_text(line) for line in value.splitlines()).strip("\n")
    return text if len(text) <= LONGEST_CAPTION else _text(text)


def _filled_lines(value: object) -> str:
    return _lines(value) or _filled(value)


def _number(low: float, high: float, whole: bool, unit: str) -> Callable[[object], Any]:
    """A validator of numbers from ``low`` to ``high``, both included; ``unit`` ends its sentences."""
    must = f"write a{' whole' if whole else ''} number {unit}"

    def number(value: object) -> int | float:
        kinds = (int,) if whole else (int, float)
        if isinstance(value, bool) or not isinstance(value, kinds):
            raise ValueError(f"{kind(value)} will not do; {must}")
        if not low <= value <= high:
            raise ValueError(f"{shorten(str(value))} is out of bounds; {must}")
        return value if whole else float(value)

    return number


def _seconds(low: float, unit: str) -> Callable[[object], float]:
    """A validator of seconds from ``low`` on: a number, or a time like ``3s`` or ``00:03``."""
    number = _number(low, LONGEST_SOUND, False, unit)

    def seconds(value: object) -> float:
        if isinstance(value, str) and (timed := re.fullmatch(rf"(-?)\s*({CLOCK.pattern})", value.strip())):
            return number(float(parse_clock(timed[2])) * (-1 if timed[1] else 1))
        return number(value)

    return seconds


def _loudness(value: object) -> float | None:
    if value == "none":
        return None
    return _number(QUIETEST, LOUDEST, False, f"of LUFS from {QUIETEST} to {LOUDEST}, like -16, or none")(value)


def _one_of(words: Sequence[str]) -> Callable[[object], str]:
    """A validator of a word among ``words``."""

    def word(value: object) -> str:
        if not isinstance(value, str) or value not in words:
            raise ValueError(f"{kind(value)} will not do; write {', '.join(words[:-1])} or {words[-1]}")
        return value

    return word


def _colour(value: object) -> str:
    if isinstance(value, str) and (value in COLOURS or re.fullmatch("#[0-9a-fA-F]{6}", value)):
        return value
    raise ValueError(f"{kind(value)} is not a colour; write {', '.join(COLOURS)}, or one like '#ff8800' in quotes")


def _version(value: object) -> int:
    if isinstance(value, bool) or value != 1:
        raise ValueError(f"{kind(value)} is not a version known here; write 'version: 1'")
    return 1


def _size(value: object) -> tuple[int, int]:
    if not isinstance(value, str):
        raise ValueError(f"{kind(value)} is not a size; write WIDTHxHEIGHT, like 832x480")
    width, height = parse_size(value)
    if width % 2 or height % 2:
        even = f"{width + width % 2}x{height + height % 2}"
        raise ValueError(f"{width}x{height} cannot be made into a film; both must be even, like {even}")
    return width, height


def _span(value: object) -> tuple[Fraction, Fraction]:
    if not isinstance(value, str):
        raise ValueError(f"{kind(value)} is not a span; write it like 00:03-00:06")
    return parse_span(value)


def _switch(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{kind(value)} will not do; write true or false")
    return value


def _mapping(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{kind(value)} is not a recipe; write names and values, like 'steps: 6'")
    return value


def _kind(check: Callable[[object], Any], **schema: object) -> Any:  # noqa: ANN401  (a type made of parts)
    return Annotated[Any, PlainValidator(check), WithJsonSchema(dict(schema))]


Text = _kind(_text, type="string", maxLength=LONGEST_CAPTION)
FilledText = _kind(_filled, type="string", minLength=1, maxLength=LONGEST_CAPTION)
Seed = _kind(
    _number(0, LARGEST_SEED, True, f"from 0 to {LARGEST_SEED}"),
    type="integer",
    minimum=0,
    maximum=LARGEST_SEED,
)
Fps = _kind(
    _number(SMALLEST_FPS, LARGEST_FPS, False, f"above 0, at most {LARGEST_FPS}"),
    type="number",
    exclusiveMinimum=0,
    maximum=LARGEST_FPS,
)
Lines = _kind(_lines, type="string", maxLength=LONGEST_CAPTION)
FilledLines = _kind(_filled_lines, type="string", minLength=1, maxLength=LONGEST_CAPTION)
Seconds = _kind(_seconds(0, "of seconds, 0 or more"), type=["number", "string"], minimum=0, examples=[1.5, "2s"])
Moment = _kind(_seconds(-LONGEST_SOUND, "of seconds"), type=["number", "string"], examples=[12, "00:12"])
Stretch = _kind(_seconds(SHORTEST, f"of seconds, {SHORTEST} or more"), type=["number", "string"], examples=[0.5, "2s"])
Loudness = _kind(_loudness, anyOf=[{"const": "none"}, {"type": "number", "minimum": QUIETEST, "maximum": LOUDEST}])
Subtitles = _kind(_one_of(SUBTITLES), enum=list(SUBTITLES))
Transition = _kind(_one_of(TRANSITIONS), enum=list(TRANSITIONS))
Colour = _kind(_colour, type="string", examples=["white", "#ff8800"])
Volume = _kind(_number(0, 4, False, "from 0 to 4; 1 is as recorded"), type="number", minimum=0, maximum=4)
Length = _kind(parse_length, type=["string", "number"], examples=["4s", "48f", 2.5])
Size = _kind(_size, type="string", pattern="^[0-9]+x[0-9]+$", examples=["832x480"])
Version = _kind(_version, const=1)
Span = _kind(_span, type="string", examples=["00:03-00:06"])
Switch = _kind(_switch, type="boolean")
Recipe = _kind(_mapping, type="object")
