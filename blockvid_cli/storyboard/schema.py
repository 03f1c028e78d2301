"""The fields a person may write in a storyboard, and what is said when they do not fit."""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from blockvid_cli.errors import closest_name
from blockvid_cli.storyboard import faults
from blockvid_cli.storyboard.kinds import (
    Colour,
    FilledLines,
    FilledText,
    Fps,
    Length,
    Lines,
    Loudness,
    Moment,
    Recipe,
    Seconds,
    Seed,
    Size,
    Span,
    Stretch,
    Subtitles,
    Switch,
    Text,
    Transition,
    Version,
    Volume,
)
from blockvid_cli.storyboard.seconds import kind as kind_of
from blockvid_cli.storyboard.seconds import shorten


class _Form(BaseModel):
    """Fields to fill in: unknown ones are errors, empty ones count as not given."""

    bare: ClassVar[str] = ""  # the field that a bare text in place of all fields stands for

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _without_empty(cls, values: object) -> object:
        if isinstance(values, str) and cls.bare:
            return {cls.bare: values}
        if isinstance(values, dict):
            return {name: value for name, value in values.items() if value is not None}
        return values


class AudioForm(_Form):
    """A sound: a file, and how to lay it under the film or under a chunk. A bare text is the file."""

    bare = "file"

    file: FilledText = Field(description="sound file, relative to the storyboard")
    start: Seconds = Field(0.0, description="seconds into the file at which the sound begins")
    end: Stretch = Field(None, description="seconds into the file at which it ends; else the file's end")
    at: Moment = Field(0.0, description="seconds after the first picture (of the chunk) at which it is heard")
    duration: Stretch = Field(None, description="seconds it is heard; else as long as it, the film or the chunk lasts")
    loop: Switch = Field(False, description="begins again when it ends")
    fade_in: Seconds = Field(0.0, description="seconds")
    fade_out: Seconds = Field(0.0, description="seconds")
    volume: Volume = Field(1.0, description="1 is as recorded, or as loudness makes it")
    loudness: Loudness = Field(None, description="LUFS (EBU R128) it is brought to, like -16; none leaves it as it is")


class TitleCardForm(_Form):
    """A still picture with words, before or after the film. A bare text is the words."""

    bare = "text"

    text: FilledLines = Field(description="the words; line breaks are kept")
    seconds: Stretch = Field(3.0, description="how long it is seen; the film is so much longer")
    colour: Colour = Field("white", description="of the words")
    background: Colour = Field("black", description="behind the words")


class ChunkForm(_Form):
    """One captioned span of the film. A bare text is the caption."""

    bare = "caption"

    caption: FilledText = Field(description="what is seen")
    at: Span = Field(None, description="start and end, like 00:03-00:06; or give a duration")
    duration: Length = Field(None, description="4s, 2.5 (seconds) or 48f (frames); else as chunk says")
    seed: Seed = Field(None, description="replaces the seed made from film seed and chunk number")
    cut: Switch = Field(False, description="a new shot begins here")
    image: FilledText = Field(None, description="picture to begin from, relative to the storyboard")
    end_image: FilledText = Field(None, description="picture to end with, relative to the storyboard")
    negative: Text = Field(None, description="replaces the storyboard's negative")
    recipe: Recipe = Field(None, description="changes of the recipe for this chunk")
    audio: AudioForm | None = Field(None, description="a sound that begins, and unless it says otherwise ends, with it")
    subtitle: Lines = Field(None, description="replaces the caption in subtitles; '' for none")
    transition: Transition = Field(None, description="how the new shot follows: cut, fade (through black) or dissolve")
    transition_seconds: Stretch = Field(None, description="how long a fade or dissolve lasts; else 0.5")

    @model_validator(mode="after")
    def _one_length(self) -> ChunkForm:
        if self.at is not None and self.duration is not None:
            raise ValueError("'at' and 'duration' are both given; keep one of them")
        return self


class StoryboardForm(_Form):
    """A storyboard as it is written."""

    version: Version = Field(1, description="of this form")
    title: Text = Field("", description="of the film")
    model: FilledText = Field(None, description="a bundled model's name, or a folder that holds a card.yaml")
    size: Size = Field(None, description="WIDTHxHEIGHT in pixels; else the model's")
    fps: Fps = Field(None, description="frames a second; else the model's")
    seed: Seed = Field(0, description="the same seed draws the same film")
    style: Text = Field("", description="set before every caption")
    negative: Text = Field("", description="what guidance steers away from")
    chunk: Length = Field(None, description="how long a chunk lasts that says nothing; else 4 s")
    recipe: Recipe = Field(None, description="changes of the model's default recipe")
    audio: AudioForm | None = Field(None, description="the sound of the film")
    subtitles: Subtitles = Field("beside", description="beside (an .srt), none, soft (inside too) or burned (drawn in)")
    title_card: TitleCardForm | None = Field(None, description="a still picture with words before the film")
    end_card: TitleCardForm | None = Field(None, description="a still picture with words after the film")
    font: FilledText = Field(None, description="font file for words in pictures; else DejaVu Sans")
    chunks: list[ChunkForm] = Field(min_length=1, description="what is seen, in order")


INNER: dict[str | int, type[_Form]] = {"audio": AudioForm, "title_card": TitleCardForm, "end_card": TitleCardForm}


def form_at(way: faults.Field) -> type[_Form] | None:
    """The form at a place of a storyboard, or None where none is."""
    if not way:
        return StoryboardForm
    if way[0] == "chunks":
        return ChunkForm if len(way) == 2 else AudioForm if len(way) == 3 and way[2] == "audio" else None
    return INNER.get(way[0]) if len(way) == 1 else None


def fields_at(way: faults.Field) -> list[str]:
    """The fields there are at a place of a storyboard; none where anything, or nothing, may stand."""
    form = form_at(way)
    return list(form.model_fields) if form else []


def unknown_field(name: str, known: list[str]) -> str:
    """Says that there is no such field, and which one may have been meant."""
    guess = closest_name(name, known)
    right = f"did you mean '{guess}'?" if guess else f"there are {', '.join(known)}"
    return f"there is no field '{shorten(name)}'; {right}"


def sentence(error: str, way: faults.Field, value: object, own: str) -> str:
    """One of pydantic's errors in our words; ``own`` is its text where the rule is ours."""
    if error == "extra_forbidden":
        return unknown_field(str(way[-1]), fields_at(way[:-1]))
    if error == "missing":
        return f"'{way[-1]}' is missing or empty; write '{way[-1]}: ...'"
    if error == "too_short":
        return "there are no chunks; write at least one caption"
    if error == "list_type":
        return f"{kind_of(value)} is not a list; begin every chunk with '- caption: ...'"
    if error == "model_type":
        return f"{kind_of(value)} will not do; write fields and values, like 'caption: A swan glides'"
    return own
