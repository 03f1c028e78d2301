"""What the probe reads from a film, right or wrong, and what the readings of many films come to.

frames, story  ->  probe_film  ->  ProbeScores      1 right, 0 wrong, -1 where there is nothing to read
many ProbeScores  ->  accuracy, drift, first blocks, returns, flicker, Fréchet distance
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from blockvid_cli.storybook.edition import Edition
from blockvid_cli.storybook.probe import FRAME_ATTRIBUTES, Probe, chunk_frames, half_size, sample_clip
from blockvid_cli.storybook.stories import Story

Shares = dict[str, float | None]


@dataclass(frozen=True)
class ProbeScores:
    """The readings of one film.

    Args:
        frames: for each attribute (chunks, frames of a clip).
        action: (chunks,).
        blocks: for each attribute (blocks,), of each block's last frame.
        features: (chunks, D) of the probe.
        changes: the mean change from frame to frame at block borders, and inside blocks.
    """

    frames: dict[str, torch.Tensor]
    action: torch.Tensor
    blocks: dict[str, torch.Tensor]
    features: torch.Tensor
    changes: tuple[float, float]

    def select(self, chunks: slice) -> ProbeScores:
        """Returns the readings of some chunks."""
        frames = {name: value[chunks] for name, value in self.frames.items()}
        return replace(self, frames=frames, action=self.action[chunks])


def probe_film(probe: Probe, edition: Edition, story: Story, frames: torch.Tensor) -> ProbeScores:
    """Reads the frames (F, 3, H, W) of a film against its story; frames beyond the story's end do not count."""
    lengths = [chunk.blocks for chunk in story.chunks]
    chunk_of_block = [number for number, count in enumerate(lengths) for _ in range(count)]
    labels = [probe.labels(chunk.scene) for chunk in story.chunks]
    expected = {name: torch.tensor([label[name] for label in labels]) for name in FRAME_ATTRIBUTES}
    acts = [chunk.action if chunk.scene.subject and chunk.blocks > 1 else "" for chunk in story.chunks]
    actions = [probe.names["action"].index(action) if action else -1 for action in acts]
    reading = probe.read(torch.stack([sample_clip(frames[span]) for span in chunk_frames(lengths, edition)]))
    blocks = chunk_frames([1] * len(chunk_of_block), edition)
    last = probe.read_frames(half_size(frames[[span.stop - 1 for span in blocks]]))
    return ProbeScores(
        {name: _right(reading.frame_labels[name], expected[name][:, None]) for name in FRAME_ATTRIBUTES},
        _right(reading.action, torch.tensor(actions)),
        {name: _right(last[name], expected[name][chunk_of_block]) for name in FRAME_ATTRIBUTES},
        reading.features,
        _changes(frames[: blocks[-1].stop], [span.start for span in blocks[1:]]),
    )


def spread(items: Sequence[torch.Tensor]) -> float:
    """The mean over all pairs of the root of their mean square difference."""
    pairs = list(itertools.combinations(items, 2))
    return sum(float((a - b).square().mean().sqrt()) for a, b in pairs) / len(pairs)


def accuracy(films: Sequence[ProbeScores]) -> Shares:
    """The share of right readings of each attribute, over all films."""
    shares = {name: _share([film.frames[name] for film in films]) for name in FRAME_ATTRIBUTES}
    return {**shares, "action": _share([film.action for film in films])}


def end_chunks(story: Story, blocks: int) -> tuple[slice, slice]:
    """The chunks that begin within the first ``blocks`` blocks, and those that end within the last."""
    starts = [0, *itertools.accumulate(chunk.blocks for chunk in story.chunks)]
    first = sum(start < blocks for start in starts[:-1])
    last = sum(end <= starts[-1] - blocks for end in starts[1:])
    return slice(0, first), slice(last, None)


def ratios(last: Shares, first: Shares) -> Shares:
    """Each share over another; None where one is missing or the divisor is 0."""
    return {
        name: round(value / divisor, 4) if (divisor := first[name]) and value is not None else None
        for name, value in last.items()
    }


def block_accuracy(films: Sequence[ProbeScores], blocks: slice) -> Shares:
    """The accuracy of some blocks of each film."""
    return {name: _share([film.blocks[name][blocks] for film in films]) for name in FRAME_ATTRIBUTES}


def subject_and_colour(films: Sequence[ProbeScores], blocks: slice) -> float | None:
    """The share of some blocks of each film that show the right subject in the right colour."""
    both = [(film.blocks["subject"] == 1) & (film.blocks["colour"] == 1) for film in films]
    return _share([right[blocks].long() for right in both])


def flicker(films: Sequence[ProbeScores]) -> float | None:
    """The mean change at block borders over that inside blocks."""
    border, inner = (sum(film.changes[n] for film in films) for n in (0, 1))
    return round(border / inner, 3) if inner else None


def frechet_distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """Distance of two sets of features (N, D) and (M, D), each taken for a Gaussian (Heusel et al. 2017), in float64.

    |m_a - m_b|² + tr(C_a + C_b - 2 (C_a C_b)^½). With C = RᵀR the last trace is the sum of the singular values of
    R_a R_bᵀ, which is exact for singular covariances as well; a matrix square root (scipy's) is not.
    """
    a, b = a.double(), b.double()
    root_a, root_b = (torch.linalg.qr((f - f.mean(0)) / (len(f) - 1) ** 0.5).R for f in (a, b))
    means, shared = (a.mean(0) - b.mean(0)).square().sum(), torch.linalg.svdvals(root_a @ root_b.T).sum()
    return max(float(means + root_a.square().sum() + root_b.square().sum() - 2 * shared), 0.0)


def _right(reading: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
    return torch.where(expected < 0, -1, (reading == expected).long())


def _share(values: Sequence[torch.Tensor]) -> float | None:
    flat = torch.cat([value.flatten() for value in values])
    known = flat[flat >= 0].float()
    return round(float(known.mean()), 4) if len(known) else None


def _changes(frames: torch.Tensor, borders: Sequence[int]) -> tuple[float, float]:
    changes = torch.stack([(b - a).abs().mean() for a, b in itertools.pairwise(frames)])
    at_border = torch.zeros(len(changes), dtype=torch.bool)
    at_border[torch.tensor(borders, dtype=torch.long) - 1] = True
    return (float(changes[at_border].mean()) if at_border.any() else 0.0), float(changes[~at_border].mean())
