"""The storyboard: timed captions that a person writes, read, checked, and laid end to end without a gap.

    chunks:                                seconds   0        4        6        10
    - caption: A swan rests                          | chunk 1| 2      | chunk 3|
    - {caption: It hops, at: 00:04-00:06}
    - It glides away                       (no length of its own: the storyboard's ``chunk``, else 4 s)

Times are fractions, so that nine hundred chunks of a tenth of a second end exactly at a minute and a half.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from blockvid_cli.storyboard.field_types import LARGEST_FPS
from blockvid_cli.storyboard.imports import is_caption_file, read_captions
from blockvid_cli.storyboard.overrides import apply_overrides
from blockvid_cli.storyboard.parse import (
    MAX_PROBLEMS,
    Document,
    FieldPath,
    Problem,
    decode_text,
    read_content,
    read_yaml,
)
from blockvid_cli.storyboard.presentation import (
    TRANSITION_SECONDS,
    Audio,
    Folder,
    Span,
    Subtitles,
    TitleCard,
    find_presentation,
    subtitles,
    title_card,
)
from blockvid_cli.storyboard.schema import ChunkForm, StoryboardForm, field_meant, fields_at, sentence
from blockvid_cli.storyboard.seconds import Length, format_clock

DEFAULT_LENGTH = Length(Fraction(4))  # of a chunk
LONGEST_FILM = 6 * 3600  # seconds


@dataclass(frozen=True)
class Chunk:
    """One captioned span; ``start`` and ``end`` in seconds, exact. None means: as the storyboard says."""

    caption: str
    start: Fraction
    end: Fraction
    seed: int | None = None
    cut: bool = False
    image: Path | None = None
    end_image: Path | None = None
    negative: str | None = None
    recipe: dict[str, Any] = field(default_factory=dict)
    audio: Audio | None = None
    subtitle: str | None = None  # replaces the caption in subtitles
    transition: str = "cut"  # how this chunk's shot follows the one before it
    transition_seconds: float = TRANSITION_SECONDS
    location: str = field(default="", compare=False)  # file and line, for sentences about this chunk


@dataclass(frozen=True)
class Storyboard:
    """A storyboard that has been checked. None means: as the model's card says."""

    chunks: tuple[Chunk, ...]
    source: Path = field(compare=False)
    title: str = ""
    model: str | None = None
    size: tuple[int, int] | None = None  # width, height in pixels
    untrained_size: bool = False  # whether the model may draw a size that it was not trained for
    fps: float | None = None
    seed: int = 0
    style: str = ""
    negative: str = ""
    recipe: dict[str, Any] = field(default_factory=dict)
    audio: Audio | None = None
    subtitles: Subtitles | None = None
    title_card: TitleCard | None = None
    end_card: TitleCard | None = None
    font: Path | None = None  # of words inside frames
    notes: tuple[str, ...] = field(default=(), compare=False)  # what an import had to decide
    recipe_location: str = field(default="", compare=False)  # file and line, or --set; "" without a recipe
    content: bytes = field(default=b"", compare=False, repr=False)  # of the file, as it was when it was read

    @property
    def seconds(self) -> Fraction:
        """How long its chunks last, without title and end cards."""
        return self.chunks[-1].end


def read_storyboard(path: Path, overrides: Sequence[str] = (), allow_outside: bool = False) -> Storyboard:
    """Reads YAML or JSON, or imports captions (LV-Bench's, .srt, .vtt, .txt); ``overrides`` are the ``--set`` options.

    Raises:
        StoryboardError: something in it is wrong; one line a problem, with file, line, field and remedy.
        UsageError: an override names no field.
    """
    path = Path(path)
    content = read_content(path)
    text = decode_text(content, path)
    document = read_captions(text, path) if is_caption_file(text, path) else read_yaml(text, path)
    apply_overrides(document, overrides)
    return replace(_build(document, allow_outside), content=content)


def _build(document: Document, allow_outside: bool) -> Storyboard:
    """Checks the fields, then the spans and files; reports as many problems as can be seen at once."""
    form = _form(document)
    problems = list(document.problems)
    spans = _chunk_spans(form, problems)
    folder = Folder(document.source, allow_outside)
    presentation = find_presentation(form, spans, folder, problems)
    images = [
        {
            name: folder.find(image, ("chunks", index, name), problems)
            for name, image in (("image", chunk.image), ("end_image", chunk.end_image))
            if image
        }
        for index, chunk in enumerate(form.chunks)
    ]
    if problems:
        raise document.error(problems)
    chunks = tuple(
        _chunk(chunk, spans[index], images[index], presentation.chunks[index], document.location(("chunks", index))[1])
        for index, chunk in enumerate(form.chunks)
    )
    return Storyboard(
        chunks=chunks,
        source=document.source,
        title=form.title,
        model=form.model,
        size=form.size,
        untrained_size=form.untrained_size,
        fps=form.fps,
        seed=form.seed,
        style=form.style,
        negative=form.negative,
        recipe=form.recipe or {},
        audio=presentation.audio,
        subtitles=subtitles(form.subtitles),
        title_card=title_card(form.title_card),
        end_card=title_card(form.end_card),
        font=presentation.font,
        notes=tuple(document.notes),
        recipe_location=document.recipe_location(),
    )


def _chunk(form: ChunkForm, span: Span, images: dict[str, Path], audio: Audio | None, location: str) -> Chunk:
    return Chunk(
        caption=form.caption,
        start=span[0],
        end=span[1],
        seed=form.seed,
        cut=form.cut,
        image=images.get("image"),
        end_image=images.get("end_image"),
        negative=form.negative,
        recipe=form.recipe or {},
        audio=audio,
        subtitle=form.subtitle,
        transition=form.transition or "cut",
        transition_seconds=form.transition_seconds or TRANSITION_SECONDS,
        location=location,
    )


def _form(document: Document) -> StoryboardForm:
    """Checks each field by itself."""
    if not isinstance(document.data, dict):
        wrong = Problem((), "this is no storyboard; begin with a line 'chunks:' and captions under it")
        raise document.error([*document.problems, wrong])
    try:
        return StoryboardForm.model_validate(document.data)
    except ValidationError as error:
        known = {problem.field for problem in document.problems}
        items = [item for item in error.errors(include_url=False) if item["loc"] not in known]
        items.sort(key=lambda item: (document.location(item["loc"])[0], item["type"] == "missing"))
        problems = list(document.problems)
        misspelt = {
            _field_meant(item["loc"]) for item in items[: 2 * MAX_PROBLEMS] if item["type"] == "extra_forbidden"
        }
        items = [item for item in items if item["type"] != "missing" or item["loc"] not in misspelt]
        for number, item in enumerate(items):
            path = item["loc"]
            message = str(item.get("ctx", {}).get("error", item["msg"]))
            shown = number < MAX_PROBLEMS  # a sentence for each of 50,000 would take minutes
            problems.append(Problem(path, sentence(item["type"], path, item["input"], message) if shown else message))
        raise document.error(problems) from error


def _field_meant(path: FieldPath) -> tuple[str | int | None, ...]:
    """The path of the field that was meant by one that does not exist."""
    return *path[:-1], field_meant(str(path[-1]), fields_at(path[:-1]))


def _chunk_spans(form: StoryboardForm, problems: list[Problem]) -> list[Span]:
    """Returns start and end of every chunk, one after another; adds to ``problems`` where they do not meet."""
    fps = Fraction(repr(form.fps)) if form.fps else None
    spans: list[Span] = []
    clock = Fraction(0)
    for index, chunk in enumerate(form.chunks):
        path = ("chunks", index, "at" if chunk.at else "duration")
        try:
            if chunk.at:
                _check_start(index, clock, chunk.at)
                start, end = chunk.at
            else:
                length = chunk.duration or form.chunk or DEFAULT_LENGTH
                start, end = clock, clock + length.seconds(fps)
            _check_length(end - start, fps)
        except ValueError as error:
            in_chunk = chunk.at or chunk.duration or not form.chunk
            problems.append(Problem(path if in_chunk else ("chunk",), str(error)))
            start, end = chunk.at or (clock, clock + DEFAULT_LENGTH.amount)
        spans.append((start, end))
        clock = end
        if clock > LONGEST_FILM:
            sentence = f"the film would last past {format_clock(clock)}; it may last 6 hours at most"
            problems.append(Problem(path, sentence))
            break
    return spans


def _check_start(index: int, clock: Fraction, span: Span) -> None:
    """A chunk begins where the one before it ends, the first one at 0.

    Raises:
        ValueError: it does not; both times, and what would be right.
    """
    start, end = span
    if start == clock:
        return
    remedy = f"write {format_clock(clock)}-{format_clock(end)}" if end > clock else f"begin at {format_clock(clock)}"
    if index == 0:
        raise ValueError(f"chunk 1 begins at {format_clock(start)}, but a film begins at 00:00; {remedy}")
    clash = "leaves a gap of" if start > clock else "overlaps by"
    raise ValueError(
        f"chunk {index + 1} begins at {format_clock(start)}, but chunk {index} ends at {format_clock(clock)}, "
        f"which {clash} {float(abs(start - clock)):g} s; {remedy}, or let chunk {index} end at {format_clock(start)}"
    )


def _check_length(length: Fraction, fps: Fraction | None) -> None:
    frame = 1 / (fps or Fraction(LARGEST_FPS))
    if length < frame:
        raise ValueError(f"{float(length):.3g} s is shorter than one frame; make it at least {float(frame):.4f} s")
