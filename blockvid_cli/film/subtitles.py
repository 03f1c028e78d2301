"""Captions beside and inside a film: an ``.srt`` file, and chapters."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from blockvid_cli.story.plan import Plan


@dataclass(frozen=True)
class Chapter:
    """A caption and when it is on screen, in seconds."""

    start: float
    end: float
    text: str


def chapters_of(plan: Plan) -> list[Chapter]:
    """A chapter for each chunk of a plan, as it is drawn: borders at blocks, the end at the film's."""
    return [
        Chapter(chunk.first_frame / plan.fps, min(chunk.end_frame, plan.frames) / plan.fps, chunk.caption)
        for chunk in plan.chunks
        if chunk.first_frame < plan.frames
    ]


def within(chapters: Sequence[Chapter], seconds: float) -> list[Chapter]:
    """The chapters that begin in a film of ``seconds``, none lasting longer than it."""
    return [
        Chapter(chapter.start, min(chapter.end, seconds), chapter.text)
        for chapter in chapters
        if chapter.start < seconds
    ]


def srt(chapters: Sequence[Chapter]) -> str:
    """The captions as SubRip text; blank lines and arrows, which would end a caption, are taken out of it."""
    spoken = [(chapter, _caption(chapter.text)) for chapter in chapters]
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
