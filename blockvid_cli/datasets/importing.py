"""Captioned videos in other people's forms, as rows of a dataset.

    clip.mp4 + clip.txt         one caption, or timed lines as LV-Bench prints them: (00s - 03s) a cat walks
    clip.mp4 + clip.srt, .vtt   timed captions
    clip.mp4 + clip.json        {"captions": [...]} as LV-Bench has it, or {"caption": "..."}
    metadata.jsonl, .csv        file_name or video_path or video, caption or prompt (VideoFolder, musubi, DiffSynth)
    videos2caption.json         [{"path": ..., "cap": [...]}] (FastVideo)
    video/S/000001.mp4 + caption/S/000001.json    shots of a story S (LongLive): joined, with a cut before each shot

Videos are linked into the dataset where the disk allows it, and copied otherwise.
"""

from __future__ import annotations

import csv
import io
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from blockvid_cli.datasets.folder import (
    VIDEO_SUFFIXES,
    CaptionedSpan,
    DatasetSettings,
    VideoRow,
    write_dataset,
)
from blockvid_cli.errors import StoryboardError, UsageError, shorten
from blockvid_cli.files import read_plain_json, read_regular_file
from blockvid_cli.project.atomic_files import disk_errors
from blockvid_cli.storyboard.imports import read_captions
from blockvid_cli.storyboard.parse import MAX_FILE_BYTES
from blockvid_cli.storyboard.seconds import parse_span
from blockvid_cli.video.mux import write_film
from blockvid_cli.video.reader import frames_at, scan_video

MAX_TABLE_BYTES = 2_000_000_000
TABLES = ("metadata.jsonl", "metadata.csv", "metadata.json", "videos2caption.json")
VIDEO_FIELDS = ("file_name", "video_path", "video", "path")
CAPTION_FIELDS = ("caption", "prompt", "text", "cap")
SIDECARS = (".srt", ".vtt", ".json", ".txt")


@dataclass(frozen=True)
class SourceVideo:
    """A captioned video as it was found: files of one shot or of several, and captions with times or without."""

    name: str
    files: tuple[Path, ...]
    captions: tuple[tuple[str, tuple[float, float] | None], ...]
    source: str = ""


def import_folder(
    source: Path, root: Path, held_out: float, notify: Callable[[str], None], settings: DatasetSettings
) -> tuple[int, list[str]]:
    """Makes a dataset of a folder; returns the number of videos, and why others were left out.

    Args:
        held_out: the share of videos that are not trained on, chosen by their names.

    Raises:
        UsageError: there is no captioned video in the folder, or ``root`` exists.
        BlockvidError: ``root`` cannot be written to.
    """
    if not source.is_dir():
        raise UsageError(f"{source}: there is no such folder.")
    if root.exists() and any(root.iterdir()):
        raise UsageError(f"{root} is not empty; name a new folder with -o.")
    rows: dict[str, list[VideoRow]] = {"train": [], "eval": []}
    left_out: list[str] = []
    for number, video in enumerate(find_videos(source, left_out)):
        split = "eval" if held_out and number % max(round(1 / held_out), 2) == 1 else "train"
        name = f"videos/{number + 1:06}{video.files[0].suffix.lower() if len(video.files) == 1 else '.mp4'}"
        try:
            rows[split].append(_import(video, root / split / name, name))
        except UsageError as error:
            left_out.append(str(error))
            continue
        notify(f"{video.name}: video {number + 1}")
    if not rows["train"]:
        reasons = f" ({left_out[0]})" if left_out else ""
        raise UsageError(
            f"{source}: there is no video with captions{reasons}; put clip.txt, clip.srt or clip.json beside clip.mp4,"
            " or a metadata.jsonl in the folder."
        )
    write_dataset(root, settings, {split: values for split, values in rows.items() if values})
    return sum(map(len, rows.values())), left_out


def find_videos(source: Path, left_out: list[str]) -> Iterator[SourceVideo]:
    """The captioned videos of a folder, in whatever form; ``left_out`` gets a sentence for each that has no caption."""
    table = next((source / name for name in TABLES if (source / name).is_file()), None)
    if table is not None:
        yield from _of_table(table, left_out)
    elif (source / "video").is_dir() and (source / "caption").is_dir():
        yield from _of_shots(source, left_out)
    else:
        for video in sorted(p for p in source.rglob("*") if p.suffix.lower() in VIDEO_SUFFIXES):
            sidecar = next((video.with_suffix(end) for end in SIDECARS if video.with_suffix(end).is_file()), None)
            if sidecar is None:
                left_out.append(f"{video}: there is no caption beside it ({video.stem}.txt).")
                continue
            try:
                yield SourceVideo(video.stem, (video,), _captions_of(sidecar), str(source.name))
            except UsageError as error:
                left_out.append(str(error))


def _captions_of(file: Path) -> tuple[tuple[str, tuple[float, float] | None], ...]:
    """Captions of a file beside a video.

    Raises:
        UsageError: it holds none.
    """
    try:
        text = read_regular_file(file, MAX_FILE_BYTES).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file}: this file cannot be read ({error}).") from error
    if file.suffix == ".json":
        values = _json(text, file)
        if isinstance(values, dict) and isinstance(values.get("caption"), str):
            return ((values["caption"], None),)
    try:
        document = read_captions(text, file)
    except StoryboardError as error:
        raise UsageError(str(error)) from error
    data: Any = document.data
    chunks = [(chunk["caption"], _span(chunk.get("at"))) for chunk in data["chunks"]]
    if any(span is None for _, span in chunks) and len(chunks) > 1:
        return ((" ".join(caption for caption, _ in chunks), None),)
    return tuple(chunks)


def _span(at: str | None) -> tuple[float, float] | None:
    if at is None:
        return None
    start, end = parse_span(at)
    return float(start), float(end)


def _json(text: str, file: Path) -> object:
    try:
        return read_plain_json(text)
    except ValueError as error:
        raise UsageError(f"{file}: this is not JSON ({error}).") from error


def _of_table(table: Path, left_out: list[str]) -> Iterator[SourceVideo]:
    for number, values in enumerate(_rows_of(table), start=1):
        name = next((values[key] for key in VIDEO_FIELDS if isinstance(values.get(key), str)), None)
        caption = next((values[key] for key in CAPTION_FIELDS if values.get(key)), "")
        caption = caption[0] if isinstance(caption, list) and caption else caption
        file = table.parent / str(name)
        if name is None or not file.resolve().is_relative_to(table.parent.resolve()):
            left_out.append(f"{table}: row {number} names no video below its folder.")
            continue
        spans = values.get("chunks")
        try:
            captions = _chunks_of(spans) if isinstance(spans, list) and spans else ((str(caption), None),)
        except (ValidationError, TypeError):
            left_out.append(f"{table}: row {number} has chunks without start, end and caption.")
            continue
        if not any(text for text, _ in captions):
            left_out.append(f"{table}: row {number} has no caption.")
            continue
        yield SourceVideo(file.stem, (file,), captions, str(values.get("source", table.parent.name)))


def _chunks_of(spans: list[Any]) -> tuple[tuple[str, tuple[float, float]], ...]:
    parsed = [CaptionedSpan.model_validate(span) for span in spans]
    return tuple((span.caption, (span.start, span.end)) for span in parsed)


def _rows_of(table: Path) -> Iterator[Mapping[str, Any]]:
    """The rows of a table of videos.

    Raises:
        UsageError: it cannot be read.
    """
    try:
        text = read_regular_file(table, MAX_TABLE_BYTES).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{table}: this file cannot be read ({error}).") from error
    if table.suffix == ".csv":
        yield from csv.DictReader(io.StringIO(text))
    elif table.suffix == ".jsonl":
        yield from (row for line in text.splitlines() if line.strip() and isinstance(row := _json(line, table), dict))
    else:
        values = _json(text, table)
        yield from (row for row in (values if isinstance(values, list) else []) if isinstance(row, dict))


def _of_shots(source: Path, left_out: list[str]) -> Iterator[SourceVideo]:
    """LongLive's stories: a folder of numbered shots, and a caption file for each."""
    for story in sorted(p for p in (source / "video").iterdir() if p.is_dir()):
        shots = sorted(p for p in story.iterdir() if p.suffix.lower() in VIDEO_SUFFIXES)
        captions: list[tuple[str, tuple[float, float] | None]] = []
        try:
            for shot in shots:
                captions.extend(_captions_of(source / "caption" / story.name / f"{shot.stem}.json"))
        except UsageError as error:
            left_out.append(str(error))
            continue
        if shots:
            yield SourceVideo(story.name, tuple(shots), tuple(captions), source.name)


def _import(video: SourceVideo, target: Path, name: str) -> VideoRow:
    """Brings a video into the dataset and returns its row.

    Raises:
        UsageError: it cannot be decoded.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    infos = [scan_video(file) for file in video.files]
    cuts: Sequence[int] = ()
    if len(video.files) == 1:
        with disk_errors(target):
            _link_or_copy(video.files[0], target)
        seconds = infos[0].seconds
        spans = _spans(video, seconds)
    else:
        fps, size = infos[0].fps, infos[0].size
        counts = [max(round(info.seconds * fps), 1) for info in infos]
        frames = (frame for file in video.files for frame in frames_at(file, fps, size))
        write_film(frames, target, fps=fps, size=size, frames_total=sum(counts))
        ends = [sum(counts[: number + 1]) / fps for number in range(len(counts))]
        texts = [caption for caption, _ in video.captions]
        seconds, cuts = ends[-1], range(1, len(counts))
        spans = [(start, end, text) for start, end, text in zip([0.0, *ends], ends, texts, strict=False)]
    chunks = tuple(
        CaptionedSpan(start=start, end=end, caption=shorten(text, 2000), cut=number in cuts)
        for number, (start, end, text) in enumerate(spans)
    )
    return VideoRow(
        file_name=name,
        caption=video.captions[0][0][:2000],
        fps=round(infos[0].fps, 4),
        duration=round(seconds, 4),
        chunks=chunks,
        source=video.source,
    )


def _spans(video: SourceVideo, seconds: float) -> list[tuple[float, float, str]]:
    """The timed captions of one file; one caption without a time covers all of it."""
    if len(video.captions) == 1 and video.captions[0][1] is None:
        return [(0.0, seconds, video.captions[0][0])]
    return [(span[0], span[1], caption) for caption, span in video.captions if span is not None]


def _link_or_copy(source: Path, target: Path) -> None:
    """A second name for the same file, or a copy on another disk."""
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)
