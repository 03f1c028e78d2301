"""What the probe saw of one film, right or wrong, and what many films come to.

frames, story  ->  look  ->  Seen      1 right, 0 wrong, -1 where there is nothing to read
many Seen      ->  accuracy, drift, first blocks, returns, flicker
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from blockvid_cli.storybook.edition import Edition
from blockvid_cli.storybook.probe import FRAME_ATTRIBUTES, Probe, sample_clip, half_size, chunk_frames
from blockvid_cli.storybook.stories import Story

Shares = dict[str, float | None]


@dataclass(frozen=True)
class Seen:
    """What was read of one film.

    Args:
        stills: for each attribute (chunks, frames of a clip).
        action: (chunks,).
        blocks: for each attribute (blocks,), of each block's last frame.
        features: (chunks, D) of the probe.
        changes: the mean change from frame to frame at block borders, and inside blocks.
    """

    stills: dict[str, torch.Tensor]
    action: torch.Tensor
    blocks: dict[str, torch.Tensor]
    features: torch.Tensor
    changes: tuple[float, float]

    def only(self, chunks: slice) -> Seen:
        """What was read of some chunks."""
        stills = {name: value[chunks] for name, value in self.stills.items()}
        return replace(self, stills=stills, action=self.action[chunks])


def look(probe: Probe, edition: Edition, story: Story, frames: torch.Tensor) -> Seen:
    """Reads the frames (F, 3, H, W) of a film against its story; frames beyond the story's end do not count."""
    lengths = [chunk.blocks for chunk in story.chunks]
    owners = [number for number, count in enumerate(lengths) for _ in range(count)]
    truths = [probe.labels(chunk.scene) for chunk in story.chunks]
    true = {name: torch.tensor([truth[name] for truth in truths]) for name in FRAME_ATTRIBUTES}
    acts = [chunk.action if chunk.scene.subject and chunk.blocks > 1 else "" for chunk in story.chunks]
    actions = [probe.names["action"].index(action) if action else -1 for action in acts]
    said = probe.read(torch.stack([sample_clip(frames[span]) for span in chunk_frames(lengths, edition)]))
    blocks = chunk_frames([1] * len(owners), edition)
    last = probe.read_frames(half_size(frames[[span.stop - 1 for span in blocks]]))
    return Seen(
        {name: _right(said.frame_labels[name], true[name][:, None]) for name in FRAME_ATTRIBUTES},
        _right(said.action, torch.tensor(actions)),
        {name: _right(last[name], true[name][owners]) for name in FRAME_ATTRIBUTES},
        said.features,
        _changes(frames[: blocks[-1].stop], [span.start for span in blocks[1:]]),
    )


def accuracy(films: Sequence[Seen]) -> Shares:
    """The share of right readings of each attribute, over all films."""
    out = {name: _share([film.stills[name] for film in films]) for name in FRAME_ATTRIBUTES}
    return {**out, "action": _share([film.action for film in films])}


def ends(story: Story, blocks: int) -> tuple[slice, slice]:
    """The chunks that begin within the first ``blocks`` blocks, and those that end within the last."""
    starts = [0, *itertools.accumulate(chunk.blocks for chunk in story.chunks)]
    first = sum(start < blocks for start in starts[:-1])
    last = sum(end <= starts[-1] - blocks for end in starts[1:])
    return slice(0, first), slice(last, None)


def ratios(last: Shares, first: Shares) -> Shares:
    """Each share over another; None where there is nothing to compare."""
    return {
        name: round(last[name] / first[name], 4) if first[name] and last[name] is not None else None for name in last
    }


def of_blocks(films: Sequence[Seen], blocks: slice) -> Shares:
    """The accuracy of some blocks of each film."""
    return {name: _share([film.blocks[name][blocks] for film in films]) for name in FRAME_ATTRIBUTES}


def looks(films: Sequence[Seen], blocks: slice) -> float | None:
    """The share of some blocks of each film that show the right subject in the right colour."""
    both = [(film.blocks["subject"] == 1) & (film.blocks["colour"] == 1) for film in films]
    return _share([shown[blocks].long() for shown in both])


def flicker(films: Sequence[Seen]) -> float | None:
    """The mean change at block borders over that inside blocks."""
    border, inner = (sum(film.changes[n] for film in films) for n in (0, 1))
    return round(border / inner, 3) if inner else None


def _right(said: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    return torch.where(true < 0, -1, (said == true).long())


def _share(values: Sequence[torch.Tensor]) -> float | None:
    flat = torch.cat([value.flatten() for value in values])
    told = flat[flat >= 0].float()
    return round(float(told.mean()), 4) if len(told) else None


def _changes(frames: torch.Tensor, borders: Sequence[int]) -> tuple[float, float]:
    changes = torch.stack([(b - a).abs().mean() for a, b in itertools.pairwise(frames)])
    at = torch.zeros(len(changes), dtype=torch.bool)
    at[torch.tensor(borders, dtype=torch.long) - 1] = True
    return (float(changes[at].mean()) if at.any() else 0.0), float(changes[~at].mean())
