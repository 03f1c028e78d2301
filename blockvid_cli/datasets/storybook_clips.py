"""Where training's pictures come from: picture-book stories, drawn from seeds and kept as bytes in memory."""

from __future__ import annotations

import torch

from blockvid_cli.models.tiny_vae import FOLD
from blockvid_cli.storybook.rendering import render_story
from blockvid_cli.storybook.edition import Edition
from blockvid_cli.storybook.stories import make_story

RESTING = 0.25  # the share taken of clips in which the subject stays where it is


class StoryClips:
    """Stories ``seeds``, each ``blocks`` long; clips of them as batches."""

    def __init__(self, edition: Edition, seeds: range, blocks: int, device: str = "cpu") -> None:
        drawn = [[_bytes(part) for part in render_story(make_story(edition, seed, blocks), edition, device)] for seed in seeds]
        self.frames = torch.stack([frames for frames, _ in drawn])  # (N, F, 3, H, W)
        self.subject = torch.stack([share for _, share in drawn])  # (N, F, 1, H, W)

    def batch(
        self, dice: torch.Generator, clips: int, frames: int, crop: tuple[int, int] | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Random clips (B, F, 3, H, W) and subjects (B, F, 1, H, W) in 0..1; crops (h, w) lie about the subject.

        Clips begin where a latent frame ends, as the codec will meet them; of those in which nothing moves, which are
        the easy ones, only a share is taken.
        """
        height, width = self.frames.shape[3:]
        pictures, subjects = [], []
        while len(pictures) < clips:
            story = int(torch.randint(len(self.frames), (), generator=dice))
            start = FOLD * int(torch.randint((self.frames.shape[1] - frames) // FOLD + 1, (), generator=dice))
            skipped = float(torch.rand((), generator=dice)) >= RESTING
            if skipped and torch.equal(self.subject[story, start], self.subject[story, start + frames - 1]):
                continue
            rows = columns = slice(None)
            if crop:
                place = self._subject(story, start, dice)
                rows, columns = (
                    _around(at, size, end, dice) for at, size, end in zip(place, crop, (height, width), strict=True)
                )
            pictures.append(self.frames[story, start : start + frames, :, rows, columns])
            subjects.append(self.subject[story, start : start + frames, :, rows, columns])
        return torch.stack(pictures).float() / 255, torch.stack(subjects).float() / 255

    def _subject(self, story: int, frame: int, dice: torch.Generator) -> tuple[int, int]:
        """The row and column of a random pixel of the subject; of the picture, where nobody is there."""
        places = (self.subject[story, frame, 0] > 127).nonzero()
        if not len(places):
            places = torch.ones_like(self.subject[story, frame, 0]).nonzero()
        row, column = places[int(torch.randint(len(places), (), generator=dice))].tolist()
        return row, column


def _bytes(values: torch.Tensor) -> torch.Tensor:
    return (values.clamp(0, 1) * 255).round().to(torch.uint8)


def _around(at: int, size: int, end: int, dice: torch.Generator) -> slice:
    """A span of ``size`` that holds ``at``, on a grid of eight pixels, inside 0..end."""
    start = at - int(torch.randint(size, (), generator=dice))
    start = min(max(start // 8 * 8, 0), (end - size) // 8 * 8)
    return slice(start, start + size)
