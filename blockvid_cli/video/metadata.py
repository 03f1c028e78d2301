"""What a film carries beside frames and sound: subtitles (``.srt``), chapters, and tags (title, how it was made).

ffmpeg is handed chapters and tags as ffmetadata text (https://ffmpeg.org/ffmpeg-formats.html#Metadata-2); the
comment holds JSON:

    ;FFMETADATA1
    title=A day
    comment={"seed":7}
    [CHAPTER]
    TIMEBASE=1/1000
    START=0
    END=4000
    title=The sun rises
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from blockvid_cli.files import read_plain_json
from blockvid_cli.storyboard.plan import Plan
from blockvid_cli.storyboard.storyboard import Storyboard
from blockvid_cli.video.reader import container_of, open_video

COMMENT_BYTES = 60_000
SCRIPT_HEIGHT = 288  # lines of the screen to which ffmpeg relates the size of letters in subtitles


@dataclass(frozen=True)
class Chapter:
    """A caption and when it is on screen, in seconds; ``subtitle`` replaces the caption in subtitles."""

    start: float
    end: float
    text: str
    subtitle: str | None = None

    @property
    def subtitle_text(self) -> str:
        """The text of its subtitle; empty for none."""
        return self.text if self.subtitle is None else self.subtitle


def plan_chapters(plan: Plan, storyboard: Storyboard | None = None) -> list[Chapter]:
    """Returns a chapter for each chunk of a plan, with the borders and the end that the film has after rounding.

    With a storyboard, the chapters have its subtitles.
    """
    subtitles = [chunk.subtitle for chunk in storyboard.chunks] if storyboard else [None] * len(plan.chunks)
    return [
        Chapter(chunk.first_frame / plan.fps, min(chunk.end_frame, plan.frames) / plan.fps, chunk.caption, subtitle)
        for chunk, subtitle in zip(plan.chunks, subtitles, strict=True)
        if chunk.first_frame < plan.frames
    ]


def clip_chapters(chapters: Sequence[Chapter], seconds: float) -> list[Chapter]:
    """Returns the chapters that begin in a film of ``seconds``; none lasts longer than the film."""
    return [replace(chapter, end=min(chapter.end, seconds)) for chapter in chapters if chapter.start < seconds]


def srt(chapters: Sequence[Chapter], size: float | None = None) -> str:
    """Returns the subtitles as SubRip text; blank lines and arrows, which would end a cue, are removed from it.

    Args:
        size: height of the letters as a percentage of the frame's, for subtitles inside a film; None says nothing.
    """
    tags = (f'<font size="{round(size / 100 * SCRIPT_HEIGHT)}">', "</font>") if size else ("", "")
    texts = [(chapter, _cue_text(chapter.subtitle_text)) for chapter in chapters]
    cues = [
        f"{number}\n{_timestamp(chapter.start)} --> {_timestamp(chapter.end)}\n{text.join(tags)}\n"
        for number, (chapter, text) in enumerate(((c, text) for c, text in texts if text), start=1)
    ]
    return "\n".join(cues)


def _cue_text(text: str) -> str:
    lines = (line.strip() for line in printable(text).replace("-->", "→").splitlines())
    return "\n".join(line for line in lines if line)


def _timestamp(seconds: float) -> str:
    """``3661.5`` -> ``01:01:01,500``."""
    milliseconds = round(seconds * 1000)
    minutes, milliseconds = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{milliseconds // 1000:02d},{milliseconds % 1000:03d}"


def printable(text: str) -> str:
    """Returns the text without control characters, which no player shows; line ends become newlines."""
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f]", "", re.sub(r"\r\n?", "\n", text))


def ffmetadata(chapters: Sequence[Chapter], metadata: Mapping[str, Any] | None, title: str) -> str:
    """Returns the text that ffmpeg reads; without ``metadata`` it holds nothing, because chapters are captions."""
    lines = [";FFMETADATA1"]
    if metadata is None:
        return lines[0] + "\n"
    lines += [f"title={_escape(printable(title))}"] if title else []
    lines += [f"comment={_escape(compact(metadata))}"]
    for chapter in chapters:
        start, end = round(chapter.start * 1000), round(chapter.end * 1000)
        lines += ["[CHAPTER]", "TIMEBASE=1/1000", f"START={start}", f"END={end}"]
        lines += [f"title={_escape(printable(chapter.text))}"]
    return "\n".join(lines) + "\n"


def compact(metadata: Mapping[str, Any]) -> str:
    """One line of JSON of at most ``COMMENT_BYTES``; where it is too long, the longest entries are only named."""
    entries, left_out = dict(metadata), []
    text = _dump(entries)
    while len(text.encode()) > COMMENT_BYTES and entries:
        longest = max(entries, key=lambda name: len(_dump(entries[name])))
        left_out.append(longest)
        del entries[longest]
        text = _dump({**entries, "left_out": left_out})
    return text


def read_metadata(path: Path) -> dict[str, Any] | None:
    """Returns the metadata that was put into a film; None if it holds none.

    Raises:
        UsageError: there is no such film, or it cannot be read.
    """
    tags, _ = read_tags(path)
    try:
        metadata = read_plain_json(tags.get("comment", ""))
    except ValueError:
        return None
    return metadata if isinstance(metadata, dict) else None


def read_tags(path: Path) -> tuple[dict[str, str], list[Chapter]]:
    """Returns a film's tags by name, and its chapters.

    Raises:
        UsageError: there is no such film, or it cannot be read.
    """
    with open_video(path) as stream:
        container, chapters = container_of(stream), []
        for chapter in container.chapters():
            unit = chapter["time_base"] or 0
            start, end = float(chapter["start"] * unit), float(chapter["end"] * unit)
            chapters.append(Chapter(start, end, chapter["metadata"].get("title", "")))
        return dict(container.metadata), chapters


def _escape(text: str) -> str:
    """The text as an ffmetadata value."""
    ending = " " if text.endswith("\\") else ""  # ffmpeg joins a line that ends in a backslash to the next
    return re.sub(r"([=;#\\\n])", r"\\\1", text) + ending


def _dump(value: object) -> str:
    """JSON in one line; halves of surrogate pairs, which no encoding knows, stay escaped."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8", "backslashreplace").decode()
