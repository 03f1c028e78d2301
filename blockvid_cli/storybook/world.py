"""Stories of the picture book: who, where, when, what happens, and the frames of it, from a seed alone.

    seed -> Story(subject, colour, setting, light, chunks) -> poses, a frame each -> frames and subject masks

A story keeps its subject, colour, setting and light; its action changes from chunk to chunk.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

import torch
from torch.nn.functional import affine_grid, grid_sample

from blockvid_cli.storybook.actions import LEFT, RIGHT, Pose, move
from blockvid_cli.storybook.captions import caption
from blockvid_cli.storybook.edition import Edition
from blockvid_cli.storybook.settings import GROUND, LIGHTS, backdrop
from blockvid_cli.storybook.subjects import STANDS, sprite

REACH = 0.27  # half a subject's square, as a share of the height
PAN = 0.12  # how far a panning camera looks aside, as a share of half the picture
CLOUD_SPEED = 0.0035  # widths a frame


@dataclass(frozen=True)
class StoryChunk:
    """One captioned span: what happens, told in words, for how many blocks."""

    action: str
    blocks: int
    caption: str


@dataclass(frozen=True)
class Story:
    """One picture-book story."""

    subject: str
    colour: str
    setting: str
    light: str
    start: Pose
    cloud: float  # where the cloud begins, share of the width
    chunks: tuple[StoryChunk, ...]
    camera: str = "still"

    @property
    def actions(self) -> list[str]:
        """The action of each block."""
        return [chunk.action for chunk in self.chunks for _ in range(chunk.blocks)]


def tell(edition: Edition, seed: int, blocks: int) -> Story:
    """The story of a seed, ``blocks`` long; chunks are 2 to 5 blocks, the last perhaps fewer."""
    dice = random.Random(f"storybook-{seed}")
    subject, colour = dice.choice(edition.subjects), dice.choice(edition.colours)
    setting, light = dice.choice(edition.settings), dice.choice(edition.lights)
    camera = dice.choice(edition.cameras) if len(edition.cameras) > 1 else edition.cameras[0]
    chunks: list[StoryChunk] = []
    left = blocks
    while left:
        length = min(left, dice.randint(2, 5))
        action = dice.choice([a for a in edition.actions if not chunks or a != chunks[-1].action])
        words = caption(dice, subject, colour, setting, light, action, camera)
        chunks.append(StoryChunk(action, length, words))
        left -= length
    start = Pose(dice.choice((LEFT, 0.5, RIGHT)), facing=dice.choice((-1, 1)) if chunks[0].action in ("rest",) else 1)
    return Story(subject, colour, setting, light, start, dice.choice((0.1, 0.4, 0.7)), tuple(chunks), camera)


def opening(edition: Edition, seed: int) -> Story:
    """The first block of a story that begins in the middle, facing right, under a cloud that is always there.

    A caption says nothing of places, so a first block, drawn from its caption alone, has one place to be.
    """
    return replace(tell(edition, seed, 1), start=Pose(0.5), cloud=0.4)


def poses(story: Story, edition: Edition) -> list[Pose]:
    """The pose in every frame of the story."""
    pose, out = story.start, []
    for number, action in enumerate(story.actions):
        frames = edition.block_frames(number)
        late = 4 * edition.block - len(frames)  # the first block lacks three frames
        for frame in range(len(frames)):
            pose = move(pose, action, frame + late, 4 * edition.block)
            out.append(pose)
    return out


def draw(story: Story, edition: Edition, device: str = "cpu") -> tuple[torch.Tensor, torch.Tensor]:
    """Frames (F, 3, H, W) in 0..1 and the subject's share of each pixel (F, 1, H, W), from the story alone."""
    width, height = edition.size
    track = poses(story, edition)
    picture = backdrop(story.setting, story.light, edition.size).to(device)
    cloud = torch.tensor([(story.cloud + CLOUD_SPEED * i + 0.2) % 1.4 - 0.2 for i in range(len(track))], device=device)
    frames = picture.expand(len(track), -1, -1, -1)
    frames = _veiled(frames, _cloud(cloud, width, height), _cloud_colour(story.light).to(device), 0.75)
    x = torch.tensor([p.x * width for p in track], device=device)
    lift = torch.tensor([(p.height + p.hop) * height for p in track], device=device)
    facing = torch.tensor([float(p.facing) for p in track], device=device)
    frames = _veiled(frames, _shadow(x, lift, width, height), torch.tensor([0.1, 0.1, 0.16], device=device), 0.4)
    reach = REACH * height
    middle = GROUND * height - lift - STANDS * reach
    layer = _placed(sprite(story.subject, story.colour).to(device), x, middle, facing, reach, width, height)
    tint = 0.3 * torch.tensor(LIGHTS[story.light].tint, device=device).view(3, 1, 1) + 0.7
    colour, alpha = layer[:, :3] * tint, layer[:, 3:]
    return _filmed(frames * (1 - alpha) + colour, story.camera), _filmed(alpha, story.camera)


def _filmed(pictures: torch.Tensor, camera: str) -> torch.Tensor:
    """Pictures (F, C, H, W) through the camera: one that pans sees a part of each, eased to its side."""
    if camera == "still":
        return pictures
    share = 1 - 0.97 ** torch.arange(len(pictures), device=pictures.device)
    theta = torch.zeros(len(pictures), 2, 3, device=pictures.device)
    theta[:, 0, 0] = theta[:, 1, 1] = 1 - PAN
    theta[:, 0, 2] = {"left": -PAN, "right": PAN}[camera] * share
    return grid_sample(pictures, affine_grid(theta, list(pictures.shape), align_corners=False), align_corners=False)


def _placed(
    texture: torch.Tensor,
    x: torch.Tensor,
    y: torch.Tensor,
    facing: torch.Tensor,
    reach: float,
    width: int,
    height: int,
) -> torch.Tensor:
    """A sprite (4, S, S) around (x, y) of each frame, in pixels: (F, 4, H, W)."""
    theta = torch.zeros(len(x), 2, 3, device=texture.device)
    theta[:, 0, 0] = facing * width / (2 * reach)
    theta[:, 0, 2] = facing * (width / 2 - x) / reach
    theta[:, 1, 1] = height / (2 * reach)
    theta[:, 1, 2] = (height / 2 - y) / reach
    grid = affine_grid(theta, [len(x), 4, height, width], align_corners=False)
    return grid_sample(texture.expand(len(x), -1, -1, -1), grid, align_corners=False)


def _veiled(frames: torch.Tensor, share: torch.Tensor, colour: torch.Tensor, strength: float) -> torch.Tensor:
    """Frames under a veil of one colour; share (F, 1, H, W) in 0..1."""
    share = share * strength
    return frames * (1 - share) + colour.view(3, 1, 1) * share


def _pixels(width: int, height: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    rows = torch.arange(height, device=device).view(1, 1, -1, 1) + 0.5
    columns = torch.arange(width, device=device).view(1, 1, 1, -1) + 0.5
    return columns, rows


def _shadow(x: torch.Tensor, lift: torch.Tensor, width: int, height: int) -> torch.Tensor:
    """A soft ellipse under the subject, smaller the higher it is: (F, 1, H, W)."""
    columns, rows = _pixels(width, height, x.device)
    size = (1 - 1.6 * lift / height).clamp(min=0.3).view(-1, 1, 1, 1) * REACH * height
    across = (columns - x.view(-1, 1, 1, 1)) / (size * 0.95)
    down = (rows - GROUND * height) / (size * 0.16)
    return (1.5 - (across**2 + down**2)).clamp(0, 1)


def _cloud(x: torch.Tensor, width: int, height: int) -> torch.Tensor:
    """A cloud of three soft discs, drifting: (F, 1, H, W)."""
    columns, rows = _pixels(width, height, x.device)
    share = torch.zeros(len(x), 1, height, width, device=x.device)
    for dx, dy, radius in ((0.0, 0.0, 0.085), (-0.07, 0.025, 0.06), (0.075, 0.02, 0.065)):
        away = (columns - (x.view(-1, 1, 1, 1) + dx) * width) ** 2 + (rows - (0.15 + dy) * height) ** 2
        share = torch.maximum(share, (1 + (radius * height - away.sqrt()) / 2.5).clamp(0, 1))
    return share


def _cloud_colour(light: str) -> torch.Tensor:
    return {
        "day": torch.tensor([1.0, 1.0, 1.0]),
        "sunset": torch.tensor([1.0, 0.82, 0.74]),
        "night": torch.tensor([0.36, 0.40, 0.56]),
    }[light]
