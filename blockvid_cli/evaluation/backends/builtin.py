"""The tier that needs no download: numpy, OpenCV and rules of thumb."""

from __future__ import annotations

from blockvid_cli.evaluation.backends.flow import Dis
from blockvid_cli.evaluation.backends.judges import Aesthetic, Imaging
from blockvid_cli.evaluation.backends.looks import Subject, Surroundings
from blockvid_cli.evaluation.backends.protocol import Backend


def builtin() -> dict[str, Backend]:
    """Who answers, for each measure."""
    flow = Dis()
    return {
        "subject_consistency": Subject(),
        "background_consistency": Surroundings(),
        "motion_smoothness": flow,
        "dynamic_degree": flow,
        "aesthetic_quality": Aesthetic(),
        "imaging_quality": Imaging(),
    }
