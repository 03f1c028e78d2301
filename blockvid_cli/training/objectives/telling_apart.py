"""Telling apart: the probe learns to read the world's own frames, a little blurred and noisy as generated ones are."""

from __future__ import annotations

import torch
from torch.nn.functional import avg_pool2d, cross_entropy

from blockvid_cli.storybook.rendering import render_story
from blockvid_cli.storybook.edition import Edition
from blockvid_cli.storybook.probe import FRAME_ATTRIBUTES, Probe, ProbeReading, sample_clip, chunk_frames
from blockvid_cli.storybook.stories import make_story
from blockvid_cli.training.objectives.objective import tile_rows

CLIPS = 32  # a step


class LabelledClips:
    """The chunks of stories ``seeds`` as clips, and what each shows."""

    def __init__(self, probe: Probe, edition: Edition, seeds: range, blocks: int) -> None:
        clips, stills, actions = [], [], []
        for seed in seeds:
            story = make_story(edition, seed, blocks)
            frames, _ = render_story(story, edition)
            for chunk, span in zip(story.chunks, chunk_frames([c.blocks for c in story.chunks], edition), strict=True):
                clips.append((sample_clip(frames[span]).clamp(0, 1) * 255).round().to(torch.uint8))
                stills.append([probe.labels(chunk.scene)[name] for name in FRAME_ATTRIBUTES])
                seen = chunk.scene.subject is not None
                actions.append(probe.names["action"].index(chunk.action) if seen else -1)
        self.clips = torch.stack(clips)
        self.stills = dict(zip(FRAME_ATTRIBUTES, torch.tensor(stills).T, strict=True))
        self.actions = torch.tensor(actions)

    def accuracy(self, said: ProbeReading) -> dict[str, float]:
        """The share of right readings: of all frames for what every frame tells, of all clips for the action."""
        out = {}
        for name in FRAME_ATTRIBUTES:
            true = self.stills[name]
            out[name] = float((said.frame_labels[name] == true[:, None])[true >= 0].float().mean())
        out["action"] = float((said.action == self.actions)[self.actions >= 0].float().mean())
        return out


class ProbeClassification:
    """See the module."""

    def __init__(self, probe: Probe, learnt: LabelledClips, held_out: LabelledClips) -> None:
        self.module, self.learnt, self.held_out = probe, learnt, held_out

    def loss(self, step: int, progress: float) -> tuple[torch.Tensor, dict[str, float]]:
        """See ``Objective``."""
        dice = torch.Generator().manual_seed(step)
        chosen = torch.randint(len(self.learnt.clips), (CLIPS,), generator=dice)
        clips = _worn(self.learnt.clips[chosen].float() / 255, dice)
        stills, action, _ = self.module(clips)
        losses = [
            cross_entropy(logits.flatten(0, 1), true[chosen].repeat_interleave(logits.shape[1]), ignore_index=-1)
            for logits, true in ((stills[name], self.learnt.stills[name]) for name in FRAME_ATTRIBUTES)
        ]
        losses.append(cross_entropy(action, self.learnt.actions[chosen], ignore_index=-1))
        return torch.stack(losses).sum(), {}

    def figures(self) -> dict[str, float]:
        """Accuracies on held-out stories."""
        return self.held_out.accuracy(self.module.read(self.held_out.clips.float() / 255))

    def sample(self) -> torch.Tensor:
        """See ``Objective``: some of what is learnt from."""
        return tile_rows(list(self.learnt.clips[:4].float() / 255))


def _worn(clips: torch.Tensor, dice: torch.Generator) -> torch.Tensor:
    """Clips (B, F, 3, H, W) in 0..1, each a little noisy, and every other one blurred."""
    noise = 0.06 * torch.rand(len(clips), 1, 1, 1, 1, generator=dice) * torch.randn(clips.shape, generator=dice)
    blurred = avg_pool2d(clips.flatten(0, 1), 3, 1, 1, count_include_pad=False).view_as(clips)
    share = (torch.rand(len(clips), 1, 1, 1, 1, generator=dice) * 2 - 1).clamp(min=0)
    return clips * (1 - share) + blurred * share + noise
