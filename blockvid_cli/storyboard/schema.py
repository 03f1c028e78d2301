"""The fields a person may write in a storyboard, and the error sentences when they do not fit."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from blockvid_cli.errors import closest_name
from blockvid_cli.storyboard.field_types import (
    ChunkLength,
    Colour,
    Fps,
    Lines,
    Loudness,
    Moment,
    NonemptyLines,
    NonemptyText,
    Recipe,
    Seconds,
    Seed,
    Size,
    Stretch,
    Subtitles,
    Switch,
    Text,
    TimeSpan,
    Transition,
    Version,
    Volume,
)
from blockvid_cli.storyboard.parse import FieldPath
from blockvid_cli.storyboard.seconds import describe, shorten


class _Form(BaseModel):
    """A set of fields: unknown fields are errors, empty ones count as absent."""

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

    file: NonemptyText = Field(description="sound file, relative to the storyboard")
    start: Seconds = Field(0.0, description="seconds into the file at which the sound begins")
    end: Stretch | None = Field(None, description="seconds into the file at which it ends; else the file's end")
    at: Moment = Field(0.0, description="seconds after the first frame (of the chunk) at which it is heard")
    duration: Stretch | None = Field(None, description="seconds it is heard; else to its end, or the film's or chunk's")
    loop: Switch = Field(False, description="begins again when it ends")
    fade_in: Seconds = Field(0.0, description="seconds")
    fade_out: Seconds = Field(0.0, description="seconds")
    volume: Volume = Field(1.0, description="1 is as recorded, or as loudness makes it")
    loudness: Loudness = Field(None, description="LUFS (EBU R128) it is brought to, like -16; none leaves it as it is")


class TitleCardForm(_Form):
    """A still image with words, before or after the film. A bare text is the words."""

    bare = "text"

    text: NonemptyLines = Field(description="the words; line breaks are kept")
    seconds: Stretch = Field(3.0, description="how long it is seen; the film is so much longer")
    colour: Colour = Field("white", description="of the words")
    background: Colour = Field("black", description="behind the words")


class ChunkForm(_Form):
    """One captioned span of the film. A bare text is the caption."""

    bare = "caption"

    caption: NonemptyText = Field(description="what is seen")
    at: TimeSpan | None = Field(None, description="start and end, like 00:03-00:06; or give a duration")
    duration: ChunkLength | None = Field(None, description="4s, 2.5 (seconds) or 48f (frames); else as chunk says")
    seed: Seed | None = Field(None, description="replaces the seed made from film seed and chunk number")
    cut: Switch = Field(False, description="a new shot begins here")
    image: NonemptyText | None = Field(None, description="image to begin with, relative to the storyboard")
    end_image: NonemptyText | None = Field(None, description="image to end with, relative to the storyboard")
    negative: Text | None = Field(None, description="replaces the storyboard's negative")
    recipe: Recipe | None = Field(None, description="changes of the recipe for this chunk")
    audio: AudioForm | None = Field(
        None, description="a sound that begins with the chunk and ends with it, unless it says otherwise"
    )
    subtitle: Lines | None = Field(None, description="replaces the caption in subtitles; '' for none")
    transition: Transition | None = Field(
        None, description="how the new shot begins: cut, fade (through black) or dissolve"
    )
    transition_seconds: Stretch | None = Field(None, description="how long a fade or dissolve lasts; else 0.5")

    @model_validator(mode="after")
    def _one_length(self) -> ChunkForm:
        if self.at is not None and self.duration is not None:
            raise ValueError("'at' and 'duration' are both given; keep one of them")
        return self


class StoryboardForm(_Form):
    """A storyboard as it is written."""

    version: Version = Field(1, description="of this form")
    title: Text = Field("", description="of the film")
    model: NonemptyText | None = Field(None, description="a bundled model's name, or a folder that holds a card.yaml")
    size: Size | None = Field(None, description="WIDTHxHEIGHT in pixels; else the model's")
    fps: Fps | None = Field(None, description="frames a second; else the model's")
    seed: Seed = Field(0, description="the same seed gives the same film")
    style: Text = Field("", description="set before every caption")
    negative: Text = Field("", description="what guidance steers away from")
    chunk: ChunkLength | None = Field(None, description="length of a chunk that names none; else 4 s")
    recipe: Recipe | None = Field(None, description="changes of the model's default recipe")
    audio: AudioForm | None = Field(None, description="the sound of the film")
    subtitles: Subtitles = Field("beside", description="beside (an .srt), none, soft (inside too) or burned (drawn in)")
    title_card: TitleCardForm | None = Field(None, description="a still image with words before the film")
    end_card: TitleCardForm | None = Field(None, description="a still image with words after the film")
    font: NonemptyText | None = Field(None, description="font file for words in frames; else DejaVu Sans")
    chunks: list[ChunkForm] = Field(min_length=1, description="what is seen, in order")


INNER: dict[str | int, type[_Form]] = {"audio": AudioForm, "title_card": TitleCardForm, "end_card": TitleCardForm}


def form_at(path: FieldPath) -> type[_Form] | None:
    """Returns the form at a path of a storyboard, or None where there is none."""
    if not path:
        return StoryboardForm
    if path[0] == "chunks":
        return ChunkForm if len(path) == 2 else AudioForm if len(path) == 3 and path[2] == "audio" else None
    return INNER.get(path[0]) if len(path) == 1 else None


def fields_at(path: FieldPath) -> list[str]:
    """Returns the fields at a path of a storyboard; an empty list where any field, or none, is allowed."""
    form = form_at(path)
    return list(form.model_fields) if form else []


def unknown_field(name: str, known: list[str]) -> str:
    """Returns a sentence that there is no such field, and which one may have been meant."""
    guess = closest_name(name, known)
    remedy = f"did you mean '{guess}'?" if guess else f"there are {', '.join(known)}"
    return f"there is no field '{shorten(name)}'; {remedy}"


def sentence(error: str, path: FieldPath, value: object, message: str) -> str:
    """One of pydantic's errors in our words; ``message`` is its text where the rule is ours."""
    if error == "extra_forbidden":
        return unknown_field(str(path[-1]), fields_at(path[:-1]))
    if error == "missing":
        return f"'{path[-1]}' is missing or empty; write '{path[-1]}: ...'"
    if error == "too_short":
        return "there are no chunks; write at least one caption"
    if error == "list_type":
        return f"{describe(value)} is not a list; begin every chunk with '- caption: ...'"
    if error == "model_type":
        return f"{describe(value)} will not do; write fields and values, like 'caption: A swan glides'"
    return message


def json_schema() -> dict[str, Any]:
    """Returns the JSON schema of a storyboard, for editors that complete and check YAML."""
    schema = StoryboardForm.model_json_schema()
    bare = {"type": "string"}  # a caption, an audio file, or the words of a card, by itself
    chunk = schema["$defs"]["ChunkForm"]
    for holder, name in ((schema, "audio"), (schema, "title_card"), (schema, "end_card"), (chunk, "audio")):
        holder["properties"][name]["anyOf"].insert(0, bare)
    schema["properties"]["chunks"]["items"] = {"anyOf": [bare, {"$ref": "#/$defs/ChunkForm"}]}
    return schema | {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "blockvid storyboard",
    }
