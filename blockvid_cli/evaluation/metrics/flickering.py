"""Temporal flickering: how little changes from frame to frame.

s_t = (255 - mean |f_t - f_{t-1}|) / 255        VBench (Huang et al. 2024), ``temporal_flickering``; no network is asked
"""

from __future__ import annotations

import cv2
import numpy as np

from blockvid_cli.video.reader import Frame
from blockvid_cli.evaluation.metrics.metric import MeanOfPairs, Measure


def temporal_flickering() -> Measure:
    """The likeness of neighbouring frames, pixel by pixel."""
    return Measure("temporal_flickering", lambda _: MeanOfPairs(_still))


def _still(a: Frame, b: Frame) -> float:
    return b.cached(("still", a.number), lambda: alike(a.rgb, b.rgb))


def alike(a: np.ndarray, b: np.ndarray) -> float:
    """(255 - mean |a - b|) / 255 of pictures (H, W, 3) uint8."""
    return 1 - float(cv2.norm(a, b, cv2.NORM_L1)) / a.size / 255
