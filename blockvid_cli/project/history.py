"""The history of a project: a line for each render, and the storyboards as they were.

    story.blockvid/
        history.jsonl                   {"time": "2026-01-31T20:15:00Z", "seed": 7, "result": "done", ...}
        history/6f1c02d9a4b3e857.yaml   a storyboard that was rendered, saved once, named by its hash

Lines are only ever added. A line that cannot be read (its end was lost with the power) is passed over and keeps its
number, so that a render is known by the same number for as long as the folder is there.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, BinaryIO

from pydantic import AfterValidator, TypeAdapter

from blockvid_cli.errors import BlockvidError
from blockvid_cli.files import check_own_folder, open_regular_file, read_plain_json, read_regular_file
from blockvid_cli.project.atomic_files import disk_errors, write_atomically

MAX_HISTORY_BYTES = 32_000_000  # some ten thousand renders
MAX_STORYBOARD_BYTES = 2_000_000
MAX_PATH = 4096  # bytes
FILE, STORYBOARDS_FOLDER = "history.jsonl", "history"
DONE, INTERRUPTED, FAILED = "done", "interrupted", "failed"


def _path_text(text: str) -> str:
    """A text that can be a path; a ValueError, where it cannot."""
    if "\0" in text or len(os.fsencode(text)) > MAX_PATH:
        raise ValueError("this is no path")
    return text


def _options(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Options of a render; a ValueError, where those that are made of others are not."""
    if not all(isinstance(values.get(name, {}), Mapping) for name in ("recipe", "runtime")):
        raise ValueError("recipe and runtime are mappings")
    if not isinstance(values.get("overrides", []), list | tuple):
        raise ValueError("overrides are a list")
    return values


Options = Annotated[Mapping[str, Any], AfterValidator(_options)]
PathText = Annotated[str, AfterValidator(_path_text)]


@dataclass(frozen=True)
class RenderRecord:
    """One render: what was asked for, the values that were used, and the result."""

    time: str  # when it began: UTC, ISO 8601
    film: PathText  # the film's name, beside the project folder
    storyboard: PathText  # its path, relative to the film's folder
    text: PathText  # the storyboard's text as it was: a name in the folder of texts
    options: Options  # those that a person gave
    model: str
    weights: str  # their hash
    seed: int
    size: tuple[int, int]  # width, height in pixels
    fps: float
    recipe: Mapping[str, Any]
    precision: str  # in which the transformer computed
    kv_dtype: str  # in which cached tokens were stored
    chunks: int  # of the film
    rendered: int  # of them, at least in part, by this render
    resumed: int  # of them, whole, from an earlier render
    seconds: float  # that it took
    result: str  # done, interrupted, or failed: and why

    @property
    def done(self) -> bool:
        """Whether there was a film in the end."""
        return self.result == DONE


@dataclass(frozen=True)
class History:
    """Renders by number, and a sentence for each line that could not be read."""

    renders: Mapping[int, RenderRecord]
    notes: tuple[str, ...] = ()


RECORD_ADAPTER = TypeAdapter(RenderRecord)


def save_storyboard_text(folder: Path, text: bytes, suffix: str) -> str:
    """Keeps a storyboard's text, once; returns its name.

    Raises:
        BlockvidError: it cannot be written (``PartialError``: the disk is full).
    """
    name = f"{hashlib.sha256(text).hexdigest()[:16]}{suffix}"
    if not (folder / STORYBOARDS_FOLDER / name).is_file():
        write_atomically(folder / STORYBOARDS_FOLDER / name, text)
    return name


def read_storyboard_text(folder: Path, render: RenderRecord) -> bytes:
    """The storyboard of a render as it was then.

    Raises:
        BlockvidError: it is not there any more, or it was changed.
    """
    file = folder / STORYBOARDS_FOLDER / Path(render.text).name
    try:
        text = read_regular_file(file, MAX_STORYBOARD_BYTES, follow=False)
    except OSError as error:
        raise BlockvidError(f"{file} cannot be read ({error.strerror}): that storyboard is lost.") from error
    if hashlib.sha256(text).hexdigest()[:16] != file.stem:
        raise BlockvidError(f"{file} was changed since: that storyboard is lost.")
    return text


def append_record(folder: Path, render: RenderRecord) -> None:
    """Adds a line, in one piece, forced to the disk; after a torn line on a line of its own.

    Raises:
        BlockvidError: it cannot be written (``PartialError``: the disk is full).
    """
    file, line = folder / FILE, json.dumps(asdict(render), default=str).encode() + b"\n"
    with disk_errors(file), _open_to_append(file) as opened:
        size = opened.seek(0, os.SEEK_END)
        opened.seek(max(size - 1, 0))
        torn = opened.read(1) not in (b"", b"\n")
        opened.write(b"\n" + line if torn else line)
        opened.flush()
        os.fsync(opened.fileno())


def _open_to_append(file: Path) -> BinaryIO:
    """Opens a regular file for reading and appending, made if need be; no link to one.

    A file that has another name elsewhere, as in a backup, is copied first, so that only this one grows.

    Raises:
        OSError: it is something else, or may not be read and written.
    """
    with suppress(FileNotFoundError), open_regular_file(file, follow=False) as existing:
        if os.fstat(existing.fileno()).st_nlink > 1:
            write_atomically(file, read_regular_file(file, MAX_HISTORY_BYTES, follow=False))
    return open(file, "a+b", opener=lambda path, flags: os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666))


def read_history(folder: Path) -> History:
    """All renders of a project; none where nothing was recorded.

    Raises:
        UsageError: the folder holds links.
        BlockvidError: the file is there and cannot be read.
    """
    file = folder / FILE
    check_own_folder(folder)
    try:
        lines = read_regular_file(file, MAX_HISTORY_BYTES, follow=False).split(b"\n")
    except FileNotFoundError:
        return History({})
    except OSError as error:
        raise BlockvidError(f"{file} cannot be read: {error.strerror}.") from error
    renders: dict[int, RenderRecord] = {}
    notes: list[str] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            renders[number] = RECORD_ADAPTER.validate_python(read_plain_json(line))
        except ValueError:
            notes.append(f"{file}: line {number} cannot be read; render {number} is left out.")
    return History(renders, tuple(notes))
