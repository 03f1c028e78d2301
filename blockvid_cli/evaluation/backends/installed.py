"""Backends that a user installed; blockvid itself depends on none of them.

    pyiqa:METRIC      any metric of pyiqa that needs no reference, such as pyiqa:musiq-spaq or pyiqa:qalign
    module:name       an object or a class of the user's own, with the method that the metric calls, such as
                      ``interpolate`` of an AMT for motion_smoothness

pyiqa is under PolyForm-Noncommercial 1.0.0, many of its weights are under CC BY-NC-SA 4.0, Q-Align's under S-Lab's
licence: whoever names them agrees to that. Modules are imported from Python's path (PYTHONPATH).
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from blockvid_cli.errors import MissingModelError, UsageError, closest_name, lookup
from blockvid_cli.evaluation.backends import Backend
from blockvid_cli.video.reader import Frame

if TYPE_CHECKING:
    import torch

METHODS = {
    "subject_consistency": "encode",
    "background_consistency": "encode",
    "motion_smoothness": "interpolate",
    "dynamic_degree": "flow",
    "aesthetic_quality": "score",
    "imaging_quality": "score",
}  # of each metric's backend; see ``protocol``
VBENCH_CHOICE = ("imaging_quality", "musiq-spaq")  # the metric and the backend that VBench uses for it
MUSIQ_SIDE = 512  # pixels of the longer side at which VBench shows images to MUSIQ
RANGE = re.compile(r"~?(-?[\d.]+), ~?(-?[\d.]+)")  # pyiqa's "1, 5", or "~0, ~100" where scores may go a little beyond


def installed_backend(metric: str, spec: str, device: str = "cpu") -> Backend:
    """Returns the backend that ``spec`` names, for a metric.

    Raises:
        UsageError: there is no such metric or backend, or it lacks the method that the metric calls.
        MissingModelError: pyiqa cannot get a metric's weights.
    """
    method = lookup("metric", METHODS, metric)
    module, colon, name = spec.partition(":")
    if not (module and colon and name):
        raise UsageError(f"'{spec}' names no backend; write pyiqa:METRIC or module:name.")
    if module != "pyiqa":
        return CustomBackend(_import(module, name), method, spec)
    if method != "score":
        raise UsageError(f"{metric} cannot use {spec}: pyiqa scores single pictures, it has no '{method}'.")
    return PyiqaScorer(name, metric, device)


class CustomBackend:
    """A user's object, with a name and a suffix where it has none.

    Raises:
        UsageError: it lacks the method.
    """

    def __init__(self, target: object, method: str, spec: str) -> None:
        if not callable(getattr(target, method, None)):
            raise UsageError(f"{spec} has no method '{method}'; blockvid_cli.evaluation.backends describes it.")
        setattr(self, method, getattr(target, method))
        self.name = str(getattr(target, "name", spec))
        self.suffix = str(getattr(target, "suffix", "_custom"))


def _import(module: str, name: str) -> object:
    """Imports an object of a module; makes an instance if it is a class.

    Raises:
        UsageError: the module cannot be imported, has nothing of that name, or the class needs arguments.
    """
    try:
        imported = importlib.import_module(module)
    except (ImportError, SyntaxError, TypeError) as error:  # the last from a relative name
        raise UsageError(f"{module}:{name}: the module cannot be imported ({error}).") from error
    if not hasattr(imported, name):
        raise UsageError(f"{module}:{name}: the module has no '{name}'.")
    target = getattr(imported, name)
    try:
        return target() if isinstance(target, type) else target
    except TypeError as error:
        raise UsageError(f"{module}:{name}: this class cannot be made without arguments ({error}).") from error


class PyiqaScorer:
    """A metric of pyiqa, scaled to 0 (bad) .. 1 (good) by the range that pyiqa states for it: MUSIQ's 0..100, Q-Align's
    1..5. Metrics for which lower is better are inverted.

    MUSIQ is shown images as VBench shows them: no longer than 512 pixels, in whole pixels rounded down.

    Raises:
        UsageError: pyiqa is not installed, has no such metric without a reference, or gives it no range.
        MissingModelError: its weights are absent and cannot be downloaded.
    """

    def __init__(self, model: str, metric: str, device: str = "cpu") -> None:
        self.model, self.device = model, device
        self.name = f"pyiqa {model}"
        self.suffix = "" if (metric, model) == VBENCH_CHOICE else f"_{model}"
        self._network = _create(model, device)
        # Q-Align scores two things; by default quality
        aesthetic = model.startswith("qalign") and metric == "aesthetic_quality"
        self._options: dict[str, Any] = {"task_": "aesthetic"} if aesthetic else {}
        limits = RANGE.fullmatch(str(getattr(self._network, "score_range", "")))
        if limits is None:
            raise UsageError(f"pyiqa:{model} has no scale with two ends, which 0..1 could stand for.")
        self._low, self._high = map(float, limits.groups())

    def score(self, frames: Sequence[Frame]) -> np.ndarray:
        """(N,) float32; frames are scored one by one, because not all models take batches."""
        scores = np.array([float(self._network(self._image(frame), **self._options)) for frame in frames], np.float32)
        share = (scores - self._low) / (self._high - self._low)
        return 1 - share if self._network.lower_better else share

    def _image(self, frame: Frame) -> torch.Tensor:
        """(1, 3, H, W), 0..1."""
        from torch.nn import functional

        from blockvid_cli.evaluation.backends.backbones import to_tensor

        image = to_tensor([frame], self.device)
        height, width = image.shape[-2:]
        if self.model.startswith("musiq") and max(height, width) > MUSIQ_SIDE:
            scale = MUSIQ_SIDE / max(height, width)
            size = int(scale * height), int(scale * width)
            image = functional.interpolate(image, size, mode="bilinear", align_corners=False, antialias=False)
        return image / 255


def _create(model: str, device: str) -> Any:  # noqa: ANN401  (pyiqa has no types)
    """Creates a metric of pyiqa; raises the errors that ``PyiqaScorer`` lists."""
    try:
        import pyiqa
    except (ImportError, RuntimeError) as error:  # the latter from a torchvision for another torch
        raise UsageError(
            f"pyiqa:{model}: pyiqa cannot be imported ({error}); 'pip install pyiqa' brings it, if its non-commercial"
            " licence (PolyForm-Noncommercial 1.0.0) suits you."
        ) from error
    import torch

    models = pyiqa.list_models("NR")
    if model not in models:
        guess = closest_name(model, models)
        hint = f" Did you mean '{guess}'?" if guess else ""
        raise UsageError(f"pyiqa has no metric '{model}' that scores pictures without a reference.{hint}")
    try:
        return pyiqa.create_metric(model, device=torch.device(device))
    except OSError as error:
        raise MissingModelError(f"pyiqa:{model}: its weights cannot be had ({error}).") from error
