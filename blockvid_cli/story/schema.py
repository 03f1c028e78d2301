"""The fields a person may write in a storyboard, and what is said when they do not fit."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, model_validator

from blockvid_cli.errors import nearest
from blockvid_cli.story import faults
from blockvid_cli.story.kinds import (
    FilledText,
    Fps,
    Length,
    Recipe,
    Seconds,
    Seed,
    Size,
    Span,
    Switch,
    Text,
    Version,
    Volume,
)
from blockvid_cli.story.seconds import kind as kind_of
from blockvid_cli.story.seconds import shorten


class _Form(BaseModel):
    """Fields to fill in: unknown ones are errors, empty ones count as not given."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _without_empty(cls, values: object) -> object:
        if isinstance(values, dict):
            return {name: value for name, value in values.items() if value is not None}
        return values


class AudioForm(_Form):
    """The sound of the film: a file, and how to lay it under the pictures. A bare text is the file."""

    file: FilledText = Field(description="sound file, relative to the storyboard")
    start: Seconds = Field(0.0, description="seconds into the file at which the film begins")
    fade_in: Seconds = Field(0.0, description="seconds")
    fade_out: Seconds = Field(0.0, description="seconds")
    volume: Volume = Field(1.0, description="1 is as recorded")

    @model_validator(mode="before")
    @classmethod
    def _bare(cls, values: object) -> object:
        return {"file": values} if isinstance(values, str) else values


class ChunkForm(_Form):
    """One captioned span of the film. A bare text is the caption."""

    caption: FilledText = Field(description="what is seen")
    at: Span = Field(None, description="start and end, like 00:03-00:06; or give a duration")
    duration: Length = Field(None, description="4s, 2.5 (seconds) or 48f (frames); else as chunk says")
    seed: Seed = Field(None, description="replaces the seed made from film seed and chunk number")
    cut: Switch = Field(False, description="a new shot begins here")
    image: FilledText = Field(None, description="picture to begin from, relative to the storyboard")
    end_image: FilledText = Field(None, description="picture to end with, relative to the storyboard")
    negative: Text = Field(None, description="replaces the storyboard's negative")
    recipe: Recipe = Field(None, description="changes of the recipe for this chunk")

    @model_validator(mode="before")
    @classmethod
    def _bare(cls, values: object) -> object:
        return {"caption": values} if isinstance(values, str) else values

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
    chunks: list[ChunkForm] = Field(min_length=1, description="what is seen, in order")


def fields_at(way: faults.Field) -> list[str]:
    """The fields there are at a place of a storyboard; none where anything, or nothing, may stand."""
    if not way:
        return list(StoryboardForm.model_fields)
    if way == ("audio",):
        return list(AudioForm.model_fields)
    return list(ChunkForm.model_fields) if len(way) == 2 and way[0] == "chunks" else []


def unknown_field(name: str, known: list[str]) -> str:
    """Says that there is no such field, and which one may have been meant."""
    guess = nearest(name, known)
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
