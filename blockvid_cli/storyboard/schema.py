"""The fields a person may write in a storyboard, and the error sentences when they do not fit."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from blockvid_cli.errors import closest_name, shorten
from blockvid_cli.storyboard.field_types import (
    SUBTITLES,
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
    SoundStart,
    Stretch,
    SubtitleKind,
    SubtitlePlace,
    SubtitleSize,
    Switch,
    Text,
    TimeSpan,
    Transition,
    Version,
    Volume,
)
from blockvid_cli.storyboard.parse import MAX_CHUNKS, FieldPath
from blockvid_cli.storyboard.seconds import describe


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
    start: SoundStart = Field(
        0.0,
        description="seconds into the file at which the sound begins; or whether the film's sound begins with the film "
        "(its title card) or with the story (its first chunk), which is the default",
    )
    end: Stretch | None = Field(
        None, description="seconds into the file at which the sound ends; without this, the file's end"
    )
    at: Moment = Field(
        0.0,
        description="seconds after the first frame of the story or chunk at which it is heard; may be negative",
    )
    duration: Stretch | None = Field(
        None, description="seconds it is heard; without this, to its end, or to the end of the film or chunk"
    )
    loop: Switch = Field(False, description="whether the sound begins again when it ends")
    fade_in: Seconds = Field(0.0, description="seconds until it has its full volume")
    fade_out: Seconds = Field(0.0, description="seconds in which it dies away at its end")
    volume: Volume = Field(1.0, description="factor; 1 is as recorded, or as loudness makes it")
    loudness: Loudness = Field(
        None,
        description="loudness that the sound is brought to, in LUFS (EBU R128), like -16; the film's sound and those "
        "of its chunks are brought to it together",
    )

    @property
    def offset(self) -> float:
        """Seconds into the file at which the sound begins."""
        return self.start if isinstance(self.start, float) else 0.0

    def delay(self, lead: float) -> float:
        """Seconds after the first frame of the chunks at which it is heard; ``lead`` is the title card's length."""
        return self.at - (lead if self.start == "film" else 0.0)


class TitleCardForm(_Form):
    """A still image with words, before or after the film. A bare text is the words."""

    bare = "text"

    text: NonemptyLines = Field(description="the words; line breaks are kept")
    seconds: Stretch = Field(3.0, description="how long the card is shown; it makes the film that much longer")
    colour: Colour = Field("white", description="colour of the words")
    background: Colour = Field("black", description="colour behind the words")


class SubtitlesForm(_Form):
    """How captions are shown as subtitles. A bare text is ``show``."""

    bare = "show"

    show: SubtitleKind = Field(
        "beside",
        description="beside the film as .srt, none, soft (inside the film, to be switched on), or burned into its "
        "frames",
    )
    srt: Switch = Field(False, description="whether an .srt lies beside the film, however they are shown")
    size: SubtitleSize = Field(
        6.0, description="height of the letters, soft or burned, as a percentage of the frame's height"
    )
    place: SubtitlePlace = Field(
        "bottom", description="where burned subtitles stand in a frame; players choose the place of the others"
    )


class ChunkForm(_Form):
    """One captioned span of the film. A bare text is the caption."""

    bare = "caption"

    caption: NonemptyText = Field(description="what the chunk shows")
    at: TimeSpan | None = Field(None, description="start and end of the chunk; or give its duration")
    duration: ChunkLength | None = Field(
        None, description="length in seconds, minutes (2 min) or frames (48f); without this, as chunk says"
    )
    seed: Seed | None = Field(
        None, description="replaces the seed that is made from the film's seed and the chunk's number"
    )
    cut: Switch = Field(False, description="whether a new shot begins here")
    image: NonemptyText | None = Field(
        None,
        description="image file that the chunk begins with, relative to the storyboard; the bundled model goes on from "
        "pictures of its own world, and shows any other for one frame",
    )
    end_image: NonemptyText | None = Field(
        None, description="image file that the chunk ends with, relative to the storyboard"
    )
    negative: Text | None = Field(None, description="replaces the storyboard's negative for this chunk")
    recipe: Recipe | None = Field(None, description="changes of the recipe for this chunk")
    audio: AudioForm | None = Field(
        None, description="a sound that begins with the chunk and ends with it, unless it says otherwise"
    )
    subtitle: Lines | None = Field(None, description="replaces the caption in subtitles; '' for none")
    transition: Transition | None = Field(
        None, description="how the new shot begins: cut, fade (through black) or dissolve"
    )
    transition_seconds: Stretch | None = Field(
        None, description="how long a fade or dissolve lasts; without this, 0.5 seconds"
    )

    @model_validator(mode="after")
    def _one_length(self) -> ChunkForm:
        if self.at is not None and self.duration is not None:
            raise ValueError("'at' and 'duration' are both given; keep one of them")
        return self


class StoryboardForm(_Form):
    """A storyboard as it is written."""

    version: Version = Field(1, description="version of the storyboard format")
    title: Text = Field("", description="title of the film")
    model: NonemptyText | None = Field(None, description="name of a bundled model, or a folder that holds a card.yaml")
    size: Size | None = Field(None, description="WIDTHxHEIGHT in pixels; without this, the model's")
    untrained_size: Switch = Field(
        False, description="whether the size may be one that the model was not trained for; the film looks wrong then"
    )
    fps: Fps | None = Field(None, description="frames a second; without this, the model's")
    seed: Seed = Field(0, description="the same seed gives the same film")
    style: Text = Field("", description="text that is set before every caption")
    negative: Text = Field("", description="what guidance steers away from")
    chunk: ChunkLength | None = Field(None, description="length of a chunk that names none; without this, 4 seconds")
    recipe: Recipe | None = Field(None, description="changes of the model's default recipe")
    audio: AudioForm | None = Field(None, description="the sound of the film")
    subtitles: SubtitlesForm | None = Field(
        None,
        description="how captions are shown as subtitles; without this, beside the film (with --no-metadata: none)",
    )
    title_card: TitleCardForm | None = Field(None, description="a still image with words before the film")
    end_card: TitleCardForm | None = Field(None, description="a still image with words after the film")
    font: NonemptyText | None = Field(None, description="font file for words in frames; without this, DejaVu Sans")
    chunks: list[ChunkForm] = Field(min_length=1, max_length=MAX_CHUNKS, description="what the film shows, in order")


INNER: dict[str | int, type[_Form]] = {
    "audio": AudioForm,
    "subtitles": SubtitlesForm,
    "title_card": TitleCardForm,
    "end_card": TitleCardForm,
}


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


def field_meant(name: str, known: list[str]) -> str | None:
    """Returns which field was meant by a name that is none; None where that is not clear."""
    return closest_name(name, known) if " " not in name.strip() else None


def unknown_field(name: str, known: list[str]) -> str:
    """Returns a sentence that there is no such field, and which one may have been meant."""
    if "chunks" in known and name in ChunkForm.model_fields:
        return f"'{name}' belongs to a chunk; write it in the chunk, beside its caption"
    if "duration" in known and name in StoryboardForm.model_fields:
        return f"'{name}' belongs to the whole film; write it at the top of the file"
    guess = field_meant(name, known)
    remedy = f"did you mean '{guess}'?" if guess else f"there are {', '.join(known)}"
    if not guess and "caption" in known:  # '- Night: rain falls' is a field 'Night' to YAML
        remedy = f"if a colon belongs to the caption, put the caption in quotes; {remedy}"
    return f"there is no field '{shorten(name)}'; {remedy}"


def sentence(error: str, path: FieldPath, value: object, message: str) -> str:
    """One of pydantic's errors in our words; ``message`` is its text where the rule is ours."""
    if error == "extra_forbidden":
        return unknown_field(str(path[-1]), fields_at(path[:-1]))
    if error == "missing":
        return f"'{path[-1]}' is missing or empty; write '{path[-1]}: ...'"
    if error == "too_long":
        return f"there are more than {MAX_CHUNKS} chunks; split the film into several storyboards"
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
    schema["properties"]["subtitles"]["anyOf"].insert(0, {"enum": list(SUBTITLES)})
    schema["properties"]["chunks"]["items"] = {"anyOf": [bare, {"$ref": "#/$defs/ChunkForm"}]}
    return schema | {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "blockvid storyboard",
    }


def keys_table() -> str:
    """Returns all keys of a storyboard as one Markdown table: what each may hold, its default and its meaning."""
    schema = json_schema()
    parts = {
        "": schema,
        "audio.": schema["$defs"]["AudioForm"],
        "subtitles.": schema["$defs"]["SubtitlesForm"],
        "title_card.": schema["$defs"]["TitleCardForm"],
        "chunks[].": schema["$defs"]["ChunkForm"],
    }
    rows = ["| key | value | default | meaning |", "|---|---|---|---|"]
    for prefix, part in parts.items():
        for name, field in part["properties"].items():
            default = field.get("default")
            cells = (
                f"`{prefix}{name}`",
                _value_in_words(field),
                "required"
                if name in part.get("required", ())
                else f"`{_yaml(default)}`"
                if default not in (None, "")
                else "",
                field["description"],
            )
            rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def _value_in_words(field: dict[str, Any]) -> str:
    """Returns what a field of the JSON schema may hold: ``a number from 0 to 4``, ``like `4s` or `48f```."""
    if "anyOf" in field:
        choices = [_value_in_words(choice) for choice in field["anyOf"] if choice.get("type") != "null"]
        return " or ".join(choices)
    if "$ref" in field:
        keys = {
            "AudioForm": "`audio.`",
            "SubtitlesForm": "`subtitles.`",
            "TitleCardForm": "`title_card.`",
            "ChunkForm": "`chunks[].`",
        }
        return f"the {keys[field['$ref'].rsplit('/')[-1]]} keys below"
    if field.get("type") == "array":
        return f"a list, each {_value_in_words(field['items'])}"
    words = field.get("enum") or ([field["const"]] if "const" in field else [])
    if words or "examples" in field:
        return ("" if words else "like ") + ", ".join(f"`{_yaml(word)}`" for word in words or field["examples"])
    kinds = {"boolean": "`true`, `false`", "integer": "whole number", "number": "number", "object": "names and values"}
    bounds = [
        f"{word} {field[key]}"
        for key, word in (("minimum", "from"), ("exclusiveMinimum", "above"), ("maximum", "to"))
        if key in field
    ]
    return " ".join((kinds.get(field["type"], "text"), *bounds))


def _yaml(value: object) -> str:
    """Returns a value as it is written in a storyboard."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)
