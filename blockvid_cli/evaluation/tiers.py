"""Which measures there are, and who answers: ``builtin`` without a download, ``vbench`` as its authors do."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from blockvid_cli.errors import UsageError, lookup
from blockvid_cli.evaluation.backends.builtin import builtin
from blockvid_cli.evaluation.backends.crop import Cropped
from blockvid_cli.evaluation.backends.looks import background_of
from blockvid_cli.evaluation.backends.protocol import Backend, Encoder, Texts
from blockvid_cli.evaluation.metrics import paper_metrics as printed
from blockvid_cli.evaluation.metrics.consistency import background_consistency, subject_consistency
from blockvid_cli.evaluation.metrics.dynamic import dynamic_degree
from blockvid_cli.evaluation.metrics.flickering import temporal_flickering
from blockvid_cli.evaluation.metrics.judged import aesthetic_quality, imaging_quality
from blockvid_cli.evaluation.metrics.metric import Measure
from blockvid_cli.evaluation.metrics.smoothness import motion_smoothness

MEASURES: Mapping[str, Callable[[Any], Measure]] = {
    "subject_consistency": subject_consistency,
    "background_consistency": background_consistency,
    "motion_smoothness": motion_smoothness,
    "dynamic_degree": dynamic_degree,
    "aesthetic_quality": aesthetic_quality,
    "imaging_quality": imaging_quality,
}
CLIPS, TEXTS = "clips", "texts"  # who compares clips in place of the subject's encoder; who compares with captions
REFERENCE = {
    "subject": "subject_consistency",
    "background": "background_consistency",
    "motion": "motion_smoothness",
    "aesthetic": "aesthetic_quality",
    "clarity": "imaging_quality",
}


@dataclass(frozen=True)
class Tier:
    """Who measures, and what of it enters the drift errors.

    Args:
        measures: the VBench dimensions, by their names without suffix.
        reference, paper: what each drift error compares, by its name; see ``vde``.
        between: who compares the clips of the long protocol with each other.
        mapped: whose comparison VBench-Long has tables for, and which.
        texts: who compares frames with captions; None: nobody.
    """

    measures: dict[str, Measure]
    reference: dict[str, Measure]
    paper: dict[str, Measure]
    between: dict[str, Encoder]
    mapped: dict[str, str]
    texts: Texts | None = None

    @property
    def all(self) -> list[Measure]:
        """Each measure once."""
        return list({id(m): m for part in (self.measures, self.reference, self.paper) for m in part.values()}.values())


@dataclass(frozen=True)
class BackendConfig:
    """Who is asked: a tier, its checkpoints' folder and device; for single measures what a user installed."""

    tier: str = "builtin"
    weights_dir: Path | None = None
    device: str = "cpu"
    use: tuple[str, ...] = field(default=())


def make_tier(asked: BackendConfig, clips: bool = False) -> Tier:
    """The measures of a tier, that have seen nothing yet; with ``clips``, also who compares a long film's clips.

    Raises:
        UsageError: there is no such tier or measure, or what a user installed does not fit.
        MissingModelError: a checkpoint is not here.
    """
    make, used = lookup("tier", TIERS, asked.tier), _used(asked)
    backends = builtin() | make(asked, {*MEASURES, TEXTS, *([CLIPS] if clips else [])} - used.keys()) | used
    measures = {name: make(backends[name]) for name, make in MEASURES.items()}
    measures["temporal_flickering"] = temporal_flickering()
    subject, flow = backends["subject_consistency"], backends["dynamic_degree"]
    return Tier(
        measures,
        {name: measures[measure] for name, measure in REFERENCE.items()},
        {
            "subject": printed.identity(subject if subject.suffix == "_builtin" else Cropped(subject)),
            "background": printed.staticness(flow, background_of),
            "motion": measures["motion_smoothness"],
            "motion_energy": printed.energy(flow),
            "aesthetic": measures["aesthetic_quality"],
            "clarity": printed.clarity(),
        },
        {"subject_consistency": backends.get(CLIPS, subject)}
        | {name: backends[name] for name in ("background_consistency",) if CLIPS not in backends},
        {"subject_consistency": "subject"} if CLIPS in backends else {},
        backends.get(TEXTS),
    )


def _vbench(asked: BackendConfig, names: Collection[str]) -> dict[str, Backend]:
    from blockvid_cli.evaluation.backends.vbench import vbench

    return vbench(asked.weights_dir, asked.device, names)


TIERS: Mapping[str, Callable[[BackendConfig, Collection[str]], dict[str, Backend]]] = {
    "builtin": lambda asked, names: {},
    "vbench": _vbench,
}


def _used(asked: BackendConfig) -> dict[str, Backend]:
    """``"imaging_quality=pyiqa:musiq-spaq"`` -> who answers for which measure."""
    found = {}
    for spec in asked.use:
        from blockvid_cli.evaluation.backends.installed import installed

        name, equals, what = spec.partition("=")
        if not equals:
            raise UsageError(f"--use {spec}: write MEASURE=BACKEND, as in imaging_quality=pyiqa:musiq-spaq.")
        lookup("measure", MEASURES, name)
        found[name] = installed(name, what, asked.device)
    return found
