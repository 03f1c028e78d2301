"""Stories of the picture book: who, where, when and what happens, from a seed alone.

    seed -> acts (a scene for so many blocks) -> chunks (an action, a caption) -> stills, one a frame

    act 1  the white swan on the lake     | act 2  nobody there, or another scene | act 3  the swan is back
    shot 1 begins anywhere on the stage   | every later shot begins in the middle, facing right

A scene keeps its subject, colour, setting and light; its action changes from chunk to chunk. A caption that names no
colour speaks of a subject that was seen before: what it looks like only the memory can tell.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from blockvid_cli.storybook.edition import FOLD, Edition, Pose, Stage, move

SETTING_PHRASES = {"lake": "on the lake", "meadow": "in the meadow", "city": "in the city", "desert": "in the desert"}
LIGHT_PHRASES = {"day": "by day", "sunset": "at sunset", "night": "at night"}
ACTION_PHRASES = {"rest": "rests", "left": "moves left", "right": "moves right", "rise": "rises", "hop": "hops"}
CAMERA_PHRASES = {"still": "", "left": "as the camera pans left", "right": "as the camera pans right"}
WEATHER_PHRASES = {"clear": "", "rain": "in the rain", "snow": "in the snow"}


def make_caption(subject: str | None, colour: str | None, setting: str, light: str, action: str, *more: str) -> str:
    """The sentence the network reads; without a colour the subject is one that was seen before.

    ``more`` are phrases of weather and camera, where an edition has them.

    >>> caption("swan", "white", "lake", "sunset", "left")
    'A white swan moves left on the lake at sunset.'
    """
    place = " ".join(part for part in (SETTING_PHRASES[setting], LIGHT_PHRASES[light], *more) if part)
    if subject is None:
        return f"Nobody is {place}."
    who = f"A {colour} {subject}" if colour else f"The {subject}"
    return f"{who} {ACTION_PHRASES[action]} {place}."


HELD_OUT = 1_000_000  # the first seed of stories that nothing is trained on
CLOUD = 8  # where a cloud begins, in cells; it drifts one cell a block
OFF_STAGE = 4  # cells a cloud drifts beyond either side before it comes again
UNNAMED = 0.3  # the share of later captions that name no colour; of a return's first caption, RETURNS
RETURNS = 0.8
SHORT = 12  # blocks; a film no longer keeps to one scene


@dataclass(frozen=True)
class Scene:
    """What stays the same for a while; ``subject`` None: nobody is there."""

    subject: str | None
    colour: str
    setting: str
    light: str


@dataclass(frozen=True)
class StoryChunk:
    """One captioned span: in which scene, what happens, told in words, for how many blocks."""

    scene: Scene
    action: str
    blocks: int
    caption: str
    cut: bool


@dataclass(frozen=True)
class Story:
    """One picture-book story."""

    start: Pose
    cloud: int  # where the first shot's cloud begins, in cells
    chunks: tuple[StoryChunk, ...]
    weather: str = "clear"
    camera: str = "still"


@dataclass(frozen=True)
class FrameState:
    """What is to be seen in one frame."""

    scene: Scene
    pose: Pose
    cloud: float


def make_story(edition: Edition, seed: int, blocks: int) -> Story:
    """The story of a seed, ``blocks`` long; in every other one the scene is left for a while and comes back."""
    dice = random.Random(f"storybook-{seed}")
    scene, elsewhere = _scene(dice, edition), _elsewhere(dice, edition)
    acts = _acts(dice, scene, elsewhere, blocks)
    stage = edition.stage
    middle, step = stage.middle, edition.block
    start = Pose(
        dice.choice([x for x in range(stage.left, stage.right + 1) if (x - middle) % step == 0]),
        dice.choice((0, 0, stage.high)),
        dice.choice((-1, 1)),
    )
    cloud = dice.randrange(-OFF_STAGE, stage.width + OFF_STAGE)
    sky, camera = _only(dice, edition.weathers), _only(dice, edition.cameras)
    return Story(start, cloud, tuple(_chunks(dice, edition, acts, start, sky, camera)), sky, camera)


def opening_story(edition: Edition, seed: int, blocks: int = 1) -> Story:
    """A story that begins as every film does: in the middle, facing right, the cloud where it always is.

    A caption says nothing of places, so a first block, drawn from its caption alone, has one place to be.
    """
    dice = random.Random(f"storybook-{seed}")
    scene, start = _scene(dice, edition), Pose(edition.stage.middle)
    acts = _acts(dice, scene, _elsewhere(dice, edition), blocks) if blocks > SHORT else [(scene, blocks)]
    sky, camera = _only(dice, edition.weathers), _only(dice, edition.cameras)
    return Story(start, CLOUD, tuple(_chunks(dice, edition, acts, start, sky, camera)), sky, camera)


def returning_story(edition: Edition, seed: int, lead: int, away: int, back: int) -> Story:
    """A story whose subject is away for ``away`` blocks; the captions of its return do not say its colour."""
    dice = random.Random(f"returning-{seed}")
    scene, elsewhere = _scene(dice, edition), _elsewhere(dice, edition)
    start = Pose(edition.stage.middle)
    acts = [(scene, lead), (elsewhere(scene), away), (scene, back)]
    sky, camera = _only(dice, edition.weathers), _only(dice, edition.cameras)
    chunks = list(_chunks(dice, edition, acts, start, sky, camera))
    first = max(number for number, chunk in enumerate(chunks) if chunk.cut)
    told = [replace(c, caption=_told(c.scene, c.action, n < first, sky, camera)) for n, c in enumerate(chunks)]
    return Story(start, CLOUD, tuple(told), sky, camera)


def _scene(dice: random.Random, edition: Edition) -> Scene:
    lists = (edition.subjects, edition.colours, edition.settings, edition.lights)
    return Scene(*(dice.choice(names) for names in lists))


def _acts(
    dice: random.Random, scene: Scene, elsewhere: Callable[[Scene], Scene], blocks: int
) -> list[tuple[Scene, int]]:
    """One scene for ``blocks``; or, in every other story that is long enough, one that is left and comes back."""
    lead, away = dice.randint(4, 8), dice.randint(6, 9)
    if dice.random() < 0.5 and blocks >= lead + away + 2:
        return [(scene, lead), (elsewhere(scene), away), (scene, blocks - lead - away)]
    return [(scene, blocks)]


def _elsewhere(dice: random.Random, edition: Edition) -> Callable[[Scene], Scene]:
    """How a scene is left: nobody is there any more, or another subject in another place is shown."""
    empty, other = dice.random() < 0.5, _scene(dice, edition)

    def leave(scene: Scene) -> Scene:
        if empty or other.subject == scene.subject or other.setting == scene.setting:
            return replace(scene, subject=None)
        return other

    return leave


def _only(dice: random.Random, names: Sequence[str]) -> str:
    """One of an edition's names; where there is but one, the dice stay as they are."""
    return dice.choice(names) if len(names) > 1 else names[0]


def _told(scene: Scene, action: str, named: bool, sky: str = "clear", camera: str = "still") -> str:
    colour = scene.colour if named else None
    return make_caption(
        scene.subject, colour, scene.setting, scene.light, action, WEATHER_PHRASES[sky], CAMERA_PHRASES[camera]
    )


def _chunks(
    dice: random.Random,
    edition: Edition,
    acts: Sequence[tuple[Scene, int]],
    start: Pose,
    sky: str = "clear",
    camera: str = "still",
) -> Iterator[StoryChunk]:
    """The chunks of acts: 2 to 6 blocks each, actions that change something, a cut before every act but the first."""
    pose, seen, action = start, set(), ""
    for number, (scene, blocks) in enumerate(acts):
        cut = number > 0
        if cut:
            pose, action = Pose(edition.stage.middle), ""
        while blocks:
            length = dice.randint(2, 5)
            length = blocks if blocks - length < 2 else length
            action = dice.choice(_possible(edition, pose, action)) if scene.subject else "rest"
            named = scene not in seen or dice.random() >= (RETURNS if cut else UNNAMED)
            seen.add(scene)
            yield StoryChunk(scene, action, length, _told(scene, action, named, sky, camera), cut)
            for frame in range(length * edition.period):
                pose = move(pose, action, frame % edition.period, edition.period, edition.stage)
            blocks, cut = blocks - length, False


def _possible(edition: Edition, pose: Pose, before: str) -> list[str]:
    """The actions that would change something; nobody hops in the air."""
    vain = {"left": pose.x <= edition.stage.left, "right": pose.x >= edition.stage.right, "hop": pose.height > 0}
    return [action for action in edition.actions if action != before and not vain.get(action)]


def frame_states(story: Story, edition: Edition) -> list[FrameState]:
    """What is to be seen in every frame of the story."""
    pose, cloud, out = story.start, story.cloud, []
    stage, period = edition.stage, edition.period
    for chunk in story.chunks:
        if chunk.cut:
            pose, cloud = Pose(stage.middle), CLOUD
        for frame in range(chunk.blocks * period):
            pose = move(pose, chunk.action, frame % period, period, stage)
            cloud += 1 / period
            out.append(FrameState(chunk.scene, pose, _wrapped(cloud, stage)))
    return out[FOLD - 1 :]


def _wrapped(cloud: float, stage: Stage) -> float:
    return (cloud + OFF_STAGE) % (stage.width + 2 * OFF_STAGE) - OFF_STAGE
