"""An encoder that is shown the subject alone, cut out of each frame."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from blockvid_cli.evaluation.backends.looks import small
from blockvid_cli.evaluation.backends.protocol import Encoder
from blockvid_cli.video.reader import Frame

SIDE = 224  # pixels of the square that is shown
SPREAD = 2.0  # standard deviations from the subject's middle to the edges of its box


class Cropped:
    """Another encoder, of the box around what differs from the picture's rim."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder, self.name, self.suffix = encoder, f"{encoder.name}, of the subject's box", encoder.suffix

    def encode(self, frames: Sequence[Frame]) -> np.ndarray:
        """(N, D) float32."""
        return self.encoder.encode([Frame(frame.number, subject_of(frame)) for frame in frames])


def subject_of(frame: Frame) -> np.ndarray:
    """The box around the subject, (224, 224, 3) uint8."""
    share = small(frame).subject + 1e-6
    box = []
    for axis, length in ((1, frame.rgb.shape[0]), (0, frame.rgb.shape[1])):
        profile = share.sum(axis)
        places = (np.arange(len(profile)) + 0.5) / len(profile)
        middle = float((places * profile).sum() / profile.sum())
        reach = SPREAD * float(np.sqrt((((places - middle) ** 2) * profile).sum() / profile.sum()))
        first = int(max(0.0, middle - reach) * length)
        box.append(slice(first, max(first + 1, round(min(1.0, middle + reach) * length))))
    return cv2.resize(frame.rgb[box[0], box[1]], (SIDE, SIDE), interpolation=cv2.INTER_AREA)
