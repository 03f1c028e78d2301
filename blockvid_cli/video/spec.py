"""How a film is to look and sound, given its pictures: all that a new mux of the same pictures needs to know.

Moments count from the first picture; the title card, which comes before it, moves everything as far as it lasts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import inf
from pathlib import Path
from typing import Any

from blockvid_cli.storyboard.presentation import Audio, TitleCard
from blockvid_cli.storyboard.plan import Plan
from blockvid_cli.storyboard.storyboard import Storyboard
from blockvid_cli.video.audio import Track
from blockvid_cli.video.encode import exact_rate
from blockvid_cli.video.subtitles import Chapter, chapters_of, within

CRF = 18  # H.264's quality, 0 (lossless) to 51: looks like the original


@dataclass(frozen=True)
class Transition:
    """How the shot that begins with picture ``frame`` follows the one before: fade or dissolve, ``frames`` long."""

    frame: int
    kind: str
    frames: int


@dataclass(frozen=True)
class VideoSpec:
    """``frames`` pictures of ``size`` (width, height), ``fps`` a second, and what is laid under and over them.

    Args:
        subtitles: beside (an .srt), none, soft (in the film too) or burned (drawn into the pictures).
        font: a font file for words in pictures; None is the one that comes along.
        metadata: how the film was made; without it the film holds neither title nor comment.
        crf: of pictures that are encoded again because something is drawn into them.
    """

    fps: float
    size: tuple[int, int]
    frames: int
    chapters: tuple[Chapter, ...] = ()
    transitions: tuple[Transition, ...] = ()
    tracks: tuple[Track, ...] = ()
    subtitles: str = "beside"
    title_card: TitleCard | None = None
    end_card: TitleCard | None = None
    font: Path | None = None
    title: str = ""
    metadata: Mapping[str, Any] | None = None
    crf: int = CRF

    @property
    def rate(self) -> Fraction:
        """Frames a second, exactly."""
        return exact_rate(self.fps)

    @property
    def film_frames(self) -> int:
        """Frames of the film: the pictures and both cards."""
        return self.frames_of(self.title_card) + self.frames + self.frames_of(self.end_card)

    @property
    def before(self) -> float:
        """Seconds of title card."""
        return float(self.frames_of(self.title_card) / self.rate)

    @property
    def seconds(self) -> float:
        """How long the film lasts, cards included."""
        return float(self.film_frames / self.rate)

    @property
    def changes_pictures(self) -> bool:
        """Whether anything is drawn into pictures, or pictures are added: then they are encoded again."""
        burned = self.subtitles == "burned" and any(chapter.words for chapter in self.chapters)
        return bool(burned or self.transitions or self.title_card or self.end_card)

    def frames_of(self, card: TitleCard | None) -> int:
        """How many frames a card is seen."""
        return max(1, round(card.seconds * self.rate)) if card else 0

    def film_chapters(self) -> list[Chapter]:
        """The chapters in the film's own time, the cards' among them; a card has no subtitle."""
        pictures = float(self.frames / self.rate)
        moved = [
            Chapter(each.start + self.before, each.end + self.before, each.text, each.subtitle)
            for each in within(self.chapters, pictures)
        ]
        first = [Chapter(0.0, self.before, _line(self.title_card), "")] if self.title_card else []
        last = [Chapter(self.before + pictures, self.seconds, _line(self.end_card), "")] if self.end_card else []
        return [*first, *moved, *last]


def video_spec(storyboard: Storyboard, plan: Plan, metadata: Mapping[str, Any] | None = None, crf: int = CRF) -> VideoSpec:
    """The look that a storyboard asks for, of the pictures that its plan draws."""
    return VideoSpec(
        fps=plan.fps,
        size=plan.size,
        frames=plan.frames,
        chapters=tuple(chapters_of(plan, storyboard)),
        transitions=tuple(_transitions(storyboard, plan)),
        tracks=tuple(_tracks(storyboard, plan)),
        subtitles=storyboard.subtitles,
        title_card=storyboard.title_card,
        end_card=storyboard.end_card,
        font=storyboard.font,
        title=storyboard.title,
        metadata=metadata,
        crf=crf,
    )


def _transitions(storyboard: Storyboard, plan: Plan) -> Iterator[Transition]:
    for written, chunk in zip(storyboard.chunks, plan.chunks, strict=True):
        if written.transition != "cut" and 0 < chunk.first_frame < plan.frames:
            yield Transition(
                chunk.first_frame, written.transition, max(1, round(written.transition_seconds * plan.fps))
            )


def _tracks(storyboard: Storyboard, plan: Plan) -> Iterator[Track]:
    """The film's sound, and those of chunks: a chunk's ends with it unless a length of its own is given."""
    if storyboard.audio:
        yield _track(storyboard.audio, 0.0, inf)
    for written, chunk in zip(storyboard.chunks, plan.chunks, strict=True):
        if audio := written.audio:
            own = audio.duration is not None or (audio.end is not None and not audio.loop)
            yield _track(audio, chunk.first_frame / plan.fps, inf if own else chunk.end_frame / plan.fps)


def _track(audio: Audio, start: float, end: float) -> Track:
    begin = start + audio.at
    return Track(audio, begin, min(end, begin + (inf if audio.duration is None else audio.duration)))


def _line(card: TitleCard) -> str:
    return " ".join(card.text.split())
