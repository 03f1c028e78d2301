"""What a storyboard's fields may hold: text, seed, size, span, each with its bounds and its sentence."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from fractions import Fraction
from typing import Annotated, Any

from pydantic import PlainValidator, WithJsonSchema

from blockvid_cli.card import parse_size
from blockvid_cli.story.seconds import kind, parse_length, parse_span, shorten

LONGEST_CAPTION = 2000  # characters
LARGEST_SEED = 2**63 - 1
SMALLEST_FPS = 0.01
LARGEST_FPS = 120


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
Seconds = _kind(_number(0, 86400, False, "of seconds, 0 or more"), type="number", minimum=0)
Volume = _kind(_number(0, 4, False, "from 0 to 4; 1 is as recorded"), type="number", minimum=0, maximum=4)
Length = _kind(parse_length, type=["string", "number"], examples=["4s", "48f", 2.5])
Size = _kind(_size, type="string", pattern="^[0-9]+x[0-9]+$", examples=["832x480"])
Version = _kind(_version, const=1)
Span = _kind(_span, type="string", examples=["00:03-00:06"])
Switch = _kind(_switch, type="boolean")
Recipe = _kind(_mapping, type="object")
