"""The dataset folder that training reads: captioned videos, one JSON object a line, as in Hugging Face's VideoFolder.

    lv1m/
      dataset.yaml              version, fps, size, chunk, licence, source
      train/metadata.jsonl      {"file_name": "videos/000001.mp4", "caption": "...", "fps": 29.97, "duration": 60.06,
                                 "chunks": [{"start": 0.0, "end": 3.0, "caption": "..."}, ...], "source": "..."}
      train/videos/000001.mp4
      eval/metadata.jsonl       held-out videos, of which no frame is trained on

Times are seconds; ``chunks`` are those of a storyboard with ``at: start-end``. ``datasets.load_dataset("videofolder")``
reads the same folder; fields that are not known here are left alone.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from blockvid_cli.errors import UsageError, shorten
from blockvid_cli.files import open_regular_file, read_plain_json, read_plain_yaml, read_regular_file
from blockvid_cli.models.card import Size
from blockvid_cli.project.atomic_files import disk_errors, write_atomically
from blockvid_cli.storyboard.field_types import NonemptyText, Text
from blockvid_cli.storyboard.storyboard import Chunk, Storyboard

SETTINGS_FILE, ROWS_FILE = "dataset.yaml", "metadata.jsonl"
MAX_SETTINGS_BYTES = 100_000
MAX_ROW_BYTES = 1_000_000
MAX_SECONDS = 86_400
VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v")

Seconds = Annotated[float, Field(ge=0, le=MAX_SECONDS, allow_inf_nan=False)]


class CaptionedSpan(BaseModel):
    """What one part of a video shows, from ``start`` to ``end`` in seconds; ``cut`` where a new shot begins."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    start: Seconds
    end: Seconds
    caption: NonemptyText
    cut: bool = False


class VideoRow(BaseModel):
    """One video of a dataset: its file, relative to the split's folder, and its captions."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    file_name: str
    caption: Text = ""
    fps: Annotated[float, Field(gt=0, le=1000)] | None = None
    duration: Seconds | None = None
    chunks: tuple[CaptionedSpan, ...] = ()
    source: Text = ""
    license: Text = ""

    @field_validator("file_name")
    @classmethod
    def _below_the_split(cls, name: str) -> str:
        path = PurePosixPath(name)
        if not name or path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
            raise ValueError("a video lies below the folder of its split; write videos/NAME.mp4")
        return name

    @model_validator(mode="after")
    def _some_caption(self) -> VideoRow:
        if not self.chunks and not self.caption:
            raise ValueError("a video needs a caption, or chunks with captions")
        return self

    @property
    def name(self) -> str:
        """The video's name in commands: its file name without folders and suffix."""
        return PurePosixPath(self.file_name).stem

    def spans(self) -> tuple[CaptionedSpan, ...]:
        """The captioned spans; one over the whole video where it has only one caption.

        Raises:
            UsageError: it has one caption and does not say how long it lasts.
        """
        if self.chunks:
            return self.chunks
        if not self.duration:
            raise UsageError(f"{self.file_name}: one caption and no duration; 'blockvid data check' adds durations.")
        return (CaptionedSpan(start=0.0, end=self.duration, caption=self.caption),)

    def storyboard(self, settings: DatasetSettings, source: Path) -> Storyboard:
        """The storyboard whose film this video is: its captions with their times."""
        chunks = tuple(
            Chunk(caption=span.caption, start=_exact(span.start), end=_exact(span.end), cut=span.cut and number > 0)
            for number, span in enumerate(self.spans())
        )
        return Storyboard(
            chunks=chunks, source=source, title=shorten(self.caption, 80), size=settings.size, fps=settings.fps
        )


class DatasetSettings(BaseModel):
    """What ``dataset.yaml`` says of all videos; size and rate are for training, None for those of the model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: int = Field(default=1, ge=1, le=1)
    title: Text = ""
    fps: Annotated[float, Field(gt=0, le=120)] | None = None
    size: Size | None = None
    chunk: Annotated[float, Field(gt=0, le=60)] = 3.0
    license: Text = ""
    source: Text = ""


@dataclass(frozen=True)
class Split:
    """The videos of one split; rows are read when they are asked for, so that millions of them cost little memory.

    Args:
        folder: holds ``metadata.jsonl`` and the videos.
        offsets: where each row begins in the file, in bytes, and behind the last one where the file ends.
    """

    folder: Path
    offsets: Sequence[int]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __iter__(self) -> Iterator[VideoRow]:
        return (self[number] for number in range(len(self)))

    def __getitem__(self, number: int) -> VideoRow:
        """The row of a video, counted from 0.

        Raises:
            UsageError: the row cannot be read; with file and row.
        """
        if not 0 <= number < len(self):
            raise IndexError(number)
        with open_regular_file(self.folder / ROWS_FILE) as file:
            file.seek(self.offsets[number])
            line = file.read(self.offsets[number + 1] - self.offsets[number])
        return _row(line, f"{self.folder / ROWS_FILE}: row {number + 1}")

    def video(self, row: VideoRow) -> Path:
        """The file of a row's video."""
        return self.folder / row.file_name

    def find(self, name: str) -> VideoRow:
        """The row of a video by its name.

        Raises:
            UsageError: no video has this name.
        """
        for row in self:
            if name in (row.name, row.file_name):
                return row
        raise UsageError(f"{self.folder / ROWS_FILE}: there is no video '{shorten(name)}'.")


@dataclass(frozen=True)
class Dataset:
    """A dataset folder: its settings and its splits by name."""

    root: Path
    settings: DatasetSettings
    splits: dict[str, Split]

    @property
    def train(self) -> Split:
        """The videos to learn from."""
        return self.splits["train"]

    @property
    def held_out(self) -> Split | None:
        """The videos that figures are computed on; None where the dataset has none."""
        return self.splits.get("eval")


def read_dataset(root: Path) -> Dataset:
    """Reads the settings of a dataset folder and finds its rows; rows themselves are read on demand.

    Raises:
        UsageError: there is no such folder, it is no dataset, or its settings are wrong.
    """
    if not root.is_dir():
        raise UsageError(f"{root}: there is no such folder; 'blockvid data demo {root}' writes a first dataset.")
    splits = {
        folder.name: Split(folder, _offsets(folder / ROWS_FILE))
        for folder in sorted(root.iterdir())
        if folder.is_dir() and (folder / ROWS_FILE).exists()
    }
    if "train" not in splits or not len(splits["train"]):
        raise UsageError(
            f"{root}: there is no train/{ROWS_FILE} with videos;"
            f" 'blockvid data import {root} -o NEW' makes a dataset of a folder of captioned videos."
        )
    return Dataset(root, _settings(root / SETTINGS_FILE), splits)


def write_dataset(root: Path, settings: DatasetSettings, rows: Mapping[str, Iterable[VideoRow]]) -> None:
    """Writes settings and rows; videos are the caller's.

    Raises:
        BlockvidError: the folder cannot be written to (``PartialError``: the disk is full).
    """
    values = settings.model_dump(exclude_defaults=True) | {"version": 1}
    if settings.size:
        values["size"] = "{}x{}".format(*settings.size)
    with disk_errors(root):
        for split, split_rows in rows.items():
            lines = "".join(f"{dump_row(row)}\n" for row in split_rows)
            write_atomically(root / split / ROWS_FILE, lines.encode())
        write_atomically(root / SETTINGS_FILE, yaml.safe_dump(values, sort_keys=False).encode())


def dump_row(row: VideoRow) -> str:
    """A row as one line of JSON."""
    return json.dumps(row.model_dump(exclude_defaults=True), ensure_ascii=False)


def _settings(file: Path) -> DatasetSettings:
    try:
        return DatasetSettings.model_validate(
            read_plain_yaml(read_regular_file(file, MAX_SETTINGS_BYTES).decode()) or {}
        )
    except FileNotFoundError:
        return DatasetSettings()
    except ValidationError as error:
        raise UsageError(f"{file}: {_first_problem(error)}.") from error
    except (OSError, ValueError) as error:
        raise UsageError(f"{file}: this file cannot be read ({error}).") from error


def _row(line: bytes, location: str) -> VideoRow:
    try:
        return VideoRow.model_validate(read_plain_json(line))
    except ValidationError as error:
        raise UsageError(f"{location}: {_first_problem(error)}.") from error
    except ValueError as error:
        raise UsageError(f"{location}: this is no JSON object ({error}).") from error


def _first_problem(error: ValidationError) -> str:
    """The first problem of a row, with its field."""
    problem: Any = error.errors(include_url=False)[0]
    field = ".".join(str(part + 1) if isinstance(part, int) else str(part) for part in problem["loc"])
    message = problem["msg"].removeprefix("Value error, ")
    return f"{field}: {message}" if field else message


def _offsets(file: Path) -> Sequence[int]:
    """Where each row that is not blank begins, and the end of the last one.

    Raises:
        UsageError: the file cannot be read, or a row is far too long.
    """
    offsets = array("Q")
    end = 0
    try:
        with open_regular_file(file) as content:
            while line := content.readline(MAX_ROW_BYTES + 1):
                if len(line) > MAX_ROW_BYTES:
                    raise UsageError(f"{file}: row {len(offsets) + 1} has more than {MAX_ROW_BYTES} bytes.")
                if line.strip():
                    offsets.append(end)
                end += len(line)
    except OSError as error:
        raise UsageError(f"{file}: this file cannot be read ({error.strerror}).") from error
    offsets.append(end)
    return offsets


def _exact(seconds: float) -> Fraction:
    """Seconds as they are written: 0.1 is a tenth."""
    return Fraction(repr(float(seconds)))
