"""Makes a bench of picture-book films whose drift is known: each story without drift, and once per drift and level.

    bench.json                     which film drifts how, and how far
    videos/cat-1.mp4               the story without drift
    videos/cat-1--blur-2.mp4       its second severity of blur; the captions are in cat-1--blur-2.srt
    storyboards/cat-1--blur-2.yaml the captions again, the same for all films of a story

A film exists complete or not at all, and bench.json lists those that exist; the same call renders what is missing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache, partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from blockvid_cli.errors import UsageError
from blockvid_cli.evaluation.imports import read_form
from blockvid_cli.files import check_own_folder
from blockvid_cli.models.card import parse_size
from blockvid_cli.models.vae import to_uint8
from blockvid_cli.project.atomic_files import disk_errors, write_atomically
from blockvid_cli.storyboard.exports import dump_storyboard
from blockvid_cli.storyboard.storyboard import Chunk, Storyboard
from blockvid_cli.storybook.drifts import DRIFTS, NO_DRIFT, Drift, split_into_blocks, steady_story
from blockvid_cli.storybook.edition import Edition, move, read_edition
from blockvid_cli.storybook.rendering import render_story
from blockvid_cli.storybook.stories import HELD_OUT, Story
from blockvid_cli.video.metadata import Chapter
from blockvid_cli.video.mux import write_film

CRF = 12  # H.264's quality, so fine that coding hides no drift
CACHE_BYTES = 192 * 2**20  # of rendered blocks that are cached for a story's other films
MIN_SECONDS = 20
MIN_SIZE, MAX_SIZE = (160, 96), (640, 384)  # below there is no room to move, above a subject has too little detail


@dataclass(frozen=True)
class DemoFilm:
    """One film of the bench: a drift at a severity, level 0 for none; ``number`` is its story's, from 0."""

    id: str
    story: str
    number: int
    kind: str
    drift: Drift
    level: int
    severity: float


@dataclass(frozen=True)
class Demo:
    """What a bench consists of; ``seed`` counts through the stories that nothing is trained on."""

    edition: Edition
    stories: int
    seconds: int
    seed: int

    @property
    def frames(self) -> int:
        """Frames of a film: whole blocks."""
        return self.seconds * self.edition.fps // self.edition.period * self.edition.period

    @property
    def settings(self) -> dict[str, Any]:
        """All that its films depend on, as plain values."""
        return {
            "seconds": self.seconds,
            "size": "{}x{}".format(*self.edition.size),
            "fps": self.edition.fps,
            "seed": self.seed,
            "drifts": {kind: list(drift.severities) for kind, drift in DRIFTS.items()},
        }

    def story(self, number: int) -> Story:
        """The story of this number, without drift."""
        return steady_story(self.edition, HELD_OUT + self.seed + number, self.frames // self.edition.period)

    def films(self) -> list[DemoFilm]:
        """All films, those of a story together, the one without drift first."""
        films = []
        for number in range(self.stories):
            name = f"{self.story(number).chunks[0].scene.subject}-{number + 1}"
            films.append(DemoFilm(name, name, number, "none", NO_DRIFT, 0, 0))
            for kind, drift in DRIFTS.items():
                for level, severity in enumerate(drift.severities, start=1):
                    films.append(DemoFilm(f"{name}--{kind}-{level}", name, number, kind, drift, level, severity))
        return films


def plan_demo(stories: int, seconds: int, size: str, seed: int) -> Demo:
    """Checks what a person asked for.

    Raises:
        UsageError: the films would be too short, or the picture book cannot show a minute at this size.
    """
    if seconds < MIN_SECONDS:
        raise UsageError(f"--seconds {seconds}: a drift needs at least {MIN_SECONDS} s to be told from none.")
    try:
        sides = parse_size(size)
    except ValueError as error:
        raise UsageError(f"--size: {error}.") from error
    in_range = all(low <= side <= high for low, side, high in zip(MIN_SIZE, sides, MAX_SIZE, strict=True))
    if not in_range or any(side % 8 for side in sides):
        low, high = ("{}x{}".format(*limit) for limit in (MIN_SIZE, MAX_SIZE))
        raise UsageError(f"--size {size}: sides are multiples of 8, from {low} to {high}.")
    return Demo(replace(read_edition(), size=sides), stories, seconds, seed)


def write_bench(demo: Demo, folder: Path, fresh: bool, notify: Callable[[str], None]) -> dict[str, Any]:
    """Renders the films that ``folder`` lacks, or with ``fresh`` all of them; returns a summary.

    Raises:
        UsageError: ``folder`` is no folder, or holds links, or films made with other settings.
        BlockvidError: the folder cannot be written to (``PartialError``: the disk is full).
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--bench {folder}: that is a file; name a folder.")
    check_own_folder(folder)
    films = demo.films()
    videos = {film.id: folder / "videos" / f"{film.id}.mp4" for film in films}
    if fresh:
        with disk_errors(folder):
            for video in videos.values():
                video.unlink(missing_ok=True)
    else:
        _check_settings(folder / "bench.json", demo)
    rendered, render = 0, _cached_renderer(demo)
    _write_list(folder, demo, films)
    for count, film in enumerate(films, start=1):
        if videos[film.id].exists():
            continue
        _write_demo_film(film, demo, folder, render)
        _write_list(folder, demo, films)
        rendered += 1
        notify(f"{film.id}: film {count} of {len(films)}")
    return {"bench": str(folder), "films": len(films), "rendered": rendered, "stories": demo.stories, **demo.settings}


def _check_settings(file: Path, demo: Demo) -> None:
    """Makes sure that existing films were made with the same settings."""
    if not file.exists():
        return
    try:
        settings = read_form(file, TypeAdapter(dict[str, Any]), "what 'blockvid data demo' wrote")["settings"]
    except (UsageError, KeyError) as error:
        raise UsageError(f"{file} cannot be read as a bench; choose another folder, or add --fresh.") from error
    if settings != demo.settings:
        raise UsageError(
            f"{file.parent} holds films made with other settings; choose another folder, or draw anew with --fresh."
        )


def _write_list(folder: Path, demo: Demo, films: list[DemoFilm]) -> None:
    """Writes bench.json: the films that exist."""
    rows = [
        {
            "id": film.id,
            "video": f"videos/{film.id}.mp4",
            "storyboard": f"storyboards/{film.id}.yaml",
            "story": film.story,
            "drift": film.kind,
            "severity": film.severity,
            "level": film.level,
            "unit": film.drift.unit,
        }
        for film in films
        if (folder / "videos" / f"{film.id}.mp4").exists()
    ]
    values = {"version": 1, "settings": demo.settings, "films": rows}
    write_atomically(folder / "bench.json", (json.dumps(values, indent=1) + "\n").encode())


def _write_demo_film(film: DemoFilm, demo: Demo, folder: Path, render: Callable[[Story], Iterator[np.ndarray]]) -> None:
    """Writes the storyboard, then the film, so that where the film exists both do."""
    story, edition = demo.story(film.number), demo.edition
    file = folder / "storyboards" / f"{film.id}.yaml"
    storyboard = _storyboard(story, edition, file, film.story)
    write_atomically(file, dump_storyboard(storyboard).encode())
    frames = render(film.drift.story(story, edition, film.severity))
    write_film(
        film.drift.frames(frames, demo.frames, film.severity, demo.seed + film.number),
        folder / "videos" / f"{film.id}.mp4",
        fps=edition.fps,
        size=edition.size,
        frames_total=demo.frames,
        chapters=[Chapter(float(chunk.start), float(chunk.end), chunk.caption) for chunk in storyboard.chunks],
        crf=CRF,
    )


def _storyboard(story: Story, edition: Edition, file: Path, title: str) -> Storyboard:
    """The captions of a story with their times."""
    block = Fraction(edition.period, edition.fps)
    ends = [blocks * block for blocks in accumulate((chunk.blocks for chunk in story.chunks), initial=0)]
    chunks = tuple(Chunk(caption=chunk.caption, start=ends[n], end=ends[n + 1]) for n, chunk in enumerate(story.chunks))
    return Storyboard(chunks=chunks, source=file, title=title, size=edition.size, fps=edition.fps)


def _cached_renderer(demo: Demo) -> Callable[[Story], Iterator[np.ndarray]]:
    """Renders stories; caches blocks that several of them share, up to ``CACHE_BYTES``."""
    width, height = demo.edition.size
    blocks = CACHE_BYTES // (demo.edition.period * width * height * 3)
    return partial(story_frames, edition=demo.edition, render_block=lru_cache(maxsize=blocks)(second_block))


def story_frames(
    story: Story, edition: Edition, render_block: Callable[[Story, Edition], np.ndarray] | None = None
) -> Iterator[np.ndarray]:
    """Yields the frames (H, W, 3) uint8 of a story, rendered a block at a time; its first block is complete.

    A block begins where the one before ended: it is rendered after a block of rest, which is not shown.
    """
    pose, cloud = story.start, story.cloud
    for chunk in split_into_blocks(story):
        pair = replace(story, start=pose, cloud=cloud - 1, chunks=(replace(chunk, action="rest"), chunk))
        yield from (render_block or second_block)(pair, edition)
        for frame in range(edition.period):
            pose = move(pose, chunk.action, frame, edition.period, edition.stage)
        cloud += 1


def second_block(story: Story, edition: Edition) -> np.ndarray:
    """The frames (F, H, W, 3) uint8 of a story of two blocks, without the first block."""
    frames, _ = render_story(story, edition)
    return to_uint8(frames[-edition.period :])
