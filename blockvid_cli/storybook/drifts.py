"""Known drifts: what can go wrong with a minute of the picture book, worse at every level.

    drift      what is changed   severity, and what it means
    blur       every picture     sigma of the Gaussian in the last frame
    hue        every picture     degrees its colours are turned by in the last frame
    jitter     every picture     pixels it is shaken by, at most, in the last frame
    freeze     the film          share of it, from the end, that stands still
    identity   the story         share of it, from the end, in which another subject of another colour is there
    cut        the story         hard cuts to another place and light, and back; its spells nest in those of more cuts

Nothing happens in the first tenth of a film, and a severity of 0 changes nothing. A story changes before it is drawn,
so that it is as sharp as ever.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice

import numpy as np
from PIL import Image, ImageFilter

from blockvid_cli.storybook.edition import Edition, Pose
from blockvid_cli.storybook.stories import Scene, Story, StoryChunk, make_caption, opening_story

Pictures = Iterable[np.ndarray]  # (H, W, 3) uint8 red, green, blue, one after another
GLIDE = 2  # blocks an action of a steady story lasts
AWAY = (85, 65, 45, 25)  # where the spells of ``cut`` begin, in hundredths of the film; each lasts ten of them


def steady_story(edition: Edition, seed: int, blocks: int) -> Story:
    """A story of one scene in which as much happens in every six blocks as in every other: there, back, hop.

    There is room for it on every stage of at least 20 cells. Subject and setting go round by seed, so that a few
    stories show several; colour and light are the dice's.
    """
    told = opening_story(edition, seed)
    subject, setting = (names[seed % len(names)] for names in (edition.subjects, edition.settings))
    scene = replace(told.chunks[0].scene, subject=subject, setting=setting)
    there, back = ("left", "right") if seed % 2 else ("right", "left")
    half = GLIDE * edition.block // 2
    actions = islice(cycle((there, back, "hop")), -(-blocks // GLIDE))
    chunks = [
        StoryChunk(scene, action, min(GLIDE, blocks - number * GLIDE), _caption(scene, action), cut=False)
        for number, action in enumerate(actions)
    ]
    return Story(Pose(edition.stage.middle + (half if there == "left" else -half)), told.cloud, tuple(chunks))


def _caption(scene: Scene, action: str) -> str:
    return make_caption(scene.subject, scene.colour, scene.setting, scene.light, action)


def split_into_blocks(story: Story) -> tuple[StoryChunk, ...]:
    """The chunks of a story, each a block long; it shows the same."""
    return tuple(replace(chunk, blocks=1) for chunk in story.chunks for _ in range(chunk.blocks))


def identity(story: Story, edition: Edition, share: float) -> Story:
    """The same story, but in its last ``share`` another subject of another colour stands where the first one stood."""
    chunks = split_into_blocks(story)
    first = round(len(chunks) * (1 - share))
    return replace(story, chunks=chunks[:first] + tuple(_someone_else(chunk, edition) for chunk in chunks[first:]))


def cut(story: Story, edition: Edition, cuts: float) -> Story:
    """The same story with ``cuts`` hard cuts, by twos: to another place at another time of day, and back."""
    chunks = split_into_blocks(story)
    spells = AWAY[: round(cuts / 2)]
    away = [any(at * len(chunks) <= 100 * n < (at + 10) * len(chunks) for at in spells) for n in range(len(chunks))]
    told = (_elsewhere(chunk, edition) if gone else chunk for chunk, gone in zip(chunks, away, strict=True))
    return replace(story, chunks=tuple(told))


def _someone_else(chunk: StoryChunk, edition: Edition) -> StoryChunk:
    scene = chunk.scene
    subject, colour = _opposite(edition.subjects, scene.subject or ""), _opposite(edition.colours, scene.colour)
    return replace(chunk, scene=replace(scene, subject=subject, colour=colour))


def _elsewhere(chunk: StoryChunk, edition: Edition) -> StoryChunk:
    scene = chunk.scene
    setting, light = _opposite(edition.settings, scene.setting), _opposite(edition.lights, scene.light)
    return replace(chunk, scene=replace(scene, setting=setting, light=light))


def _opposite(names: Sequence[str], name: str) -> str:
    """The name half a list away."""
    return names[(names.index(name) + len(names) // 2) % len(names)]


def severity_ramp(total: int) -> Iterator[float]:
    """How far a drift has come in each of ``total`` frames: 0 in the first tenth, then evenly up to 1 in the last."""
    spared = total / 10
    return (max(0.0, (number + 1 - spared) / (total - spared)) for number in range(total))


def blur(pictures: Pictures, total: int, sigma: float, seed: int) -> Iterator[np.ndarray]:
    """Pictures, ``total`` of them, that lose their focus: ``sigma`` in pixels at the end."""
    for picture, grown in zip(pictures, severity_ramp(total), strict=True):
        soft = ImageFilter.GaussianBlur(sigma * grown)
        yield np.asarray(Image.fromarray(picture).filter(soft)) if sigma * grown else picture


def hue(pictures: Pictures, total: int, degrees: float, seed: int) -> Iterator[np.ndarray]:
    """Pictures, ``total`` of them, whose colours turn: by ``degrees`` around the axis of greys at the end."""
    for picture, grown in zip(pictures, severity_ramp(total), strict=True):
        turned = picture @ _turn(np.radians(degrees * grown)).T
        yield turned.clip(0, 255).round().astype(np.uint8)


def _turn(angle: float) -> np.ndarray:
    """The rotation (3, 3) of red, green and blue by ``angle`` in radians: red comes to green, green to blue."""
    around = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / np.sqrt(3)
    turn = np.cos(angle) * np.eye(3) + (1 - np.cos(angle)) / 3 + np.sin(angle) * around
    return turn.astype(np.float32)


def jitter(pictures: Pictures, total: int, pixels: float, seed: int) -> Iterator[np.ndarray]:
    """Pictures, ``total`` of them, that shake: up to ``pixels`` each way at the end; edges are drawn out.

    Every severity throws the same dice, those of ``seed``.
    """
    dice = np.random.default_rng(seed)
    for picture, grown in zip(pictures, severity_ramp(total), strict=True):
        height, width = picture.shape[:2]
        down, aside = np.rint(dice.uniform(-1, 1, 2) * pixels * grown).astype(int)
        rows, columns = (np.arange(height) + down).clip(0, height - 1), (np.arange(width) + aside).clip(0, width - 1)
        yield picture[rows[:, None], columns]


def freeze(pictures: Pictures, total: int, share: float, seed: int) -> Iterator[np.ndarray]:
    """Pictures, ``total`` of them, the last ``share`` of which are all one; no more are asked for than are shown."""
    moving = total - round(total * share)
    for picture in islice(pictures, moving):
        yield picture
    yield from [picture] * (total - moving)


def _as_told(story: Story, edition: Edition, severity: float) -> Story:
    return story


def _as_drawn(pictures: Pictures, total: int, severity: float, seed: int) -> Iterator[np.ndarray]:
    return iter(pictures)


@dataclass(frozen=True)
class Drift:
    """A drift: the unit of its severities, those from mild to strong, what it does to a story and to its pictures."""

    unit: str
    severities: tuple[float, ...]
    story: Callable[[Story, Edition, float], Story] = _as_told
    frames: Callable[[Pictures, int, float, int], Iterator[np.ndarray]] = _as_drawn


NO_DRIFT = Drift("", (0,))
DRIFTS: dict[str, Drift] = {
    "blur": Drift("pixels of sigma", (0.6, 1.2, 2.4, 4.8), frames=blur),
    "hue": Drift("degrees", (15, 30, 60, 120), frames=hue),
    "identity": Drift("share of the film", (0.2, 0.4, 0.6, 0.8), story=identity),
    "freeze": Drift("share of the film", (0.2, 0.4, 0.6, 0.8), frames=freeze),
    "jitter": Drift("pixels", (1, 2, 4, 8), frames=jitter),
    "cut": Drift("cuts", (2, 4, 6, 8), story=cut),
}
