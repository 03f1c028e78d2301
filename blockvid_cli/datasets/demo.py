"""A dataset of picture-book films, so that everything about training can be tried at once.

lv1m-demo/dataset.yaml
lv1m-demo/train/metadata.jsonl, videos/cat-0001.mp4 ...
lv1m-demo/eval/metadata.jsonl, videos/fox-0201.mp4 ...      stories that nothing is trained on
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from blockvid_cli.datasets.folder import CaptionedSpan, DatasetSettings, VideoRow, write_dataset
from blockvid_cli.errors import UsageError
from blockvid_cli.evaluation.demo import story_frames
from blockvid_cli.storybook.edition import Edition, read_edition
from blockvid_cli.storybook.stories import HELD_OUT, Story, opening_story
from blockvid_cli.video.mux import write_film

FIRST_SEED = 4_000_000  # of stories that the bundled model did not learn from
CRF = 12  # so fine that coding adds nothing to learn


def write_demo(root: Path, videos: int, held_out: int, seconds: int, notify: Callable[[str], None]) -> DatasetSettings:
    """Renders the videos that ``root`` lacks, and writes the dataset.

    Raises:
        UsageError: ``root`` holds something else.
        BlockvidError: it cannot be written to (``PartialError``: the disk is full).
    """
    if root.exists() and any(root.iterdir()) and not (root / "train").is_dir():
        raise UsageError(f"{root} is not empty and is no dataset; name a new folder.")
    edition = read_edition()
    blocks = max(seconds * edition.fps // edition.period, 1)
    settings = DatasetSettings(
        title="picture book", fps=edition.fps, size=edition.size, license="Apache-2.0", source="blockvid data demo"
    )
    rows: dict[str, list[VideoRow]] = {"train": [], "eval": []}
    for split, count, first in (("train", videos, FIRST_SEED), ("eval", held_out, HELD_OUT)):
        for number in range(count):
            story = opening_story(edition, first + number, blocks)
            name = f"videos/{story.chunks[0].scene.subject or 'nobody'}-{number + 1:04}.mp4"
            file = root / split / name
            rows[split].append(_row(story, edition, name, split))
            if not file.exists():
                _write_video(story, edition, file)
                notify(f"{split}: video {number + 1} of {count}")
    write_dataset(root, settings, rows)
    return settings


def _row(story: Story, edition: Edition, name: str, split: str) -> VideoRow:
    """A story's captions with their times; each is a chunk."""
    seconds, spans, start = edition.period / edition.fps, [], 0
    for chunk in story.chunks:
        end = start + chunk.blocks
        spans.append(
            CaptionedSpan(start=start * seconds, end=end * seconds, caption=chunk.caption, cut=chunk.cut and start > 0)
        )
        start = end
    return VideoRow(
        file_name=name,
        caption=story.chunks[0].caption,
        fps=edition.fps,
        duration=start * seconds,
        chunks=tuple(spans),
        source=f"picture book, {split}",
    )


def _write_video(story: Story, edition: Edition, file: Path) -> None:
    frames = sum(chunk.blocks for chunk in story.chunks) * edition.period
    file.parent.mkdir(parents=True, exist_ok=True)
    write_film(story_frames(story, edition), file, fps=edition.fps, size=edition.size, frames_total=frames, crf=CRF)
