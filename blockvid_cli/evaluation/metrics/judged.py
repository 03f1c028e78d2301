"""Imaging and aesthetic quality: the mean, over frames, of what a judge makes of each.

VBench (Huang et al. 2024) asks MUSIQ (trained on SPAQ) for ``imaging_quality`` and LAION's head on CLIP ViT-L/14 for
``aesthetic_quality``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from blockvid_cli.evaluation.backends.protocol import Judge
from blockvid_cli.video.reader import Frame
from blockvid_cli.evaluation.metrics.metric import Mean, Measure


def imaging_quality(judge: Judge) -> Measure:
    """How well the frames are taken: sharp, clean, well exposed."""
    return _judged("imaging_quality", judge)


def aesthetic_quality(judge: Judge) -> Measure:
    """How pleasing the frames are."""
    return _judged("aesthetic_quality", judge)


def _judged(name: str, judge: Judge) -> Measure:
    return Measure(
        name,
        lambda _: Mean(lambda frame: judged(judge, [frame])[0]),
        backend=judge,
        prepare=partial(judged, judge),
    )


def judged(judge: Judge, frames: Sequence[Frame]) -> list[float]:
    """What the judge makes of each frame; it is asked once."""
    missing = [frame for frame in frames if judge not in frame.cache]
    if missing:
        for frame, verdict in zip(missing, judge.judge(missing), strict=True):
            frame.cache[judge] = float(verdict)
    return [frame.cache[judge] for frame in frames]
