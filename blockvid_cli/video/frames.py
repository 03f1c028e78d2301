"""Decoded frames on their way into the film: looked over by the block, made into pictures; stills for the sheet."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch

from blockvid_cli.models.vae import to_uint8
from blockvid_cli.storyboard.plan import Plan
from blockvid_cli.video.contact_sheet import thumbnail

BLACK, FROZEN = 0.02, 1e-4  # of full brightness


def warn_degenerate_blocks(decoded: Iterator[torch.Tensor], plan: Plan, tell: Callable[[str], None]) -> Iterator[torch.Tensor]:
    """The same frames; a block that came out black or frozen is told of as soon as it is there."""
    for block, frames in zip(plan.blocks, decoded, strict=True):
        still = len(frames) > 1 and float((frames[1:] - frames[:-1]).abs().amax()) < FROZEN
        wrong = "black" if float(frames.amax()) < BLACK else "frozen" if still else ""
        if wrong:
            tell(f"chunk {block.chunk}: block {block.number + 1} came out {wrong}.")
        yield frames


def film_frames(decoded: Iterator[torch.Tensor], plan: Plan, stills: dict[int, np.ndarray]) -> Iterator[np.ndarray]:
    """Frames (H, W, 3) uint8 one by one; the middle one of each chunk is kept in ``stills``."""
    middles = {(chunk.first_frame + chunk.end_frame) // 2: chunk.number for chunk in plan.chunks}
    number = 0
    for frames in decoded:
        for picture in to_uint8(frames):
            if number in middles:
                stills[middles[number]] = thumbnail(picture).copy()
            yield picture
            number += 1
