"""A bench of picture-book films whose drift is known: each story once as it is, then once a drift and severity.

    bench.json                     which film drifts how, and how far
    videos/cat-1.mp4               the story as it is
    videos/cat-1--blur-2.mp4       its second severity of blur; the captions lie beside it, in cat-1--blur-2.srt
    storyboards/cat-1--blur-2.yaml the captions again, the same for all films of a story

A film is there whole or not at all, and bench.json names those that are there; the same call draws what is missing.
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

from blockvid_cli.errors import UsageError
from blockvid_cli.models.card import parse_size
from blockvid_cli.models.vae import to_uint8
from blockvid_cli.project.atomic_files import write_atomically, disk_errors
from blockvid_cli.storyboard.storyboard import Chunk, Storyboard
from blockvid_cli.storyboard.exports import dump_storyboard
from blockvid_cli.storybook.edition import move
from blockvid_cli.storybook.rendering import render_story
from blockvid_cli.storybook.drifts import DRIFTS, NO_DRIFT, Drift, split_into_blocks, steady_story
from blockvid_cli.storybook.edition import Edition, read_edition
from blockvid_cli.storybook.stories import HELD_OUT, Story
from blockvid_cli.video.mux import write_film
from blockvid_cli.video.metadata import Chapter

CRF = 12  # H.264's quality, so fine that coding hides no drift
KEPT = 192 * 2**20  # bytes of drawn pictures that are kept for a story's other films
SHORTEST = 20  # seconds
SIZES = ((160, 96), (640, 384))  # smaller ones leave no room to move, larger ones show next to nothing of a subject


@dataclass(frozen=True)
class DemoFilm:
    """One film of the bench: a drift at a severity, level 0 being none; ``number`` is its story's, from 0."""

    id: str
    story: str
    number: int
    kind: str
    drift: Drift
    level: int
    severity: float


@dataclass(frozen=True)
class Demo:
    """What a bench is made of; ``seed`` counts through the stories that nothing is trained on."""

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
        """The story of that number, as it is."""
        return steady_story(self.edition, HELD_OUT + self.seed + number, self.frames // self.edition.period)

    def films(self) -> list[DemoFilm]:
        """All films, those of a story together, the one without drift first."""
        found = []
        for number in range(self.stories):
            name = f"{self.story(number).chunks[0].scene.subject}-{number + 1}"
            found.append(DemoFilm(name, name, number, "none", NO_DRIFT, 0, 0))
            for kind, drift in DRIFTS.items():
                for level, severity in enumerate(drift.severities, start=1):
                    found.append(DemoFilm(f"{name}--{kind}-{level}", name, number, kind, drift, level, severity))
        return found


def plan_demo(stories: int, seconds: int, size: str, seed: int) -> Demo:
    """What a person asked for.

    Raises:
        UsageError: the films would be too short, or the size is none that the picture book can show a minute at.
    """
    if seconds < SHORTEST:
        raise UsageError(f"--seconds {seconds}: a drift needs at least {SHORTEST} s to be told from none.")
    try:
        asked = parse_size(size)
    except ValueError as error:
        raise UsageError(f"--size: {error}.") from error
    within = all(low <= side <= high for low, side, high in zip(SIZES[0], asked, SIZES[1], strict=True))
    if not within or any(side % 8 for side in asked):
        low, high = ("{}x{}".format(*size) for size in SIZES)
        raise UsageError(f"--size {size}: sides are multiples of 8, from {low} to {high}.")
    return Demo(replace(read_edition(), size=asked), stories, seconds, seed)


def write_bench(demo: Demo, folder: Path, fresh: bool, tell: Callable[[str], None]) -> dict[str, Any]:
    """Draws the films that ``folder`` lacks, or with ``fresh`` all of them; returns what came of it.

    Raises:
        UsageError: ``folder`` is no folder, or holds films made with other settings.
        BlockvidError: the folder cannot be written to (``PartialError``: the disk is full).
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--bench {folder}: that is a file; name a folder.")
    films = demo.films()
    videos = {film.id: folder / "videos" / f"{film.id}.mp4" for film in films}
    if fresh:
        with disk_errors(folder):
            for video in videos.values():
                video.unlink(missing_ok=True)
    else:
        _check(folder / "bench.json", demo)
    drawn, pictures = 0, _kept_pictures(demo)
    _list(folder, demo, films)
    for count, film in enumerate(films, start=1):
        if videos[film.id].exists():
            continue
        _write(film, demo, folder, pictures)
        _list(folder, demo, films)
        drawn += 1
        tell(f"{film.id}: film {count} of {len(films)}")
    return {"bench": str(folder), "films": len(films), "drawn": drawn, "stories": demo.stories, **demo.settings}


def _check(file: Path, demo: Demo) -> None:
    """Films already there were made as these will be."""
    if not file.exists():
        return
    try:
        settings = json.loads(file.read_text("utf-8"))["settings"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{file} cannot be read as a bench; choose another folder, or add --fresh.") from error
    if settings != demo.settings:
        raise UsageError(
            f"{file.parent} holds films made with other settings; choose another folder, or draw anew with --fresh."
        )


def _list(folder: Path, demo: Demo, films: list[DemoFilm]) -> None:
    """Writes bench.json: the films that are there."""
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


def _write(film: DemoFilm, demo: Demo, folder: Path, pictures: Callable[[Story], Iterator[np.ndarray]]) -> None:
    """One film with its storyboard; the film comes last, so that where it is, both are."""
    told, edition = demo.story(film.number), demo.edition
    file = folder / "storyboards" / f"{film.id}.yaml"
    storyboard = _storyboard(told, edition, file, film.story)
    write_atomically(file, dump_storyboard(storyboard).encode())
    changed = film.drift.story(told, edition, film.severity)
    shown = film.drift.frames(pictures(changed), demo.frames, film.severity, demo.seed + film.number)
    write_film(
        shown,
        folder / "videos" / f"{film.id}.mp4",
        fps=edition.fps,
        size=edition.size,
        frames_total=demo.frames,
        chapters=[Chapter(float(chunk.start), float(chunk.end), chunk.caption) for chunk in storyboard.chunks],
        crf=CRF,
    )


def _storyboard(told: Story, edition: Edition, file: Path, title: str) -> Storyboard:
    """The captions of a story and when they are told."""
    block = Fraction(edition.period, edition.fps)
    ends = [blocks * block for blocks in accumulate((chunk.blocks for chunk in told.chunks), initial=0)]
    chunks = (Chunk(chunk.caption, ends[n], ends[n + 1]) for n, chunk in enumerate(told.chunks))
    return Storyboard(tuple(chunks), file, title, size=edition.size, fps=edition.fps)


def _kept_pictures(demo: Demo) -> Callable[[Story], Iterator[np.ndarray]]:
    """What draws a story; blocks that were drawn before are remembered, as far as memory is set apart for them."""
    width, height = demo.edition.size
    blocks = KEPT // (demo.edition.period * width * height * 3)
    return partial(pictures_of, edition=demo.edition, draw_block=lru_cache(maxsize=blocks)(second_block))


def pictures_of(
    story: Story, edition: Edition, draw_block: Callable[[Story, Edition], np.ndarray] | None = None
) -> Iterator[np.ndarray]:
    """The pictures (H, W, 3) uint8 of a story, drawn a block at a time; its first block is shown whole.

    A block begins where the one before ended: it is drawn after one of rest, which is not shown.
    """
    pose, cloud = story.start, story.cloud
    for chunk in split_into_blocks(story):
        told = replace(story, start=pose, cloud=cloud - 1, chunks=(replace(chunk, action="rest"), chunk))
        yield from (draw_block or second_block)(told, edition)
        for frame in range(edition.period):
            pose = move(pose, chunk.action, frame, edition.period, edition.stage)
        cloud += 1


def second_block(story: Story, edition: Edition) -> np.ndarray:
    """The pictures (F, H, W, 3) uint8 of a story of two blocks, but for its first."""
    frames, _ = render_story(story, edition)
    return to_uint8(frames[-edition.period :])
