"""The types of a storyboard's fields: text, seed, size, span and more, each with its bounds and its error sentence."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Annotated, Any

from pydantic import PlainValidator, WithJsonSchema

from blockvid_cli.errors import closest_name, shorten
from blockvid_cli.models.card import parse_size
from blockvid_cli.storyboard.seconds import Length, describe, parse_clock, parse_length, parse_span

LONGEST_CAPTION = 2000  # characters
LARGEST_SEED = 2**63 - 1
SMALLEST_FPS = 0.01
LARGEST_FPS = 120
LONGEST_AUDIO = 86400  # seconds
SHORTEST_STRETCH = 0.01  # seconds that a transition, a still or a part of a sound may last
MIN_LUFS, MAX_LUFS = -70, -5  # LUFS that may be aimed at
SUBTITLES = ("beside", "none", "soft", "burned")
PLACES = ("bottom", "middle", "top")  # of a subtitle in a frame
TRANSITIONS = ("cut", "fade", "dissolve")
SOUND_STARTS = ("film", "story")  # the film begins with its title card, the story with its first chunk
COLOURS = ("black", "white", "grey", "red", "orange", "yellow", "green", "blue", "purple")


def _text(value: object) -> str:
    """Text on one line: whatever white space it holds becomes single spaces."""
    if not isinstance(value, str):
        raise ValueError(f"{describe(value)} is not text; put it in quotes if it is meant as text")
    line = " ".join(value.split())
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in line):
        raise ValueError("a control character stands in this text; remove it")
    if len(line) > LONGEST_CAPTION:
        raise ValueError(f"this text has {len(line)} characters; at most {LONGEST_CAPTION} are read")
    return line


def _nonempty(value: object) -> str:
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


def _nonempty_lines(value: object) -> str:
    return _lines(value) or _nonempty(value)


def _number(low: float, high: float, whole: bool, unit: str) -> Callable[[object], Any]:
    """A validator of numbers from ``low`` to ``high``, both included; ``unit`` ends its sentences."""
    remedy = f"write a{' whole' if whole else ''} number {unit}"

    def number(value: object) -> int | float:
        types = (int,) if whole else (int, float)
        if isinstance(value, bool) or not isinstance(value, types):
            raise ValueError(f"{describe(value)} will not do; {remedy}")
        if not low <= value <= high:
            raise ValueError(f"{shorten(str(value))} is out of bounds; {remedy}")
        return value if whole else float(value)

    return number


def _seconds(low: float, unit: str) -> Callable[[object], float]:
    """A validator of seconds from ``low`` on: a number, or a time like ``3s`` or ``00:03``."""
    number = _number(low, LONGEST_AUDIO, False, unit)

    def seconds(value: object) -> float:
        try:
            amount = float(parse_clock(value.strip().removeprefix("-"))) if isinstance(value, str) else value
        except ValueError:
            amount = value  # refused below, in the words of this field
        return number(-amount if isinstance(value, str) and isinstance(amount, float) and "-" in value else amount)

    return seconds


def _sound_start(value: object) -> float | str:
    """Seconds into the file, or the word for what the beginning of the sound coincides with."""
    if isinstance(value, str) and value in SOUND_STARTS:
        return value
    return _seconds(0, "of seconds into the file, or one of the words film and story")(value)


def _loudness(value: object) -> float | None:
    if value == "none":
        return None
    return _number(MIN_LUFS, MAX_LUFS, False, f"of LUFS from {MIN_LUFS} to {MAX_LUFS}, like -16, or none")(value)


def _one_of(words: Sequence[str]) -> Callable[[object], str]:
    """A validator of a word among ``words``."""

    def word(value: object) -> str:
        if not isinstance(value, str) or value not in words:
            guess = closest_name(value.lower(), list(words)) if isinstance(value, str) and len(value) < 40 else None
            remedy = f"did you mean '{guess}'? There are" if guess else "write"
            raise ValueError(f"{describe(value)} will not do; {remedy} {', '.join(words[:-1])} or {words[-1]}")
        return value

    return word


def _colour(value: object) -> str:
    if isinstance(value, str) and (value in COLOURS or re.fullmatch("#[0-9a-fA-F]{6}", value)):
        return value
    guess = closest_name(value.lower(), list(COLOURS)) if isinstance(value, str) and len(value) < 40 else None
    remedy = f"did you mean '{guess}'? There are" if guess else "write"
    raise ValueError(
        f"{describe(value)} is not a colour; {remedy} {', '.join(COLOURS)}, or one like '#ff8800' in quotes"
    )


def _version(value: object) -> int:
    if isinstance(value, bool) or value != 1:
        raise ValueError(f"{describe(value)} is not a version known here; write 'version: 1'")
    return 1


def _size(value: object) -> tuple[int, int]:
    if not isinstance(value, str):
        raise ValueError(f"{describe(value)} is not a size; write WIDTHxHEIGHT, like 832x480")
    width, height = parse_size(value)
    if width % 2 or height % 2:
        even = f"{width + width % 2}x{height + height % 2}"
        raise ValueError(f"a film cannot be {width}x{height}; both sides must be even, like {even}")
    return width, height


def _span(value: object) -> tuple[Fraction, Fraction]:
    if not isinstance(value, str):
        raise ValueError(f"{describe(value)} is not a span; write it like 00:03-00:06")
    return parse_span(value)


def _switch(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{describe(value)} will not do; write true or false")
    return value


def _mapping(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{describe(value)} is not a recipe; write names and values, like 'steps: 6'")
    return value


Text = Annotated[str, PlainValidator(_text), WithJsonSchema({"type": "string", "maxLength": LONGEST_CAPTION})]
NonemptyText = Annotated[
    str,
    PlainValidator(_nonempty),
    WithJsonSchema({"type": "string", "minLength": 1, "maxLength": LONGEST_CAPTION}),
]
Lines = Annotated[str, PlainValidator(_lines), WithJsonSchema({"type": "string", "maxLength": LONGEST_CAPTION})]
NonemptyLines = Annotated[
    str,
    PlainValidator(_nonempty_lines),
    WithJsonSchema({"type": "string", "minLength": 1, "maxLength": LONGEST_CAPTION}),
]
Seed = Annotated[
    int,
    PlainValidator(_number(0, LARGEST_SEED, True, f"from 0 to {LARGEST_SEED}")),
    WithJsonSchema({"type": "integer", "minimum": 0, "maximum": LARGEST_SEED}),
]
Fps = Annotated[
    float,
    PlainValidator(_number(SMALLEST_FPS, LARGEST_FPS, False, f"above 0, at most {LARGEST_FPS}")),
    WithJsonSchema({"type": "number", "exclusiveMinimum": 0, "maximum": LARGEST_FPS}),
]
Volume = Annotated[
    float,
    PlainValidator(_number(0, 4, False, "from 0 to 4; 1 is as recorded")),
    WithJsonSchema({"type": "number", "minimum": 0, "maximum": 4}),
]
Seconds = Annotated[
    float,
    PlainValidator(_seconds(0, "of seconds, 0 or more")),
    WithJsonSchema({"type": ["number", "string"], "minimum": 0, "examples": [1.5, "2s"]}),
]
SoundStart = Annotated[
    float | str,
    PlainValidator(_sound_start),
    WithJsonSchema({"anyOf": [{"type": ["number", "string"], "examples": [1.5, "2s"]}, {"enum": list(SOUND_STARTS)}]}),
]
Moment = Annotated[
    float,
    PlainValidator(_seconds(-LONGEST_AUDIO, "of seconds")),
    WithJsonSchema({"type": ["number", "string"], "examples": [12, "00:12"]}),
]
Stretch = Annotated[
    float,
    PlainValidator(_seconds(SHORTEST_STRETCH, f"of seconds, {SHORTEST_STRETCH} or more")),
    WithJsonSchema({"type": ["number", "string"], "examples": [0.5, "2s"]}),
]
Loudness = Annotated[
    float | None,
    PlainValidator(_loudness),
    WithJsonSchema({"anyOf": [{"const": "none"}, {"type": "number", "minimum": MIN_LUFS, "maximum": MAX_LUFS}]}),
]
SubtitleKind = Annotated[str, PlainValidator(_one_of(SUBTITLES)), WithJsonSchema({"enum": list(SUBTITLES)})]
SubtitlePlace = Annotated[str, PlainValidator(_one_of(PLACES)), WithJsonSchema({"enum": list(PLACES)})]
SubtitleSize = Annotated[
    float,
    PlainValidator(_number(2, 20, False, "from 2 to 20, a percentage of the frame's height")),
    WithJsonSchema({"type": "number", "minimum": 2, "maximum": 20}),
]
Transition = Annotated[str, PlainValidator(_one_of(TRANSITIONS)), WithJsonSchema({"enum": list(TRANSITIONS)})]
Colour = Annotated[str, PlainValidator(_colour), WithJsonSchema({"type": "string", "examples": ["white", "#ff8800"]})]
ChunkLength = Annotated[
    Length, PlainValidator(parse_length), WithJsonSchema({"type": ["string", "number"], "examples": ["4s", "48f", 2.5]})
]
Size = Annotated[
    tuple[int, int],
    PlainValidator(_size),
    WithJsonSchema({"type": "string", "pattern": "^[0-9]+x[0-9]+$", "examples": ["832x480"]}),
]
Version = Annotated[int, PlainValidator(_version), WithJsonSchema({"const": 1})]
TimeSpan = Annotated[
    tuple[Fraction, Fraction], PlainValidator(_span), WithJsonSchema({"type": "string", "examples": ["00:03-00:06"]})
]
Switch = Annotated[bool, PlainValidator(_switch), WithJsonSchema({"type": "boolean"})]
Recipe = Annotated[dict[str, Any], PlainValidator(_mapping), WithJsonSchema({"type": "object"})]
