"""Probe classification: the probe learns to recognise what rendered clips show, a little blurred and noisy."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn.functional import avg_pool2d, cross_entropy

from blockvid_cli.storybook.edition import Edition
from blockvid_cli.storybook.probe import FRAME_ATTRIBUTES, Probe, ProbeReading, chunk_frames, sample_clip
from blockvid_cli.storybook.rendering import render_story
from blockvid_cli.storybook.stories import make_story
from blockvid_cli.training.objectives import Losses, LossPart, tile_rows

BATCH = 32  # clips a step


class LabelledClips:
    """The chunks of stories ``seeds`` as clips, with the label of each attribute; -1 where there is none."""

    def __init__(self, probe: Probe, edition: Edition, seeds: range, blocks: int) -> None:
        clips, labels, actions = [], [], []
        for seed in seeds:
            story = make_story(edition, seed, blocks)
            frames, _ = render_story(story, edition)
            spans = chunk_frames([chunk.blocks for chunk in story.chunks], edition)
            for chunk, span in zip(story.chunks, spans, strict=True):
                clips.append((sample_clip(frames[span]).clamp(0, 1) * 255).round().to(torch.uint8))
                labels.append([probe.labels(chunk.scene)[name] for name in FRAME_ATTRIBUTES])
                actions.append(probe.names["action"].index(chunk.action) if chunk.scene.subject is not None else -1)
        self.clips = torch.stack(clips)  # (N, CLIP_FRAMES, 3, H/2, W/2)
        self.frame_labels = dict(zip(FRAME_ATTRIBUTES, torch.tensor(labels).T, strict=True))
        self.actions = torch.tensor(actions)

    def accuracy(self, reading: ProbeReading) -> dict[str, float]:
        """The share of right labels: over all frames for frame attributes, over all clips for the action."""
        shares = {}
        for name in FRAME_ATTRIBUTES:
            labels = self.frame_labels[name]
            shares[name] = float((reading.frame_labels[name] == labels[:, None])[labels >= 0].float().mean())
        shares["action"] = float((reading.action == self.actions)[self.actions >= 0].float().mean())
        return shares


class ProbeClassification:
    """The cross-entropies of all attributes, added up."""

    def __init__(
        self,
        probe: Probe,
        data: LabelledClips,
        held_out: LabelledClips,
        optimizers: Sequence[torch.optim.Optimizer],
    ) -> None:
        self.probe, self.data, self.held_out, self.optimizers = probe, data, held_out, optimizers

    def losses(self) -> Sequence[LossPart]:
        """One part: the probe."""
        return [LossPart("probe", self.probe, self.optimizers, self.loss)]

    def loss(self, step: int, progress: float) -> Losses:
        """The loss of a batch of clips."""
        generator = torch.Generator().manual_seed(step)
        chosen = torch.randint(len(self.data.clips), (BATCH,), generator=generator)
        clips = _degrade(self.data.clips[chosen].float() / 255, generator)
        frame_logits, action_logits, _ = self.probe(clips)
        losses = [
            cross_entropy(logits.flatten(0, 1), labels[chosen].repeat_interleave(logits.shape[1]), ignore_index=-1)
            for logits, labels in ((frame_logits[name], self.data.frame_labels[name]) for name in FRAME_ATTRIBUTES)
        ]
        losses.append(cross_entropy(action_logits, self.data.actions[chosen], ignore_index=-1))
        yield torch.stack(losses).sum(), {}

    def evaluate(self) -> dict[str, float]:
        """Accuracies on held-out stories."""
        return self.held_out.accuracy(self.probe.read(self.held_out.clips.float() / 255))

    def sample(self) -> torch.Tensor:
        """Some training clips; a probe generates nothing."""
        return tile_rows(list(self.data.clips[:4].float() / 255))


def _degrade(clips: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Clips (B, F, 3, H, W) in 0..1, each a little noisy, and every other one blurred, as generated ones are."""
    amount = 0.06 * torch.rand(len(clips), 1, 1, 1, 1, generator=generator)
    noise = amount * torch.randn(clips.shape, generator=generator)
    blurred = avg_pool2d(clips.flatten(0, 1), 3, 1, 1, count_include_pad=False).view_as(clips)
    share = (torch.rand(len(clips), 1, 1, 1, 1, generator=generator) * 2 - 1).clamp(min=0)
    return clips * (1 - share) + blurred * share + noise
