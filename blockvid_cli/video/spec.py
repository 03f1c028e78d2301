"""``VideoSpec``: everything that a film is made of beside its frames, so that the same frames can be muxed anew.

    story                |  chunk 1  |  chunk 2  |             times of a spec count from the first frame of the chunks
    film    | title card |  chunk 1  |  chunk 2  | end card |  times of a ``Timeline`` count from the file's first frame

The ``Timeline`` is the only place where the one becomes the other. A transition lies within the two chunks around a
border and moves no border, so chunks do not overlap.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import accumulate, pairwise
from math import inf, log10
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError

from blockvid_cli.storyboard.parse import MAX_CHUNKS
from blockvid_cli.storyboard.plan import Plan
from blockvid_cli.storyboard.presentation import Audio, Subtitles, TitleCard
from blockvid_cli.storyboard.storyboard import Storyboard
from blockvid_cli.video.audio import AudioTrack
from blockvid_cli.video.ffmpeg import exact_rate
from blockvid_cli.video.metadata import Chapter, clip_chapters, plan_chapters

DEFAULT_SUBTITLES = Subtitles()
CRF = 18  # H.264's quality, 0 (lossless) to 51: looks like the original


@dataclass(frozen=True)
class Transition:
    """How the shot that begins with frame ``frame`` follows the one before: fade or dissolve, ``frames`` long."""

    frame: int
    kind: str
    frames: int


@dataclass(frozen=True)
class Section:
    """A part of a film: its frames ``first_frame`` to one before ``end_frame``, counted in the finished file.

    Args:
        kind: title (the title card), chunk, end (the end card), or story (all chunks).
        rate: frames per second, exactly.
        chunk: the chunk's number, counted from 1; 0 if it is not a single chunk.
    """

    kind: str
    first_frame: int
    end_frame: int
    rate: Fraction
    chunk: int = 0

    @property
    def start(self) -> float:
        """Seconds in the film at which it begins."""
        return float(self.first_frame / self.rate)

    @property
    def end(self) -> float:
        """Seconds in the film at which it ends."""
        return float(self.end_frame / self.rate)

    @property
    def seconds(self) -> float:
        """How long it lasts."""
        return float((self.end_frame - self.first_frame) / self.rate)


@dataclass(frozen=True)
class Timeline:
    """When each card and each chunk is on screen in the finished film; they follow each other without a gap.

    Args:
        rate: frames per second, exactly.
        chunk_frames: frames of each chunk, in order.
        title_frames, end_frames: frames of the title card and of the end card; 0 where there is none.
    """

    rate: Fraction
    chunk_frames: tuple[int, ...]
    title_frames: int = 0
    end_frames: int = 0

    @property
    def frames(self) -> int:
        """Frames of the film, both cards included."""
        return self.title_frames + sum(self.chunk_frames) + self.end_frames

    @property
    def seconds(self) -> float:
        """How long the film lasts, cards included."""
        return float(self.frames / self.rate)

    @property
    def story(self) -> Section:
        """All chunks: the film without its cards."""
        return Section("story", self.title_frames, self.frames - self.end_frames, self.rate)

    @property
    def chunks(self) -> tuple[Section, ...]:
        """The chunks, in order."""
        borders = accumulate(self.chunk_frames, initial=self.title_frames)
        return tuple(Section("chunk", *pair, self.rate, chunk=n) for n, pair in enumerate(pairwise(borders), start=1))

    @property
    def sections(self) -> tuple[Section, ...]:
        """The title card, the chunks and the end card, in order; a card only where there is one."""
        title = Section("title", 0, self.story.first_frame, self.rate)
        end = Section("end", self.story.end_frame, self.frames, self.rate)
        return tuple(part for part in (title, *self.chunks, end) if part.end_frame > part.first_frame)

    def as_values(self) -> dict[str, Any]:
        """Frames of the title card, of each chunk and of the end card, as plain values."""
        return {"title": self.title_frames, "chunks": list(self.chunk_frames), "end": self.end_frames}


class _TimelineForm(BaseModel):
    """``Timeline.as_values`` as a file holds it, which may be damaged or another program's."""

    title: int = Field(ge=0)
    chunks: list[Annotated[int, Field(ge=1)]] = Field(min_length=1, max_length=MAX_CHUNKS)
    end: int = Field(ge=0)


def read_timeline(values: object, rate: Fraction) -> Timeline | None:
    """Returns the timeline that ``as_values`` gave; None if the values make no sense."""
    try:
        form = _TimelineForm.model_validate(values, strict=True)
    except ValidationError:
        return None
    return Timeline(rate, tuple(form.chunks), form.title, form.end)


@dataclass(frozen=True)
class VideoSpec:
    """``frames`` frames of ``size`` (width, height) at ``fps``, and what goes under and over them.

    Args:
        font: a font file for text in frames; None is the default font.
        loudness: LUFS that several tracks together are brought to; None leaves them as they are.
        metadata: how the film was made; None leaves out whatever tells of it: title, chapters and comment.
        crf: of frames that are encoded again because something is drawn into them.
    """

    fps: float
    size: tuple[int, int]
    frames: int
    chapters: tuple[Chapter, ...] = ()
    transitions: tuple[Transition, ...] = ()
    tracks: tuple[AudioTrack, ...] = ()
    loudness: float | None = None
    subtitles: Subtitles = DEFAULT_SUBTITLES
    title_card: TitleCard | None = None
    end_card: TitleCard | None = None
    font: Path | None = None
    title: str = ""
    metadata: Mapping[str, Any] | None = None
    crf: int = CRF

    @property
    def rate(self) -> Fraction:
        """Frames per second, exactly."""
        return exact_rate(self.fps)

    @property
    def timeline(self) -> Timeline:
        """When cards and chunks are on screen in the film; a film without chapters counts as one chunk."""
        seconds = float(self.frames / self.rate)
        starts = [round(each.start * self.rate) for each in clip_chapters(self.chapters, seconds)][1:]
        borders = [0, *starts, self.frames]
        return Timeline(
            self.rate,
            tuple(end - start for start, end in pairwise(borders)),
            card_frames(self.title_card, self.rate),
            card_frames(self.end_card, self.rate),
        )

    @property
    def needs_encoding(self) -> bool:
        """Whether anything is drawn into frames, or frames are added; otherwise the encoded frames are copied."""
        burned = self.subtitles.show == "burned" and any(chapter.subtitle_text for chapter in self.chapters)
        return bool(burned or self.transitions or self.title_card or self.end_card)

    def film_chapters(self) -> list[Chapter]:
        """A chapter for each section of the film; a card has no subtitle."""
        cards = {"title": self.title_card, "end": self.end_card}
        chapters = []
        for section in self.timeline.sections:
            if card := cards.get(section.kind):
                chapters.append(Chapter(section.start, section.end, _one_line(card), ""))
            elif self.chapters:
                chapters.append(replace(self.chapters[section.chunk - 1], start=section.start, end=section.end))
        return chapters


def card_frames(card: TitleCard | None, rate: Fraction) -> int:
    """How many frames a card is shown at ``rate`` frames per second; 0 without one."""
    return max(1, round(card.seconds * rate)) if card else 0


def video_spec(
    storyboard: Storyboard, plan: Plan, metadata: Mapping[str, Any] | None = None, crf: int = CRF
) -> VideoSpec:
    """Returns the spec of a storyboard's film, whose frames are rendered by this plan.

    Args:
        metadata: how the film was made; None leaves it out, and so all captions that the storyboard does not ask for.
    """
    return VideoSpec(
        fps=plan.fps,
        size=plan.size,
        frames=plan.frames,
        chapters=tuple(plan_chapters(plan, storyboard)),
        transitions=tuple(_transitions(storyboard, plan)),
        tracks=tuple(_tracks(storyboard, plan)),
        loudness=_film_loudness(storyboard.audio),
        subtitles=storyboard.subtitles or Subtitles("none" if metadata is None else "beside"),
        title_card=storyboard.title_card,
        end_card=storyboard.end_card,
        font=storyboard.font,
        title=storyboard.title,
        metadata=metadata,
        crf=crf,
    )


def _transitions(storyboard: Storyboard, plan: Plan) -> Iterator[Transition]:
    for chunk, planned in zip(storyboard.chunks, plan.chunks, strict=True):
        if chunk.transition != "cut" and 0 < planned.first_frame < plan.frames:
            yield Transition(planned.first_frame, chunk.transition, max(1, round(chunk.transition_seconds * plan.fps)))


def _tracks(storyboard: Storyboard, plan: Plan) -> Iterator[AudioTrack]:
    """The film's audio, and that of chunks: a chunk's ends with the chunk unless it has a length of its own."""
    if storyboard.audio:
        yield _track(storyboard.audio, 0.0, inf)
    for chunk, planned in zip(storyboard.chunks, plan.chunks, strict=True):
        if audio := chunk.audio:
            has_length = audio.duration is not None or (audio.end is not None and not audio.loop)
            yield _track(audio, planned.first_frame / plan.fps, inf if has_length else planned.end_frame / plan.fps)


def _film_loudness(audio: Audio | None) -> float | None:
    """The loudness that the film's sound asks for, its volume included."""
    if audio is None or audio.loudness is None or audio.volume == 0:
        return None
    return audio.loudness + 20 * log10(audio.volume)


def _track(audio: Audio, start: float, end: float) -> AudioTrack:
    begin = start + audio.at
    return AudioTrack(audio, begin, min(end, begin + (inf if audio.duration is None else audio.duration)))


def _one_line(card: TitleCard) -> str:
    return " ".join(card.text.split())
