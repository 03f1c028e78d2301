"""Backends that a user installed beside blockvid, which depends on none of them.

    pyiqa:METRIC      any metric of pyiqa that needs no reference, such as pyiqa:musiq-spaq or pyiqa:qalign
    module:name       an object or a class of the user's own, with the method that the measure asks, such as ``between``
                      of an AMT for motion_smoothness

pyiqa is under PolyForm-Noncommercial 1.0.0, many of its weights are under CC BY-NC-SA 4.0, Q-Align's under S-Lab's
licence: whoever names them agrees to that. Modules are looked for on Python's path (PYTHONPATH).
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from blockvid_cli.errors import MissingModelError, UsageError, lookup, closest_name
from blockvid_cli.evaluation.backends.protocol import Backend
from blockvid_cli.video.reader import Frame

if TYPE_CHECKING:
    import torch

ASKED = {
    "subject_consistency": "encode",
    "background_consistency": "encode",
    "motion_smoothness": "between",
    "dynamic_degree": "flow",
    "aesthetic_quality": "judge",
    "imaging_quality": "judge",
}  # the method of each measure's backend; see ``protocol``
AUTHORS = ("imaging_quality", "musiq-spaq")  # whom VBench asks
LONGEST = 512  # pixels of the longer side at which VBench shows pictures to MUSIQ
RANGE = re.compile(r"~?(-?[\d.]+), ~?(-?[\d.]+)")  # pyiqa's "1, 5", or "~0, ~100" where scores may go a little beyond


def installed(measure: str, spec: str, device: str = "cpu") -> Backend:
    """The backend that ``spec`` names, for a measure.

    Raises:
        UsageError: there is no such measure, backend or metric, or it lacks what the measure asks.
        MissingModelError: pyiqa cannot get a metric's weights.
    """
    method = lookup("measure", ASKED, measure)
    module, colon, name = spec.partition(":")
    if not (module and colon and name):
        raise UsageError(f"'{spec}' names no backend; write pyiqa:METRIC or module:name.")
    if module != "pyiqa":
        return Custom(_imported(module, name), method, spec)
    if method != "judge":
        raise UsageError(f"{measure} cannot be told by {spec}: pyiqa judges pictures, it has no '{method}'.")
    return Pyiqa(name, measure, device)


class Custom:
    """What a user wrote, with a name and a suffix where it has none.

    Raises:
        UsageError: it lacks the method.
    """

    def __init__(self, found: object, method: str, spec: str) -> None:
        if not callable(getattr(found, method, None)):
            raise UsageError(
                f"{spec} has no method '{method}'; blockvid_cli.evaluation.backends.protocol describes it."
            )
        setattr(self, method, getattr(found, method))
        self.name = str(getattr(found, "name", spec))
        self.suffix = str(getattr(found, "suffix", "_custom"))


def _imported(module: str, name: str) -> object:
    """An object of a module; an instance, if it is a class.

    Raises:
        UsageError: the module cannot be imported, has nothing of that name, or the class asks for arguments.
    """
    try:
        held = importlib.import_module(module)
    except (ImportError, SyntaxError, TypeError) as error:  # the last from a relative name
        raise UsageError(f"{module}:{name}: the module cannot be imported ({error}).") from error
    if not hasattr(held, name):
        raise UsageError(f"{module}:{name}: the module has no '{name}'.")
    found = getattr(held, name)
    try:
        return found() if isinstance(found, type) else found
    except TypeError as error:
        raise UsageError(f"{module}:{name}: this class cannot be made without arguments ({error}).") from error


class Pyiqa:
    """A metric of pyiqa, brought to 0 (bad) .. 1 (good) by the range that pyiqa gives for it: MUSIQ's 0..100, Q-Align's
    1..5. Metrics for which lower is better are turned round.

    MUSIQ is shown pictures as VBench shows them: no longer than 512 pixels, in whole pixels rounded down.

    Raises:
        UsageError: pyiqa is not installed, has no such metric without a reference, or gives it no range.
        MissingModelError: its weights are not here and cannot be downloaded.
    """

    def __init__(self, metric: str, measure: str, device: str = "cpu") -> None:
        self.metric, self.device = metric, device
        self.name = f"pyiqa {metric}"
        self.suffix = "" if (measure, metric) == AUTHORS else f"_{metric}"
        self._network = _made(metric, device)
        # Q-Align is two judges in one; it is asked about quality unless told otherwise
        aesthetic = metric.startswith("qalign") and measure == "aesthetic_quality"
        self._asked: dict[str, Any] = {"task_": "aesthetic"} if aesthetic else {}
        found = RANGE.fullmatch(str(getattr(self._network, "score_range", "")))
        if found is None:
            raise UsageError(f"pyiqa:{metric} has no scale with two ends, which 0..1 could stand for.")
        self._low, self._high = map(float, found.groups())

    def judge(self, frames: Sequence[Frame]) -> np.ndarray:
        """(N,) float32; frames are judged one by one, since not all metrics take more."""
        scores = np.array([float(self._network(self._shown(frame), **self._asked)) for frame in frames], np.float32)
        share = (scores - self._low) / (self._high - self._low)
        return 1 - share if self._network.lower_better else share

    def _shown(self, frame: Frame) -> torch.Tensor:
        """(1, 3, H, W), 0..1."""
        from torch.nn import functional

        from blockvid_cli.evaluation.backends.dino import pictures

        shown = pictures([frame], self.device)
        height, width = shown.shape[-2:]
        if self.metric.startswith("musiq") and max(height, width) > LONGEST:
            scale = LONGEST / max(height, width)
            size = int(scale * height), int(scale * width)
            shown = functional.interpolate(shown, size, mode="bilinear", align_corners=False, antialias=False)
        return shown / 255


def _made(metric: str, device: str) -> Any:  # noqa: ANN401  (pyiqa has no types)
    """A metric of pyiqa; see ``Pyiqa`` for what it raises."""
    try:
        import pyiqa
    except (ImportError, RuntimeError) as error:  # the latter from a torchvision for another torch
        raise UsageError(
            f"pyiqa:{metric}: pyiqa cannot be imported ({error}); 'pip install pyiqa' brings it, if its non-commercial"
            " licence (PolyForm-Noncommercial 1.0.0) suits you."
        ) from error
    import torch

    known = pyiqa.list_models("NR")
    if metric not in known:
        guess = closest_name(metric, known)
        hint = f" Did you mean '{guess}'?" if guess else ""
        raise UsageError(f"pyiqa has no metric '{metric}' that judges pictures without a reference.{hint}")
    try:
        return pyiqa.create_metric(metric, device=torch.device(device))
    except OSError as error:
        raise MissingModelError(f"pyiqa:{metric}: its weights cannot be had ({error}).") from error
