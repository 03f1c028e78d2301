"""A small network that recognises what the picture book's frames show: who, in which colour, where, when, what happens.

    clip: 8 frames spread over a chunk, at half size  ->  a feature vector a frame
        each frame's    -> subject (or nobody), colour, setting, light
        all eight       -> action

It is trained on rendered stories (``training.objectives.probe_classification``) and compares generated frames with
their storyboard.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import avg_pool2d

from blockvid_cli.storybook.edition import Edition
from blockvid_cli.storybook.stories import Scene

CLIP_FRAMES = 8
FEATURES = 96
WIDTHS = (3, 24, 48, 64, 96)
FRAME_ATTRIBUTES = ("subject", "colour", "setting", "light")  # what a single frame shows
NOBODY = "nobody"


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
