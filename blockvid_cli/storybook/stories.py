"""Stories of the picture book, made from a seed alone: who, where, when and what happens.

    seed -> acts (a scene for some blocks) -> chunks (an action, a caption) -> a state for every frame

    act 1  the white swan on the lake     | act 2  nobody, or another scene | act 3  the swan is back
    shot 1 begins anywhere on the stage   | every later shot begins in the middle, facing right

A scene keeps its subject, colour, setting and light; its action changes from chunk to chunk. A caption that names no
colour refers to a subject of an earlier chunk: its looks must come from the KV cache.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from blockvid_cli.storybook.edition import FRAMES_PER_LATENT, Edition, Pose, Stage, move

HELD_OUT = 1_000_000  # the first seed of stories that nothing is trained on
CLOUD = 8  # x in cells at which a cloud begins; it drifts one cell a block
CLOUD_MARGIN = 4  # cells a cloud drifts beyond either side before it comes again
UNNAMED = 0.3  # the share of later captions that name no colour
UNNAMED_ON_RETURN = 0.8  # the same for the first caption of a scene that comes back
SHORT = 12  # blocks; a longer opening story may leave its scene

SETTING_PHRASES = {"lake": "on the lake", "meadow": "in the meadow", "city": "in the city", "desert": "in the desert"}
LIGHT_PHRASES = {"day": "by day", "sunset": "at sunset", "night": "at night"}
ACTION_PHRASES = {"rest": "rests", "left": "moves left", "right": "moves right", "rise": "rises", "hop": "hops"}
CAMERA_PHRASES = {"still": "", "left": "as the camera pans left", "right": "as the camera pans right"}
WEATHER_PHRASES = {"clear": "", "rain": "in the rain", "snow": "in the snow"}


@dataclass(frozen=True)
class Scene:
    """What stays the same for a while; ``subject`` is None when nobody is there."""

    subject: str | None
    colour: str
    setting: str
    light: str


@dataclass(frozen=True)
class StoryChunk:
    """One captioned span of ``blocks`` blocks: its scene, its action, and whether it begins with a cut."""

    scene: Scene
    action: str
    blocks: int
    caption: str
    cut: bool


@dataclass(frozen=True)
class Story:
    """One picture-book story."""

    start: Pose
    cloud: int  # x in cells of the first shot's cloud
    chunks: tuple[StoryChunk, ...]
    weather: str = "clear"
    camera: str = "still"


@dataclass(frozen=True)
class FrameState:
    """What one frame shows."""

    scene: Scene
    pose: Pose
    cloud: float


def make_caption(subject: str | None, colour: str | None, setting: str, light: str, action: str, *more: str) -> str:
    """The sentence that the network reads; without a colour it refers to a subject of an earlier chunk.

    ``more`` are phrases of weather and camera, where an edition has them.

    >>> make_caption("swan", "white", "lake", "sunset", "left")
    'A white swan moves left on the lake at sunset.'
    """
    where = " ".join(part for part in (SETTING_PHRASES[setting], LIGHT_PHRASES[light], *more) if part)
    if subject is None:
        return f"Nobody is {where}."
    who = f"A {colour} {subject}" if colour else f"The {subject}"
    return f"{who} {ACTION_PHRASES[action]} {where}."


def make_story(edition: Edition, seed: int, blocks: int) -> Story:
    """The story of a seed, ``blocks`` long; about half of the longer ones leave their scene and come back to it."""
    rng = random.Random(f"storybook-{seed}")
    scene, leave = _random_scene(rng, edition), _random_leave(rng, edition)
    acts = _acts(rng, scene, leave, blocks)
    stage = edition.stage
    starts = [x for x in range(stage.left, stage.right + 1) if (x - stage.middle) % edition.block == 0]
    start = Pose(rng.choice(starts), rng.choice((0, 0, stage.high)), rng.choice((-1, 1)))
    cloud = rng.randrange(-CLOUD_MARGIN, stage.width + CLOUD_MARGIN)
    return _story(rng, edition, acts, start, cloud)


def opening_story(edition: Edition, seed: int, blocks: int = 1) -> Story:
    """A story that begins as every film does: in the middle, facing right, with the cloud in its usual position.

    A caption says nothing of positions, so a first block, generated from its caption alone, has one possible position.
    """
    rng = random.Random(f"storybook-{seed}")
    scene = _random_scene(rng, edition)
    acts = _acts(rng, scene, _random_leave(rng, edition), blocks) if blocks > SHORT else [(scene, blocks)]
    return _story(rng, edition, acts, Pose(edition.stage.middle), CLOUD)


def returning_story(edition: Edition, seed: int, lead: int, away: int, back: int) -> Story:
    """A story whose subject is away for ``away`` blocks; the captions after its return do not name its colour."""
    rng = random.Random(f"returning-{seed}")
    scene, leave = _random_scene(rng, edition), _random_leave(rng, edition)
    acts = [(scene, lead), (leave(scene), away), (scene, back)]
    story = _story(rng, edition, acts, Pose(edition.stage.middle), CLOUD)
    last_cut = max(number for number, chunk in enumerate(story.chunks) if chunk.cut)
    chunks = [
        replace(
            chunk, caption=_chunk_caption(chunk.scene, chunk.action, number < last_cut, story.weather, story.camera)
        )
        for number, chunk in enumerate(story.chunks)
    ]
    return replace(story, chunks=tuple(chunks))


def _story(rng: random.Random, edition: Edition, acts: Sequence[tuple[Scene, int]], start: Pose, cloud: int) -> Story:
    weather, camera = _choice_of_several(rng, edition.weathers), _choice_of_several(rng, edition.cameras)
    return Story(start, cloud, tuple(_chunks(rng, edition, acts, start, weather, camera)), weather, camera)


def _random_scene(rng: random.Random, edition: Edition) -> Scene:
    lists = (edition.subjects, edition.colours, edition.settings, edition.lights)
    return Scene(*(rng.choice(names) for names in lists))


def _acts(rng: random.Random, scene: Scene, leave: Callable[[Scene], Scene], blocks: int) -> list[tuple[Scene, int]]:
    """One scene for ``blocks``; or, in half of the stories that are long enough, one that is left and comes back."""
    lead, away = rng.randint(4, 8), rng.randint(6, 9)
    if rng.random() < 0.5 and blocks >= lead + away + 2:
        return [(scene, lead), (leave(scene), away), (scene, blocks - lead - away)]
    return [(scene, blocks)]


def _random_leave(rng: random.Random, edition: Edition) -> Callable[[Scene], Scene]:
    """How a scene is left: its subject is gone, or another subject in another setting is shown."""
    empty, other = rng.random() < 0.5, _random_scene(rng, edition)

    def leave(scene: Scene) -> Scene:
        if empty or other.subject == scene.subject or other.setting == scene.setting:
            return replace(scene, subject=None)
        return other

    return leave


def _choice_of_several(rng: random.Random, names: Sequence[str]) -> str:
    """One of an edition's names; a single name uses up no random number."""
    return rng.choice(names) if len(names) > 1 else names[0]


def _chunk_caption(scene: Scene, action: str, named: bool, weather: str, camera: str) -> str:
    more = WEATHER_PHRASES[weather], CAMERA_PHRASES[camera]
    return make_caption(scene.subject, scene.colour if named else None, scene.setting, scene.light, action, *more)


def _chunks(
    rng: random.Random,
    edition: Edition,
    acts: Sequence[tuple[Scene, int]],
    start: Pose,
    weather: str,
    camera: str,
) -> Iterator[StoryChunk]:
    """The chunks of acts: 2 to 6 blocks each, actions that change something, a cut before every act but the first."""
    pose, earlier_scenes, action = start, set[Scene](), ""
    for number, (scene, blocks) in enumerate(acts):
        cut = number > 0
        if cut:
            pose, action = Pose(edition.stage.middle), ""
        while blocks:
            length = rng.randint(2, 5)
            length = blocks if blocks - length < 2 else length
            action = rng.choice(_possible_actions(edition, pose, action)) if scene.subject else "rest"
            named = scene not in earlier_scenes or rng.random() >= (UNNAMED_ON_RETURN if cut else UNNAMED)
            earlier_scenes.add(scene)
            yield StoryChunk(scene, action, length, _chunk_caption(scene, action, named, weather, camera), cut)
            for frame in range(length * edition.period):
                pose = move(pose, action, frame % edition.period, edition.period, edition.stage)
            blocks, cut = blocks - length, False


def _possible_actions(edition: Edition, pose: Pose, previous: str) -> list[str]:
    """The actions that would change something; nobody hops in the air."""
    stage = edition.stage
    no_effect = {"left": pose.x <= stage.left, "right": pose.x >= stage.right, "hop": pose.height > 0}
    return [action for action in edition.actions if action != previous and not no_effect.get(action)]


def frame_states(story: Story, edition: Edition) -> list[FrameState]:
    """What every frame of a story shows."""
    pose, cloud, states = story.start, float(story.cloud), []
    stage, period = edition.stage, edition.period
    for chunk in story.chunks:
        if chunk.cut:
            pose, cloud = Pose(stage.middle), float(CLOUD)
        for frame in range(chunk.blocks * period):
            pose = move(pose, chunk.action, frame % period, period, stage)
            cloud += 1 / period
            states.append(FrameState(chunk.scene, pose, _wrap(cloud, stage)))
    return states[FRAMES_PER_LATENT - 1 :]


def _wrap(cloud: float, stage: Stage) -> float:
    return (cloud + CLOUD_MARGIN) % (stage.width + 2 * CLOUD_MARGIN) - CLOUD_MARGIN
