"""A contact sheet of a dataset: the first frame of every chunk, with its caption."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from blockvid_cli.datasets.folder import Dataset
from blockvid_cli.video.contact_sheet import contact_sheet
from blockvid_cli.video.reader import frames_at

WIDTH = 160  # pixels of a frame on the sheet
MAX_FRAMES = 100


def write_preview(dataset: Dataset, output: Path, videos: int) -> int:
    """Writes the sheet of the first ``videos`` videos; returns the number of frames on it.

    Raises:
        UsageError: a video cannot be decoded.
        BlockvidError: the file cannot be written.
    """
    frames: list[np.ndarray] = []
    labels: list[str] = []
    size = dataset.settings.size or (WIDTH * 16 // 9, WIDTH)
    scale = WIDTH / size[0]
    small = (WIDTH, max(round(size[1] * scale) // 2 * 2, 2))
    for number in range(min(videos, len(dataset.train))):
        row = dataset.train[number]
        starts = {round(span.start * 2): span for span in row.spans()}  # on a grid of half seconds
        for index, frame in enumerate(frames_at(dataset.train.video(row), 2.0, small)):
            if index in starts and len(frames) < MAX_FRAMES:
                frames.append(frame)
                labels.append(f"{row.name} {starts[index].start:g} s: {starts[index].caption}")
    contact_sheet(frames, labels, output)
    return len(frames)
