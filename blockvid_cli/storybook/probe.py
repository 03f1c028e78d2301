"""A small network that recognises what the picture book's frames show: who, in which colour, where, when, what happens.

    clip: 8 frames spread over a chunk, at half size  ->  a feature vector a frame
        each frame's    -> subject (or nobody), colour, setting, light
        all eight       -> action

It is trained on rendered stories (``training.objectives.probe_classification``) and compares generated frames with
their storyboard.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.nn.functional import avg_pool2d

from blockvid_cli.storyboard.plan import PlannedChunk
from blockvid_cli.storybook.edition import CELL, Edition, Pose, move
from blockvid_cli.storybook.settings import backdrop
from blockvid_cli.storybook.stories import ACTION_PHRASES, Scene

CLIP_FRAMES = 8
FEATURES = 96
WIDTHS = (3, 24, 48, 64, 96)
FRAME_ATTRIBUTES = ("subject", "colour", "setting", "light")  # what a single frame shows
NOBODY = "nobody"
LEAST_SHARE = 0.1  # of a name that a picture shows; a test measures how many pictures it takes for another
DIFFERENT = 0.18  # of a pixel's channel, 0..1, from the backdrop
CLOUDS = 0.28  # of the height, from the top


@dataclass(frozen=True)
class ProbeReading:
    """The indices of the recognised names in B clips: (B, CLIP_FRAMES) of each frame attribute, (B,) of the action."""

    frame_labels: dict[str, torch.Tensor]
    action: torch.Tensor
    features: torch.Tensor  # (B, FEATURES), the mean over a clip's frames


class Probe(nn.Module):
    """The classifier; its names and the size of its frames are an edition's."""

    def __init__(self, edition: Edition) -> None:
        super().__init__()
        self.names = {
            "subject": (*edition.subjects, NOBODY),
            "colour": edition.colours,
            "setting": edition.settings,
            "light": edition.lights,
            "action": edition.actions,
        }
        stages = [
            nn.Sequential(nn.Conv2d(a, b, 3, 2, 1), nn.GroupNorm(8, b), nn.SiLU())
            for a, b in itertools.pairwise(WIDTHS)
        ]
        self.see = nn.Sequential(*stages, nn.Flatten(), nn.LazyLinear(FEATURES), nn.SiLU())  # weights' name on disk
        self.heads = nn.ModuleDict({name: nn.Linear(FEATURES, len(self.names[name])) for name in FRAME_ATTRIBUTES})
        self.action = nn.Sequential(
            nn.Linear(CLIP_FRAMES * FEATURES, 128), nn.SiLU(), nn.Linear(128, len(self.names["action"]))
        )
        self.see(torch.zeros(1, 3, edition.size[1] // 2, edition.size[0] // 2))

    def forward(self, clips: torch.Tensor) -> tuple[dict[str, torch.Tensor], torch.Tensor, torch.Tensor]:
        """Clips (B, CLIP_FRAMES, 3, H/2, W/2) -> logits of the frame attributes, of the action; features (B, F, D)."""
        features = self.see(clips.flatten(0, 1) - 0.5).unflatten(0, clips.shape[:2])
        frame_logits = {name: head(features) for name, head in self.heads.items()}
        return frame_logits, self.action(features.flatten(1)), features

    @torch.inference_mode()
    def read(self, clips: torch.Tensor) -> ProbeReading:
        """The most likely names for clips (B, CLIP_FRAMES, 3, H/2, W/2)."""
        parts = [self(part) for part in clips.split(32)]
        return ProbeReading(
            {name: torch.cat([part[0][name].argmax(-1) for part in parts]) for name in FRAME_ATTRIBUTES},
            torch.cat([part[1].argmax(-1) for part in parts]),
            torch.cat([part[2].mean(1) for part in parts]),
        )

    @torch.inference_mode()
    def read_frames(self, frames: torch.Tensor) -> dict[str, torch.Tensor]:
        """The most likely names for single frames (N, 3, H/2, W/2): (N,) of each attribute."""
        features = self.see(frames - 0.5)
        return {name: head(features).argmax(-1) for name, head in self.heads.items()}

    @torch.inference_mode()
    def contradictions(self, picture: torch.Tensor, sentence: str) -> dict[str, str]:
        """What a picture (3, H, W) shows otherwise than a sentence of the picture book says, by attribute.

        The sentence asks for the names that are words of it; the picture shows another where the probe gives the one
        asked for less than ``LEAST_SHARE``.
        """
        words, shown = re.findall(r"[a-z]+", sentence.lower()), dict[str, str]()
        features = self.see(half_size(picture[None]) - 0.5)
        for attribute, head in self.heads.items():
            share, names = head(features)[0].softmax(-1), self.names[attribute]
            asked = [number for number, name in enumerate(names) if name in words]
            if asked and float(share[asked].max()) < LEAST_SHARE:
                shown[attribute] = names[int(share.argmax())]
        if shown.get("subject") == NOBODY:
            shown.pop("colour", None)
        return shown

    def places(self, frames: torch.Tensor) -> torch.Tensor:
        """Where the subject is in frames (F, 3, H, W), in pixels from the left and the top: (F, 2).

        It is the middle of all that differs from the backdrop that the probe recognizes, below the clouds.
        """
        reading, (height, width) = self.read_frames(half_size(frames)), frames.shape[2:]
        settings, lights = self.names["setting"], self.names["light"]
        rows, columns = torch.meshgrid(torch.arange(float(height)), torch.arange(float(width)), indexing="ij")
        middles = []
        for frame, setting, light in zip(frames, reading["setting"].tolist(), reading["light"].tolist(), strict=True):
            scene = backdrop(settings[setting], lights[light], (width, height))
            share = ((frame - scene).abs().amax(0) > DIFFERENT).float() * (rows >= CLOUDS * height)
            middles.append(torch.stack([(grid * share).sum() for grid in (columns, rows)]) / share.sum().clamp(min=1))
        return torch.stack(middles)

    def labels(self, scene: Scene) -> dict[str, int]:
        """The indices of a scene's names; a scene without a subject has no colour (-1)."""
        names = {
            "subject": scene.subject or NOBODY,
            "colour": scene.colour,
            "setting": scene.setting,
            "light": scene.light,
        }
        return {
            name: -1 if name == "colour" and scene.subject is None else self.names[name].index(value)
            for name, value in names.items()
        }


def sample_clip(frames: torch.Tensor) -> torch.Tensor:
    """CLIP_FRAMES frames spread evenly over frames (F, 3, H, W), at half size: (CLIP_FRAMES, 3, H/2, W/2)."""
    return half_size(frames[torch.linspace(0, len(frames) - 1, CLIP_FRAMES).round().long()])


def half_size(frames: torch.Tensor) -> torch.Tensor:
    """Frames (F, 3, H, W) at half size."""
    return avg_pool2d(frames.float(), 2)


def chunk_frames(lengths: Sequence[int], edition: Edition) -> list[slice]:
    """The pixel frames of consecutive chunks, whose lengths are counted in blocks."""
    slices, first = [], 0
    for length in lengths:
        slices.append(slice(edition.block_frames(first).start, edition.block_frames(first + length - 1).stop))
        first += length
    return slices


def end_places(
    chunks: Sequence[PlannedChunk], edition: Edition, starts: Mapping[int, float] | None = None
) -> dict[int, float]:
    """Where the actions that their prompts name lead the subject by the end of each chunk, in pixels from the left.

    Args:
        starts: where it is at the beginning of some chunks, by number; else in the middle when a shot begins.
    """
    places, pose = dict[int, float](), Pose(edition.stage.middle)
    for chunk in chunks:
        if chunk.number in (starts or {}):
            pose = replace(pose, x=(starts or {})[chunk.number] / CELL)
        elif chunk.cut:
            pose = Pose(edition.stage.middle)
        action = next((name for name, phrase in ACTION_PHRASES.items() if phrase in chunk.prompt), "rest")
        for frame in range(chunk.end_frame - chunk.first_frame):
            pose = move(pose, action, frame % edition.period, edition.period, edition.stage)
        places[chunk.number] = pose.x * CELL
    return places
