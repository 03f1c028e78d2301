"""Renders the frames of a picture-book story: backdrop, cloud, shadow, subject, weather, and the camera's pan.

Rain and snow are a sheet of marks, one block high, repeated down the frame; it falls a cell (snow) or two (rain) a
latent frame, so that every block shows the same fall.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch.nn.functional import affine_grid, grid_sample

from blockvid_cli.storybook.edition import CELL, FRAMES_PER_LATENT, Edition
from blockvid_cli.storybook.settings import GROUND, LIGHTS, backdrop, backdrop_layers
from blockvid_cli.storybook.stories import FrameState, Scene, Story, frame_states
from blockvid_cli.storybook.subjects import GROUND_LINE, sprite

HALF_SPRITE = 3.25  # half the side of a subject's square, in cells
PAN = 0.12  # how far a panning camera turns aside, as a share of half the frame
SKY_PAN = 0.6  # the share of that by which the sky moves along
ROWS, COLUMNS = 3 * CELL, 5 * CELL  # of the sheet of rain or snow


@dataclass(frozen=True)
class Weather:
    """Marks on a sheet, their height and width in pixels, their opacity, and the cells they fall a latent frame."""

    marks: int
    size: tuple[int, int]
    opacity: float
    cells: int


WEATHERS = {"rain": Weather(5, (4, 1), 0.45, 2), "snow": Weather(6, (2, 2), 0.9, 1)}


def render_story(story: Story, edition: Edition, device: str = "cpu") -> tuple[torch.Tensor, torch.Tensor]:
    """Frames (F, 3, H, W) in 0..1 and the subject's share of each pixel (F, 1, H, W), from the story alone."""
    shots: list[list[FrameState]] = []
    for state in frame_states(story, edition):
        if not shots or shots[-1][0].scene != state.scene:
            shots.append([])
        shots[-1].append(state)
    width, first, parts = edition.size[0], 0, []
    pan = _pan(sum(map(len, shots)), story.camera).to(device)
    for shot in shots:
        offset = pan[first : first + len(shot)] * width / 2 if story.camera != "still" else None
        parts.append(_render_shot(shot, edition.size, device, offset))
        first += len(shot)
    frames, subject = (torch.cat(part) for part in zip(*parts, strict=True))
    frames = add_weather(frames, story.weather)
    return _through_camera(frames, pan, story.camera), _through_camera(subject, pan, story.camera)


def _render_shot(
    shot: Sequence[FrameState], size: tuple[int, int], device: str, offset: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The frames and subject shares of one scene; ``offset`` (F,) is how far the camera is turned, in pixels."""
    (width, height), scene = size, shot[0].scene
    light = LIGHTS[scene.light]
    cloud = torch.tensor([state.cloud * CELL for state in shot], device=device)
    if offset is None:
        frames = backdrop(scene.setting, scene.light, size).to(device).expand(len(shot), -1, -1, -1)
    else:
        frames, cloud = _parallax(scene, size, offset), cloud + SKY_PAN * offset
    frames = _blend(frames, _cloud(cloud, width, height), torch.tensor(light.cloud, device=device), 0.75)
    if scene.subject is None:
        return frames, torch.zeros_like(frames[:, :1])
    x = torch.tensor([state.pose.x * CELL for state in shot], device=device)
    lift = torch.tensor([(state.pose.height + state.pose.hop) * CELL for state in shot], device=device)
    facing = torch.tensor([float(state.pose.facing) for state in shot], device=device)
    half = HALF_SPRITE * CELL
    shadow = _shadow(x, lift, half, width, height)
    frames = _blend(frames, shadow, torch.tensor([0.1, 0.1, 0.16], device=device), 0.4)
    middle = GROUND * height - lift - GROUND_LINE * half
    layer = _place_sprite(sprite(scene.subject, scene.colour).to(device), x, middle, facing, half, width, height)
    colour, alpha = layer[:, :3], layer[:, 3:]
    return frames * (1 - alpha) + colour, alpha


def _pan(frames: int, camera: str) -> torch.Tensor:
    """How far the camera is turned aside in each frame (F,), in halves of the frame: eased to its side."""
    return {"still": 0.0, "left": -PAN, "right": PAN}[camera] * (1 - 0.97 ** torch.arange(frames))


def _parallax(scene: Scene, size: tuple[int, int], offset: torch.Tensor) -> torch.Tensor:
    """The land in front of a sky that moves along with the camera, as far things do: (F, 3, H, W)."""
    sky, land = (layer.to(offset.device) for layer in backdrop_layers(scene.setting, scene.light, size))
    theta = torch.eye(2, 3, device=offset.device).repeat(len(offset), 1, 1)
    theta[:, 0, 2] = -2 * SKY_PAN * offset / size[0]
    grid = affine_grid(theta, [len(offset), 3, size[1], size[0]], align_corners=False)
    moved_sky = grid_sample(sky.expand(len(offset), -1, -1, -1), grid, padding_mode="border", align_corners=False)
    return moved_sky * (1 - land[3:]) + land[:3]


def _through_camera(frames: torch.Tensor, pan: torch.Tensor, camera: str) -> torch.Tensor:
    """The part of each frame (F, C, H, W) that a panning camera shows; a still camera shows all."""
    if camera == "still":
        return frames
    theta = torch.zeros(len(frames), 2, 3, device=frames.device)
    theta[:, 0, 0] = theta[:, 1, 1] = 1 - PAN
    theta[:, 0, 2] = pan
    return grid_sample(frames, affine_grid(theta, list(frames.shape), align_corners=False), align_corners=False)


def _place_sprite(
    texture: torch.Tensor,
    x: torch.Tensor,
    y: torch.Tensor,
    facing: torch.Tensor,
    half: float,
    width: int,
    height: int,
) -> torch.Tensor:
    """A sprite (4, S, S) around (x, y) of each frame, in pixels: (F, 4, H, W)."""
    theta = torch.zeros(len(x), 2, 3, device=texture.device)
    theta[:, 0, 0] = facing * width / (2 * half)
    theta[:, 0, 2] = facing * (width / 2 - x) / half
    theta[:, 1, 1] = height / (2 * half)
    theta[:, 1, 2] = (height / 2 - y) / half
    grid = affine_grid(theta, [len(x), 4, height, width], align_corners=False)
    return grid_sample(texture.expand(len(x), -1, -1, -1), grid, align_corners=False)


def _blend(frames: torch.Tensor, share: torch.Tensor, colour: torch.Tensor, opacity: float) -> torch.Tensor:
    """Frames under one colour; share (F, 1, H, W) in 0..1."""
    share = share * opacity
    return frames * (1 - share) + colour.view(3, 1, 1) * share


def _pixel_grid(width: int, height: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    rows = torch.arange(height, device=device).view(1, 1, -1, 1) + 0.5
    columns = torch.arange(width, device=device).view(1, 1, 1, -1) + 0.5
    return columns, rows


def _shadow(x: torch.Tensor, lift: torch.Tensor, half: float, width: int, height: int) -> torch.Tensor:
    """A soft ellipse under the subject, smaller the higher it is: (F, 1, H, W)."""
    columns, rows = _pixel_grid(width, height, x.device)
    size = (1 - 1.6 * lift / height).clamp(min=0.3).view(-1, 1, 1, 1) * half
    across = (columns - x.view(-1, 1, 1, 1)) / (size * 0.95)
    down = (rows - GROUND * height) / (size * 0.16)
    return (1.5 - (across**2 + down**2)).clamp(0, 1)


def _cloud(x: torch.Tensor, width: int, height: int) -> torch.Tensor:
    """A cloud of three soft discs around x, in pixels: (F, 1, H, W)."""
    columns, rows = _pixel_grid(width, height, x.device)
    share = torch.zeros(len(x), 1, height, width, device=x.device)
    for dx, dy, radius in ((0.0, 0.0, 0.085), (-0.07, 0.025, 0.06), (0.075, 0.02, 0.065)):
        distance = (columns - x.view(-1, 1, 1, 1) - dx * width) ** 2 + (rows - (0.15 + dy) * height) ** 2
        share = torch.maximum(share, (1 + (radius * height - distance.sqrt()) / 2.5).clamp(0, 1))
    return share


def add_weather(frames: torch.Tensor, weather: str) -> torch.Tensor:
    """Frames (F, 3, H, W) in 0..1 with rain or snow; "clear" leaves them as they are."""
    if weather == "clear":
        return frames
    kind, (height, width) = WEATHERS[weather], frames.shape[2:]
    step = kind.cells * CELL // FRAMES_PER_LATENT
    sheet = _weather_sheet(weather).to(frames.device).repeat(-(-height // ROWS) + 1, -(-width // COLUMNS))[:, :width]
    starts = [(-step * number) % ROWS for number in range(len(frames))]
    share = torch.stack([sheet[start : start + height] for start in starts])[:, None] * kind.opacity
    return frames * (1 - share) + share


@lru_cache(maxsize=2)
def _weather_sheet(weather: str) -> torch.Tensor:
    """(ROWS, COLUMNS), 1 where a mark is; a mark that crosses an edge continues on the other side."""
    kind, generator = WEATHERS[weather], torch.Generator().manual_seed(3)
    sheet = torch.zeros(ROWS, COLUMNS)
    for _ in range(kind.marks):
        row, column = (int(torch.randint(size, (), generator=generator)) for size in (ROWS, COLUMNS))
        rows = [(row + i) % ROWS for i in range(kind.size[0])]
        columns = [(column + i) % COLUMNS for i in range(kind.size[1])]
        sheet[torch.tensor(rows)[:, None], torch.tensor(columns)] = 1
    return sheet
