"""The storyboard: timed captions that a person writes, read, checked, and laid end to end without a gap.

    chunks:                                seconds   0        4        6        10
    - caption: A swan rests                          | chunk 1| 2      | chunk 3|
    - {caption: It hops, at: 00:04-00:06}
    - It glides away                       (no length of its own: the storyboard's ``chunk``, else 4 s)

Moments are fractions, so that nine hundred chunks of a tenth of a second end exactly at a minute and a half.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from blockvid_cli.storyboard.dress import TRANSITION_SECONDS, Audio, TitleCard, dress, title_card
from blockvid_cli.storyboard.faults import Fault, Reading
from blockvid_cli.storyboard.overrides import apply_overrides
from blockvid_cli.storyboard.paths import Folder
from blockvid_cli.storyboard.reading import read_text, read_yaml
from blockvid_cli.storyboard.schema import ChunkForm, StoryboardForm, sentence
from blockvid_cli.storyboard.spans import Span, lay
from blockvid_cli.storyboard.timed_captions import holds_captions, read_captions


@dataclass(frozen=True)
class Chunk:
    """One captioned span; ``start`` and ``end`` in seconds, exact. None means: as the storyboard says."""

    caption: str
    start: Fraction
    end: Fraction
    seed: int | None = None
    cut: bool = False
    image: Path | None = None
    negative: str | None = None
    recipe: dict[str, Any] = field(default_factory=dict)
    where: str = field(default="", compare=False)  # file and line, for sentences about this chunk
    audio: Audio | None = None
    subtitle: str | None = None  # in place of the caption
    transition: str = "cut"  # how this chunk's shot follows the one before it
    transition_seconds: float = TRANSITION_SECONDS
    end_image: Path | None = None


@dataclass(frozen=True)
class Storyboard:
    """A storyboard that holds together. None means: as the model's card says."""

    chunks: tuple[Chunk, ...]
    source: Path = field(compare=False)
    title: str = ""
    model: str | None = None
    size: tuple[int, int] | None = None  # width, height in pixels
    fps: float | None = None
    seed: int = 0
    style: str = ""
    negative: str = ""
    recipe: dict[str, Any] = field(default_factory=dict)
    audio: Audio | None = None
    notes: tuple[str, ...] = field(default=(), compare=False)  # what an import had to decide
    recipe_where: str = field(default="", compare=False)  # file and line, for sentences about the recipe
    subtitles: str = "beside"
    title_card: TitleCard | None = None
    end_card: TitleCard | None = None
    font: Path | None = None  # for words in pictures

    @property
    def seconds(self) -> Fraction:
        """How long its chunks last, without title and end cards."""
        return self.chunks[-1].end


def read_storyboard(path: Path, overrides: Sequence[str] = (), allow_outside: bool = False) -> Storyboard:
    """Reads YAML or JSON, or imports captions (LV-Bench's, .srt, .vtt, .txt); ``overrides`` are ``--set``s.

    Raises:
        StoryboardError: something in it is wrong; one line a fault, with file, line, field and remedy.
        UsageError: an override names no field.
    """
    path = Path(path)
    text = read_text(path)
    reading = read_captions(text, path) if holds_captions(text, path) else read_yaml(text, path)
    apply_overrides(reading, overrides)
    return _build(reading, allow_outside)


def json_schema() -> dict[str, Any]:
    """The JSON schema of a storyboard, for editors that complete and check YAML."""
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


def _build(reading: Reading, allow_outside: bool) -> Storyboard:
    """Checks the fields, then the spans and files; complains about as much as can be seen at once."""
    form = _form(reading)
    faults = list(reading.faults)
    spans = lay(form, faults)
    folder = Folder(reading.source, allow_outside)
    dressed = dress(form, spans, folder, faults)
    images = [
        tuple(
            folder.find(name, ("chunks", index, way), faults) if name else None
            for way, name in (("image", chunk.image), ("end_image", chunk.end_image))
        )
        for index, chunk in enumerate(form.chunks)
    ]
    if faults:
        raise reading.complaint(faults)
    chunks = tuple(
        _chunk(chunk, spans[index], images[index], dressed.chunks[index], reading.place(("chunks", index))[1])
        for index, chunk in enumerate(form.chunks)
    )
    return Storyboard(
        chunks,
        reading.source,
        form.title,
        form.model,
        form.size,
        form.fps,
        form.seed,
        form.style,
        form.negative,
        form.recipe or {},
        dressed.audio,
        tuple(reading.notes),
        reading.place(("recipe",))[1],
        form.subtitles,
        title_card(form.title_card),
        title_card(form.end_card),
        dressed.font,
    )


def _chunk(form: ChunkForm, span: Span, images: tuple[Path | None, ...], audio: Audio | None, where: str) -> Chunk:
    recipe, (image, end_image) = form.recipe or {}, images
    transition = form.transition or "cut", form.transition_seconds or TRANSITION_SECONDS
    dressed = audio, form.subtitle, *transition
    return Chunk(form.caption, *span, form.seed, form.cut, image, form.negative, recipe, where, *dressed, end_image)


def _form(reading: Reading) -> StoryboardForm:
    """The fields, each checked by itself."""
    if not isinstance(reading.data, dict):
        wrong = Fault((), "this is no storyboard; begin with a line 'chunks:' and captions under it")
        raise reading.complaint([*reading.faults, wrong])
    try:
        return StoryboardForm.model_validate(reading.data)
    except ValidationError as error:
        known = {fault.field for fault in reading.faults}
        found = []
        for item in error.errors(include_url=False):
            way = item["loc"]
            own = str(item.get("ctx", {}).get("error", item["msg"]))
            if way not in known:
                found.append(Fault(way, sentence(item["type"], way, item["input"], own)))
        raise reading.complaint([*reading.faults, *found]) from error
