"""Captions beside and inside a film: an ``.srt`` file, and chapters."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from blockvid_cli.storyboard.plan import Plan
from blockvid_cli.storyboard.storyboard import Storyboard


@dataclass(frozen=True)
class Chapter:
    """A caption and when it is on screen, in seconds; ``subtitle`` replaces it in subtitles."""

    start: float
    end: float
    text: str
    subtitle: str | None = None

    @property
    def words(self) -> str:
        """What its subtitle says."""
        return self.text if self.subtitle is None else self.subtitle


def chapters_of(plan: Plan, storyboard: Storyboard | None = None) -> list[Chapter]:
    """A chapter for each chunk of a plan, as it is drawn: borders at blocks, the end at the film's.

    Subtitles are as the storyboard has them.
    """
    subtitles = [chunk.subtitle for chunk in storyboard.chunks] if storyboard else [None] * len(plan.chunks)
    return [
        Chapter(chunk.first_frame / plan.fps, min(chunk.end_frame, plan.frames) / plan.fps, chunk.caption, subtitle)
        for chunk, subtitle in zip(plan.chunks, subtitles, strict=True)
        if chunk.first_frame < plan.frames
    ]


def within(chapters: Sequence[Chapter], seconds: float) -> list[Chapter]:
    """The chapters that begin in a film of ``seconds``, none lasting longer than it."""
    return [replace(chapter, end=min(chapter.end, seconds)) for chapter in chapters if chapter.start < seconds]


def srt(chapters: Sequence[Chapter]) -> str:
    """The subtitles as SubRip text; blank lines and arrows, which would end one, are taken out of it."""
    spoken = [(chapter, _caption(chapter.words)) for chapter in chapters]
    cues = [
        f"{number}\n{_clock(chapter.start)} --> {_clock(chapter.end)}\n{text}\n"
        for number, (chapter, text) in enumerate(((c, text) for c, text in spoken if text), start=1)
    ]
    return "\n".join(cues)


def _caption(text: str) -> str:
    lines = (line.strip() for line in printable(text).replace("-->", "→").splitlines())
    return "\n".join(line for line in lines if line)


def printable(text: str) -> str:
    """Text without the control characters that no player shows; line ends become newlines."""
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f]", "", re.sub(r"\r\n?", "\n", text))


def _clock(seconds: float) -> str:
    """``3661.5`` -> ``01:01:01,500``."""
    milliseconds = round(seconds * 1000)
    minutes, milliseconds = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{milliseconds // 1000:02d},{milliseconds % 1000:03d}"
