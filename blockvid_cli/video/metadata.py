"""What a film says of itself: title, chapters, and how it was made (as JSON in the comment).

ffmpeg takes and gives these as its ffmetadata text (https://ffmpeg.org/ffmpeg-formats.html#Metadata-2):

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
from pathlib import Path
from typing import Any

from blockvid_cli.errors import BlockvidError
from blockvid_cli.video.ffmpeg import last_line, run_ffmpeg
from blockvid_cli.video.subtitles import Chapter, printable

COMMENT_BYTES = 60_000


def ffmetadata(chapters: Sequence[Chapter], metadata: Mapping[str, Any] | None, title: str) -> str:
    """The text that ffmpeg reads; without ``metadata`` it holds chapters alone, no title and no comment."""
    lines = [";FFMETADATA1"]
    if metadata is not None:
        lines += [f"title={_escape(printable(title))}"] if title else []
        lines += [f"comment={_escape(compact(metadata))}"]
    for chapter in chapters:
        start, end = round(chapter.start * 1000), round(chapter.end * 1000)
        lines += ["[CHAPTER]", "TIMEBASE=1/1000", f"START={start}", f"END={end}"]
        lines += [f"title={_escape(printable(chapter.text))}"]
    return "\n".join(lines) + "\n"


def compact(metadata: Mapping[str, Any]) -> str:
    """One line of JSON of at most ``COMMENT_BYTES``; else its longest entries are left out, and named."""
    kept, left_out = dict(metadata), []
    text = _dump(kept)
    while len(text.encode()) > COMMENT_BYTES and kept:
        longest = max(kept, key=lambda name: len(_dump(kept[name])))
        left_out.append(longest)
        del kept[longest]
        text = _dump({**kept, "left_out": left_out})
    return text


def read_metadata(path: Path) -> dict[str, Any] | None:
    """The metadata that was put into a film; None if it holds none.

    Raises:
        BlockvidError: there is no such film, or it cannot be read.
    """
    text, _ = read_tags(path)
    try:
        found = json.loads(text.get("comment", ""))
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def read_tags(path: Path) -> tuple[dict[str, str], list[Chapter]]:
    """A film's tags by name, and its chapters.

    Raises:
        BlockvidError: there is no such film, or it cannot be read.
    """
    if not path.is_file():
        raise BlockvidError(f"there is no film {path}.")
    done = run_ffmpeg(["-i", str(path.absolute()), "-f", "ffmetadata", "-"])
    if done.returncode != 0:
        reason = last_line(done.stderr.decode("utf-8", "replace"))
        raise BlockvidError(f"{path} cannot be read as a film: {reason}.")
    return _parsed(done.stdout.decode("utf-8", "replace"))


def _parsed(text: str) -> tuple[dict[str, str], list[Chapter]]:
    """Tags and chapters of an ffmetadata text; a backslash takes the meaning from the character after it."""
    sections: list[dict[str, str]] = [{}]
    for line in re.findall(r"(?:\\.|[^\\\n])+", text, re.DOTALL):
        pair = re.fullmatch(r"((?:\\.|[^\\=;#\[])(?:\\.|[^\\=])*)=(.*)", line, re.DOTALL)
        if line == "[CHAPTER]":
            sections.append({})
        elif pair:
            sections[-1][_unescape(pair[1])] = _unescape(pair[2])
    return sections[0], [_chapter(section) for section in sections[1:]]


def _chapter(pairs: Mapping[str, str]) -> Chapter:
    numerator, denominator = (int(part) for part in pairs["TIMEBASE"].split("/"))
    start, end = (int(pairs[name]) * numerator / denominator for name in ("START", "END"))
    return Chapter(start, end, pairs.get("title", ""))


def _escape(text: str) -> str:
    """Text as a value."""
    ending = " " if text.endswith("\\") else ""  # ffmpeg joins a line that ends in a backslash to the next
    return re.sub(r"([=;#\\\n])", r"\\\1", text) + ending


def _unescape(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text, flags=re.DOTALL)


def _dump(value: object) -> str:
    """JSON in one line; halves of characters, which no encoding knows, stay escaped."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8", "backslashreplace").decode()
