"""The frames of a picture-book story: backdrop, cloud, shadow, subject, weather, and the camera before it all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch.nn.functional import affine_grid, grid_sample

from blockvid_cli.models.tiny_vae import FOLD, PATCH
from blockvid_cli.storybook.edition import Edition
from blockvid_cli.storybook.settings import GROUND, LIGHTS, backdrop, backdrop_layers
from blockvid_cli.storybook.stories import FrameState, Scene, Story, frame_states
from blockvid_cli.storybook.subjects import GROUND_LINE, sprite

ROWS, COLUMNS = 3 * PATCH, 5 * PATCH  # of the sheet


@dataclass(frozen=True)
class Falling:
    """Marks a sheet, how tall and wide in pixels, how strong, and how many cells they fall a latent frame."""

    marks: int
    size: tuple[int, int]
    strength: float
    cells: int


WEATHERS = {"rain": Falling(5, (4, 1), 0.45, 2), "snow": Falling(6, (2, 2), 0.9, 1)}


def add_weather(frames: torch.Tensor, weather: str) -> torch.Tensor:
    """Frames (F, 3, H, W) in 0..1 with what falls through them; "clear" leaves them as they are."""
    if weather == "clear":
        return frames
    what, (height, width) = WEATHERS[weather], frames.shape[2:]
    step = what.cells * PATCH // FOLD
    sheet = _sheet(weather).to(frames.device).repeat(-(-height // ROWS) + 1, -(-width // COLUMNS))[:, :width]
    starts = [(-step * number) % ROWS for number in range(len(frames))]
    share = torch.stack([sheet[start : start + height] for start in starts])[:, None] * what.strength
    return frames * (1 - share) + share


@lru_cache(maxsize=2)
def _sheet(weather: str) -> torch.Tensor:
    """(ROWS, COLUMNS), 1 where a mark is; marks go on at the other side where they cross an edge."""
    what, dice = WEATHERS[weather], torch.Generator().manual_seed(3)
    sheet = torch.zeros(ROWS, COLUMNS)
    for _ in range(what.marks):
        row, column = (int(torch.randint(size, (), generator=dice)) for size in (ROWS, COLUMNS))
        rows = [(row + i) % ROWS for i in range(what.size[0])]
        columns = [(column + i) % COLUMNS for i in range(what.size[1])]
        sheet[torch.tensor(rows)[:, None], torch.tensor(columns)] = 1
    return sheet


REACH = 3.25  # half a subject's square, in cells
PAN = 0.12  # how far a panning camera looks aside, as a share of half the picture
FAR = 0.6  # the share of that by which the sky goes along


def render_story(story: Story, edition: Edition, device: str = "cpu") -> tuple[torch.Tensor, torch.Tensor]:
    """Frames (F, 3, H, W) in 0..1 and the subject's share of each pixel (F, 1, H, W), from the story alone."""
    shots: list[list[FrameState]] = []
    for still in frame_states(story, edition):
        if not shots or shots[-1][0].scene != still.scene:
            shots.append([])
        shots[-1].append(still)
    width, first, drawn = edition.size[0], 0, []
    pan = _pan(sum(map(len, shots)), story.camera).to(device)
    for shot in shots:
        aside = pan[first : first + len(shot)] * width / 2 if story.camera != "still" else None
        drawn.append(_draw(shot, edition.size, device, aside))
        first += len(shot)
    frames, subject = (torch.cat(parts) for parts in zip(*drawn, strict=True))
    return _filmed(add_weather(frames, story.weather), pan, story.camera), _filmed(subject, pan, story.camera)


def _draw(
    shot: Sequence[FrameState], size: tuple[int, int], device: str, aside: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The frames and subject shares of stills of one scene; ``aside`` (F,) is how far the camera looks, in pixels."""
    (width, height), scene = size, shot[0].scene
    light = LIGHTS[scene.light]
    cloud = torch.tensor([still.cloud * PATCH for still in shot], device=device)
    if aside is None:
        frames = backdrop(scene.setting, scene.light, size).to(device).expand(len(shot), -1, -1, -1)
    else:
        frames, cloud = _parallax(scene, size, aside), cloud + FAR * aside
    frames = _veiled(frames, _cloud(cloud, width, height), torch.tensor(light.cloud, device=device), 0.75)
    if scene.subject is None:
        return frames, torch.zeros_like(frames[:, :1])
    x = torch.tensor([still.pose.x * PATCH for still in shot], device=device)
    lift = torch.tensor([(still.pose.height + still.pose.hop) * PATCH for still in shot], device=device)
    facing = torch.tensor([float(still.pose.facing) for still in shot], device=device)
    reach = REACH * PATCH
    shadow = _shadow(x, lift, reach, width, height)
    frames = _veiled(frames, shadow, torch.tensor([0.1, 0.1, 0.16], device=device), 0.4)
    middle = GROUND * height - lift - GROUND_LINE * reach
    layer = _placed(sprite(scene.subject, scene.colour).to(device), x, middle, facing, reach, width, height)
    colour, alpha = layer[:, :3], layer[:, 3:]
    return frames * (1 - alpha) + colour, alpha


def _pan(frames: int, camera: str) -> torch.Tensor:
    """How far the camera looks aside in each frame (F,), in halves of the picture: eased to its side."""
    return {"still": 0.0, "left": -PAN, "right": PAN}[camera] * (1 - 0.97 ** torch.arange(frames))


def _parallax(scene: Scene, size: tuple[int, int], aside: torch.Tensor) -> torch.Tensor:
    """The land before a sky that goes along with the camera, as far things do: (F, 3, H, W)."""
    sky, land = (layer.to(aside.device) for layer in backdrop_layers(scene.setting, scene.light, size))
    theta = torch.eye(2, 3, device=aside.device).repeat(len(aside), 1, 1)
    theta[:, 0, 2] = -2 * FAR * aside / size[0]
    grid = affine_grid(theta, [len(aside), 3, size[1], size[0]], align_corners=False)
    moved = grid_sample(sky.expand(len(aside), -1, -1, -1), grid, padding_mode="border", align_corners=False)
    return moved * (1 - land[3:]) + land[:3]


def _filmed(pictures: torch.Tensor, pan: torch.Tensor, camera: str) -> torch.Tensor:
    """Pictures (F, C, H, W) through the camera: one that pans sees a part of each."""
    if camera == "still":
        return pictures
    theta = torch.zeros(len(pictures), 2, 3, device=pictures.device)
    theta[:, 0, 0] = theta[:, 1, 1] = 1 - PAN
    theta[:, 0, 2] = pan
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


def _shadow(x: torch.Tensor, lift: torch.Tensor, reach: float, width: int, height: int) -> torch.Tensor:
    """A soft ellipse under the subject, smaller the higher it is: (F, 1, H, W)."""
    columns, rows = _pixels(width, height, x.device)
    size = (1 - 1.6 * lift / height).clamp(min=0.3).view(-1, 1, 1, 1) * reach
    across = (columns - x.view(-1, 1, 1, 1)) / (size * 0.95)
    down = (rows - GROUND * height) / (size * 0.16)
    return (1.5 - (across**2 + down**2)).clamp(0, 1)


def _cloud(x: torch.Tensor, width: int, height: int) -> torch.Tensor:
    """A cloud of three soft discs around x, in pixels: (F, 1, H, W)."""
    columns, rows = _pixels(width, height, x.device)
    share = torch.zeros(len(x), 1, height, width, device=x.device)
    for dx, dy, radius in ((0.0, 0.0, 0.085), (-0.07, 0.025, 0.06), (0.075, 0.02, 0.065)):
        away = (columns - x.view(-1, 1, 1, 1) - dx * width) ** 2 + (rows - (0.15 + dy) * height) ** 2
        share = torch.maximum(share, (1 + (radius * height - away.sqrt()) / 2.5).clamp(0, 1))
    return share
