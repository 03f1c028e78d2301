"""Known drifts: ways in which a minute of the picture book degrades, each in several severities.

    drift      applied to    severity
    blur       every frame   sigma of the Gaussian in the last frame
    hue        every frame   degrees its colours are rotated by in the last frame
    jitter     every frame   largest shift in pixels in the last frame
    freeze     the film      share of it, from the end, that stands still
    identity   the story     share of it, from the end, that shows another subject of another colour
    cut        the story     number of hard cuts to another setting and light, and back; the intervals of few cuts are
                             among those of many

Nothing changes in the first tenth of a film, and a severity of 0 changes nothing. A story is changed before it is
rendered, so that it stays sharp.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice

import numpy as np
from PIL import Image, ImageFilter

from blockvid_cli.storybook.edition import Edition, Pose
from blockvid_cli.storybook.stories import Scene, Story, StoryChunk, make_caption, opening_story

Frames = Iterable[np.ndarray]  # (H, W, 3) uint8 red, green, blue, in the film's order
ACTION_BLOCKS = 2  # blocks an action of a steady story lasts
CUT_STARTS = (85, 65, 45, 25)  # where the intervals of ``cut`` begin, in hundredths of the film; each lasts ten


def steady_story(edition: Edition, seed: int, blocks: int) -> Story:
    """A story of one scene that repeats itself every six blocks: to one side, back, hop.

    It fits on every stage of at least 20 cells. Subject and setting follow the seed, so that a few stories show
    several; colour and light are random.
    """
    opening = opening_story(edition, seed)
    subject, setting = (names[seed % len(names)] for names in (edition.subjects, edition.settings))
    scene = replace(opening.chunks[0].scene, subject=subject, setting=setting)
    first, second = ("left", "right") if seed % 2 else ("right", "left")
    half = ACTION_BLOCKS * edition.block // 2
    actions = islice(cycle((first, second, "hop")), -(-blocks // ACTION_BLOCKS))
    chunks = [
        StoryChunk(
            scene, action, min(ACTION_BLOCKS, blocks - number * ACTION_BLOCKS), _caption(scene, action), cut=False
        )
        for number, action in enumerate(actions)
    ]
    return Story(Pose(edition.stage.middle + (half if first == "left" else -half)), opening.cloud, tuple(chunks))


def _caption(scene: Scene, action: str) -> str:
    return make_caption(scene.subject, scene.colour, scene.setting, scene.light, action)


def split_into_blocks(story: Story) -> tuple[StoryChunk, ...]:
    """The chunks of a story, split into chunks of one block; the frames stay the same."""
    return tuple(replace(chunk, blocks=1) for chunk in story.chunks for _ in range(chunk.blocks))


def identity(story: Story, edition: Edition, share: float) -> Story:
    """The same story, but in its last ``share`` another subject of another colour takes the same poses."""
    chunks = split_into_blocks(story)
    first = round(len(chunks) * (1 - share))
    return replace(story, chunks=chunks[:first] + tuple(_other_subject(chunk, edition) for chunk in chunks[first:]))


def cut(story: Story, edition: Edition, cuts: float) -> Story:
    """The same story with ``cuts`` hard cuts, in pairs: to another setting and light, and back."""
    chunks = split_into_blocks(story)
    total, starts = len(chunks), CUT_STARTS[: round(cuts / 2)]
    away = [any(start * total <= 100 * n < (start + 10) * total for start in starts) for n in range(total)]
    edited = (_other_setting(chunk, edition) if is_away else chunk for chunk, is_away in zip(chunks, away, strict=True))
    return replace(story, chunks=tuple(edited))


def _other_subject(chunk: StoryChunk, edition: Edition) -> StoryChunk:
    scene = chunk.scene
    subject, colour = _opposite(edition.subjects, scene.subject or ""), _opposite(edition.colours, scene.colour)
    return replace(chunk, scene=replace(scene, subject=subject, colour=colour))


def _other_setting(chunk: StoryChunk, edition: Edition) -> StoryChunk:
    scene = chunk.scene
    setting, light = _opposite(edition.settings, scene.setting), _opposite(edition.lights, scene.light)
    return replace(chunk, scene=replace(scene, setting=setting, light=light))


def _opposite(names: Sequence[str], name: str) -> str:
    """The name half a list away."""
    return names[(names.index(name) + len(names) // 2) % len(names)]


def severity_ramp(total: int) -> Iterator[float]:
    """The strength of a drift in each of ``total`` frames: 0 in the first tenth, then linear up to 1 in the last."""
    unchanged = total / 10
    return (max(0.0, (number + 1 - unchanged) / (total - unchanged)) for number in range(total))


def blur(frames: Frames, total: int, sigma: float, seed: int) -> Iterator[np.ndarray]:
    """Frames, ``total`` of them, of which the later are blurred more: by ``sigma`` pixels at the end."""
    for frame, strength in zip(frames, severity_ramp(total), strict=True):
        soft = ImageFilter.GaussianBlur(sigma * strength)
        yield np.asarray(Image.fromarray(frame).filter(soft)) if sigma * strength else frame


def hue(frames: Frames, total: int, degrees: float, seed: int) -> Iterator[np.ndarray]:
    """Frames, ``total`` of them, whose colours are rotated: by ``degrees`` around the axis of greys at the end."""
    for frame, strength in zip(frames, severity_ramp(total), strict=True):
        rotated = frame @ _hue_rotation(np.radians(degrees * strength)).T
        yield rotated.clip(0, 255).round().astype(np.uint8)


def _hue_rotation(angle: float) -> np.ndarray:
    """The rotation (3, 3) of red, green and blue by ``angle`` in radians."""
    around = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / np.sqrt(3)
    rotation = np.cos(angle) * np.eye(3) + (1 - np.cos(angle)) / 3 + np.sin(angle) * around
    return rotation.astype(np.float32)


def jitter(frames: Frames, total: int, pixels: float, seed: int) -> Iterator[np.ndarray]:
    """Frames, ``total`` of them, that are shifted at random: up to ``pixels`` each way at the end; edges are extended.

    Every severity uses the same random numbers, those of ``seed``.
    """
    rng = np.random.default_rng(seed)
    for frame, strength in zip(frames, severity_ramp(total), strict=True):
        height, width = frame.shape[:2]
        down, aside = np.rint(rng.uniform(-1, 1, 2) * pixels * strength).astype(int)
        rows, columns = (np.arange(height) + down).clip(0, height - 1), (np.arange(width) + aside).clip(0, width - 1)
        yield frame[rows[:, None], columns]


def freeze(frames: Frames, total: int, share: float, seed: int) -> Iterator[np.ndarray]:
    """Frames, ``total`` of them, the last ``share`` of which repeat one; those are not taken from the iterator."""
    moving, frame = total - round(total * share), next(frames := iter(frames))
    yield frame
    for frame in islice(frames, moving - 1):
        yield frame
    yield from [frame] * (total - moving)


def _same_story(story: Story, edition: Edition, severity: float) -> Story:
    return story


def _same_frames(frames: Frames, total: int, severity: float, seed: int) -> Iterator[np.ndarray]:
    return iter(frames)


@dataclass(frozen=True)
class Drift:
    """A drift: the unit of its severities, the severities from mild to strong, and what changes story and frames."""

    unit: str
    severities: tuple[float, ...]
    story: Callable[[Story, Edition, float], Story] = _same_story
    frames: Callable[[Frames, int, float, int], Iterator[np.ndarray]] = _same_frames


NO_DRIFT = Drift("", (0,))
DRIFTS: dict[str, Drift] = {
    "blur": Drift("pixels of sigma", (0.6, 1.2, 2.4, 4.8), frames=blur),
    "hue": Drift("degrees", (15, 30, 60, 120), frames=hue),
    "identity": Drift("share of the film", (0.2, 0.4, 0.6, 0.8), story=identity),
    "freeze": Drift("share of the film", (0.2, 0.4, 0.6, 0.8), frames=freeze),
    "jitter": Drift("pixels", (1, 2, 4, 8), frames=jitter),
    "cut": Drift("cuts", (2, 4, 6, 8), story=cut),
}
