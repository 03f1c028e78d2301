"""``VideoSpec``: everything that a film is made of beside its frames, so that the same frames can be muxed anew.

Times count from the first frame; the title card, which comes before it, delays everything by its own length.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import inf
from pathlib import Path
from typing import Any

from blockvid_cli.storyboard.plan import Plan
from blockvid_cli.storyboard.presentation import Audio, TitleCard
from blockvid_cli.storyboard.storyboard import Storyboard
from blockvid_cli.video.audio import AudioTrack
from blockvid_cli.video.ffmpeg import exact_rate
from blockvid_cli.video.metadata import Chapter, clip_chapters, plan_chapters

CRF = 18  # H.264's quality, 0 (lossless) to 51: looks like the original


@dataclass(frozen=True)
class Transition:
    """How the shot that begins with frame ``frame`` follows the one before: fade or dissolve, ``frames`` long."""

    frame: int
    kind: str
    frames: int


@dataclass(frozen=True)
class VideoSpec:
    """``frames`` frames of ``size`` (width, height) at ``fps``, and what goes under and over them.

    Args:
        subtitles: beside (an .srt), none, soft (in the film too) or burned (drawn into the frames).
        font: a font file for text in frames; None is the default font.
        metadata: how the film was made; without it the film has neither title nor comment.
        crf: of frames that are encoded again because something is drawn into them.
    """

    fps: float
    size: tuple[int, int]
    frames: int
    chapters: tuple[Chapter, ...] = ()
    transitions: tuple[Transition, ...] = ()
    tracks: tuple[AudioTrack, ...] = ()
    subtitles: str = "beside"
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
    def film_frames(self) -> int:
        """Frames of the film, both cards included."""
        return self.card_frames(self.title_card) + self.frames + self.card_frames(self.end_card)

    @property
    def title_seconds(self) -> float:
        """How long the title card is shown."""
        return float(self.card_frames(self.title_card) / self.rate)

    @property
    def seconds(self) -> float:
        """How long the film lasts, cards included."""
        return float(self.film_frames / self.rate)

    @property
    def needs_encoding(self) -> bool:
        """Whether anything is drawn into frames, or frames are added; otherwise the encoded frames are copied."""
        burned = self.subtitles == "burned" and any(chapter.subtitle_text for chapter in self.chapters)
        return bool(burned or self.transitions or self.title_card or self.end_card)

    def card_frames(self, card: TitleCard | None) -> int:
        """How many frames a card is shown; 0 without one."""
        return max(1, round(card.seconds * self.rate)) if card else 0

    def film_chapters(self) -> list[Chapter]:
        """The chapters in the film's own time, cards included; a card has no subtitle."""
        seconds = float(self.frames / self.rate)
        chapters = [
            Chapter(each.start + self.title_seconds, each.end + self.title_seconds, each.text, each.subtitle)
            for each in clip_chapters(self.chapters, seconds)
        ]
        end_start = self.title_seconds + seconds
        title = [Chapter(0.0, self.title_seconds, _one_line(self.title_card), "")] if self.title_card else []
        end = [Chapter(end_start, self.seconds, _one_line(self.end_card), "")] if self.end_card else []
        return [*title, *chapters, *end]


def video_spec(
    storyboard: Storyboard, plan: Plan, metadata: Mapping[str, Any] | None = None, crf: int = CRF
) -> VideoSpec:
    """Returns the spec of a storyboard's film, whose frames are rendered by this plan."""
    return VideoSpec(
        fps=plan.fps,
        size=plan.size,
        frames=plan.frames,
        chapters=tuple(plan_chapters(plan, storyboard)),
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


def _track(audio: Audio, start: float, end: float) -> AudioTrack:
    begin = start + audio.at
    return AudioTrack(audio, begin, min(end, begin + (inf if audio.duration is None else audio.duration)))


def _one_line(card: TitleCard) -> str:
    return " ".join(card.text.split())
