"""Which metrics there are, and which backends answer: ``builtin`` without a download, ``vbench`` as its authors do.

The vbench tier uses VBench's networks where their weights are free: DINO, CLIP, LAION's predictor and RAFT. Motion
smoothness and imaging quality are not among them: AMT's weights are CC BY-NC, MUSIQ's port in pyiqa is PolyForm-NC. The
builtin backends answer for these, under their own names, or what a user installed (see ``backends.installed``).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from blockvid_cli.errors import UsageError, lookup
from blockvid_cli.evaluation.backends import Backend, ImageEncoder, TextImageEncoder
from blockvid_cli.evaluation.backends.builtin import SubjectCrop, background_mask, builtin_backends
from blockvid_cli.evaluation.metrics import paper_metrics
from blockvid_cli.evaluation.metrics.vbench import (
    Metric,
    aesthetic_quality,
    background_consistency,
    dynamic_degree,
    imaging_quality,
    motion_smoothness,
    subject_consistency,
    temporal_flickering,
)

METRICS: Mapping[str, Callable[[Any], Metric]] = {
    "subject_consistency": subject_consistency,
    "background_consistency": background_consistency,
    "motion_smoothness": motion_smoothness,
    "dynamic_degree": dynamic_degree,
    "aesthetic_quality": aesthetic_quality,
    "imaging_quality": imaging_quality,
}
CLIPS, TEXTS = "clips", "texts"  # backends beside the metrics': compares a long film's clips; compares with captions
REFERENCE = {
    "subject": "subject_consistency",
    "background": "background_consistency",
    "motion": "motion_smoothness",
    "aesthetic": "aesthetic_quality",
    "clarity": "imaging_quality",
}


@dataclass(frozen=True)
class Tier:
    """The metrics of a tier, and which of them the drift errors use.

    Args:
        metrics: the VBench dimensions, by their names without suffix.
        reference, paper: the metric of each drift error, by the error's name; see ``segments``.
        between: the encoders that compare the clips of the long protocol with each other.
        mapped: the metrics for which VBench-Long has mapping tables, and the names of these.
        texts: the encoder that compares frames with captions; None without one.
    """

    metrics: dict[str, Metric]
    reference: dict[str, Metric]
    paper: dict[str, Metric]
    between: dict[str, ImageEncoder]
    mapped: dict[str, str]
    texts: TextImageEncoder | None = None

    @property
    def all(self) -> list[Metric]:
        """Each metric once."""
        return list({id(m): m for part in (self.metrics, self.reference, self.paper) for m in part.values()}.values())


@dataclass(frozen=True)
class BackendConfig:
    """Which backends answer: a tier, its checkpoints' folder and device; ``use`` names a user's own for metrics."""

    tier: str = "builtin"
    weights_dir: Path | None = None
    device: str = "cpu"
    use: tuple[str, ...] = field(default=())


def make_tier(config: BackendConfig, clips: bool = False) -> Tier:
    """Makes the metrics of a tier; with ``clips``, also the encoders that compare a long film's clips.

    Raises:
        UsageError: there is no such tier or metric, or a user's backend does not fit.
        MissingModelError: a checkpoint is not on this machine.
    """
    make, custom = lookup("tier", TIERS, config.tier), _custom_backends(config)
    backends: dict[str, Any] = builtin_backends() | make(
        config, {*METRICS, TEXTS, *([CLIPS] if clips else [])} - custom.keys()
    )
    backends |= custom
    metrics = {name: make(backends[name]) for name, make in METRICS.items()}
    metrics["temporal_flickering"] = temporal_flickering()
    subject, flow = backends["subject_consistency"], backends["dynamic_degree"]
    return Tier(
        metrics,
        {name: metrics[metric] for name, metric in REFERENCE.items()},
        {
            "subject": paper_metrics.subject_likeness(
                subject if subject.suffix == "_builtin" else SubjectCrop(subject)
            ),
            "background": paper_metrics.background_staticness(flow, background_mask),
            "motion": metrics["motion_smoothness"],
            "motion_energy": paper_metrics.motion_energy(flow),
            "aesthetic": metrics["aesthetic_quality"],
            "clarity": paper_metrics.clarity(),
        },
        {"subject_consistency": backends.get(CLIPS, subject)}
        | {name: backends[name] for name in ("background_consistency",) if CLIPS not in backends},
        {"subject_consistency": "subject"} if CLIPS in backends else {},
        backends.get(TEXTS),
    )


def vbench_backends(
    weights_dir: Path | None = None, device: str = "cpu", names: Collection[str] | None = None
) -> dict[str, Backend]:
    """Returns VBench's backend for each of the metrics in ``names`` (None: all); networks are loaded on first use.

    Captions are compared by the background's encoder, so that each frame is encoded once.

    Raises:
        MissingModelError: a checkpoint, or torchvision, is not on this machine.
        UsageError: there is no folder ``weights_dir``.
    """
    from blockvid_cli.evaluation.backends.backbones import Clip, Dino, Dinov2, Laion, Raft

    table: dict[str, Callable[[Path | None, str], Backend]] = {
        "subject_consistency": Dino,
        "background_consistency": Clip,
        "aesthetic_quality": Laion,
        "dynamic_degree": Raft,
        CLIPS: Dinov2,
    }
    names = {*table, TEXTS} if names is None else names
    backends = {name: make(weights_dir, device) for name, make in table.items() if name in names}
    if TEXTS in names:
        backends[TEXTS] = backends.get("background_consistency") or Clip(weights_dir, device)
    return backends


TIERS: Mapping[str, Callable[[BackendConfig, Collection[str]], dict[str, Backend]]] = {
    "builtin": lambda config, names: {},
    "vbench": lambda config, names: vbench_backends(config.weights_dir, config.device, names),
}


def _custom_backends(config: BackendConfig) -> dict[str, Backend]:
    """``"imaging_quality=pyiqa:musiq-spaq"`` -> the backend, by metric."""
    backends = {}
    for option in config.use:
        from blockvid_cli.evaluation.backends.installed import installed_backend

        name, equals, spec = option.partition("=")
        if not equals:
            raise UsageError(f"--use {option}: write METRIC=BACKEND, as in imaging_quality=pyiqa:musiq-spaq.")
        lookup("metric", METRICS, name)
        backends[name] = installed_backend(name, spec, config.device)
    return backends
