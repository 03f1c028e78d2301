"""The bundled model: what a caption asks for is on the picture, measured against the world's own drawings.

python -m pytest -m slow tests/test_bundled.py -s
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from imageio_ffmpeg import read_frames

from blockvid_cli.order import Order, prepare
from blockvid_cli.pipeline import render
from blockvid_cli.storybook.edition import read_edition
from blockvid_cli.storybook.settings import backdrop
from blockvid_cli.storybook.subjects import COLOURS
from blockvid_cli.storybook.world import Story, tell

EDITION = read_edition()
HELD_OUT = 1_000_000  # the first seed of stories that training never saw
STORIES, BLOCKS = 12, 20


def frames_of(film: Path) -> np.ndarray:
    """(F, H, W, 3) in 0..1."""
    reader = read_frames(str(film))
    width, height = next(reader)["size"]
    return np.stack([np.frombuffer(f, np.uint8).reshape(height, width, 3) for f in reader]) / 255


def write(story: Story, file: Path) -> Path:
    """The story as a storyboard, a block a second."""
    chunks = [{"caption": chunk.caption, "duration": f"{chunk.blocks}s"} for chunk in story.chunks]
    file.write_text(yaml.safe_dump({"version": 1, "seed": 1, "chunks": chunks}))
    return file


def place_and_light(frame: np.ndarray) -> tuple[str, str]:
    """The backdrop most like a frame, by the median difference of its pixels."""
    every = itertools.product(EDITION.settings, EDITION.lights)
    return min(every, key=lambda names: np.median(np.abs(frame - scene(*names)).sum(-1)))


def scene(setting: str, light: str) -> np.ndarray:
    return backdrop(setting, light, EDITION.size).permute(1, 2, 0).numpy()


def subject_of(frame: np.ndarray, story: Story) -> np.ndarray:
    """Which pixels below the cloud are not the backdrop's."""
    unlike = np.abs(frame - scene(story.setting, story.light)).sum(-1) > 0.45
    unlike[: frame.shape[0] // 4] = False
    return unlike


def colour_of(frame: np.ndarray, mask: np.ndarray) -> str:
    """The colour of most of the subject's colourful pixels, each named by its nearest; white where there are few."""
    names = [name for name in COLOURS if name != "white"]
    palette = np.array([COLOURS[name] for name in names]) / 255
    pixels = frame[mask]
    pixels = pixels[pixels.max(-1) > 0.3]
    colourful = pixels[np.ptp(pixels, axis=-1) > 0.3 * pixels.max(-1)]
    if len(colourful) < 0.3 * len(pixels):
        return "white"
    angle = (unit(colourful) @ unit(palette).T).argmax(-1)
    return names[np.bincount(angle, minlength=len(names)).argmax()]


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True).clip(1e-6)


def went(action: str, frames: np.ndarray, story: Story) -> bool | None:
    """Whether the subject is where its action leads, at the end of the chunk; None where it cannot be seen."""
    places = [np.argwhere(subject_of(frame, story)) for frame in frames[-6:]]
    if any(len(place) < 40 for place in places):
        return None
    height, width = frames.shape[1:3]
    x = np.median([np.median(place[:, 1]) for place in places]) / width
    middle = np.median([np.median(place[:, 0]) for place in places]) / height
    if action == "left":
        return bool(x < 0.42)
    if action == "right":
        return bool(x > 0.58)
    return bool(middle < 0.5) if action == "rise" else bool(middle > 0.5)


@pytest.mark.slow
def test_setting_light_colour_and_motion_are_as_captioned(tmp_path):
    right: dict[str, list[bool]] = {name: [] for name in ("setting", "light", "colour", "motion")}
    halves: dict[str, list[bool]] = {"first": [], "last": []}
    for seed in range(HELD_OUT, HELD_OUT + STORIES):
        story = tell(EDITION, seed, BLOCKS)
        film = render(prepare(Order(write(story, tmp_path / f"{seed}.yaml")))).path
        frames, block = frames_of(film), 0
        for chunk in story.chunks:
            end = 12 * (block + chunk.blocks)
            last = frames[end - 12 : end]
            setting, light = place_and_light(last[6])
            right["setting"].append(setting == story.setting)
            right["light"].append(light == story.light)
            right["colour"].append(colour_of(last[6], subject_of(last[6], story)) == story.colour)
            if chunk.blocks > 2:
                right["motion"].append(went(chunk.action, last, story) is True)
            halves["first" if block < BLOCKS // 2 else "last"].append(setting == story.setting and light == story.light)
            block += chunk.blocks
    shares = {name: round(float(np.mean(values)), 3) for name, values in (right | halves).items()}
    print(json.dumps({**shares, "chunks": len(right["setting"])}))
    assert shares["setting"] >= 0.95 and shares["light"] >= 0.95
    assert shares["colour"] >= 0.9 and shares["motion"] >= 0.85
    assert shares["last"] >= shares["first"] - 0.05
