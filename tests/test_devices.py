"""Accelerators that are not on this machine: which is chosen, what runs there, and that nothing there is float64."""

from __future__ import annotations

import json
from contextlib import contextmanager

import pytest
import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from typer.testing import CliRunner

from blockvid_cli.commands.app import app
from blockvid_cli.errors import UsageError, is_out_of_memory
from blockvid_cli.models import devices
from blockvid_cli.models.devices import precision
from blockvid_cli.rollout.kv_cache.semantic import top_p_tokens
from blockvid_cli.runtime.memory_estimate import GIB, MemoryEstimate, choose_preset
from blockvid_cli.runtime.presets import RuntimeOptions, next_lower_preset, resolve_preset
from tests import small


@contextmanager
def machine(monkeypatch, *kinds: str, macos: int = 14):
    """A machine with these accelerators, as torch says it."""
    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: "cuda" in kinds)
        patch.setattr(torch.xpu, "is_available", lambda: "xpu" in kinds)
        patch.setattr(torch.backends.mps, "is_available", lambda: "mps" in kinds)
        patch.setattr(torch.backends.mps, "is_macos_or_newer", lambda major, minor: macos >= major)
        patch.setattr(torch.mps, "recommended_max_memory", lambda: 12 * GIB)
        patch.setattr(torch.mps, "driver_allocated_memory", lambda: 2 * GIB)
        patch.setattr(torch.xpu, "mem_get_info", lambda device: (7 * GIB, 8 * GIB))
        patch.setattr(torch.xpu, "get_device_name", lambda device: "Arc")
        yield


@pytest.mark.parametrize(
    ("kinds", "chosen"), [((), "cpu"), (("mps",), "mps"), (("xpu",), "xpu"), (("cuda", "xpu"), "cuda")]
)
def test_auto_is_the_accelerator_that_is_here(monkeypatch, kinds, chosen):
    with machine(monkeypatch, *kinds):
        assert devices.resolve_device("auto") == chosen


def test_a_device_that_is_not_here_is_refused_with_those_that_are(monkeypatch):
    with machine(monkeypatch):
        for name in ("cuda", "mps", "xpu:0", "meta", "gpu", "", "cuda:99", "cpu:x"):
            with pytest.raises(UsageError, match="give auto, cpu"):
                devices.resolve_device(name)


def test_free_memory_is_asked_of_the_device(monkeypatch):
    with machine(monkeypatch, "mps", "xpu"):
        assert devices.free_memory("mps") == 10 * GIB
        assert devices.free_memory("xpu:0") == 7 * GIB
    assert devices.free_memory("cpu") > GIB / 8


def test_weights_are_quantized_only_where_they_can_be(monkeypatch):
    with machine(monkeypatch, "mps", "xpu"):
        for device in ("mps", "xpu:0"):
            for name in ("int8", "nf4"):
                with pytest.raises(UsageError, match=f"{name}: weights cannot be quantized for {device[:3]}"):
                    precision(name, device)
            with pytest.raises(UsageError, match="least"):
                resolve_preset("8gb", device, RuntimeOptions())
            assert precision("auto", device).name == "bf16"
    with machine(monkeypatch, "mps", macos=13):
        assert precision("auto", "mps").dtype == torch.float32
    assert precision("int8", "cuda").quantize is not None


def test_auto_and_retries_pass_over_presets_that_the_device_cannot_run(monkeypatch):
    with machine(monkeypatch, "mps", "xpu"):
        for device in ("mps", "xpu"):
            sizes = iter(range(100, 0, -1))
            asked = []

            def estimate(preset, sizes=sizes, asked=asked):
                asked.append(preset.name)
                return MemoryEstimate({"denoise": next(sizes) * GIB}, {})

            assert choose_preset(GIB, device, RuntimeOptions(), estimate).name == "least"
            assert asked == ["24gb", "16gb", "12gb", "least"]
            assert next_lower_preset(resolve_preset("12gb", device, RuntimeOptions()), RuntimeOptions()) == "least"
            asked.clear()
            choose_preset(GIB, device, RuntimeOptions(precision="bf16"), estimate)
            assert asked == ["24gb", "16gb", "12gb", "8gb", "least"]
        assert resolve_preset("16gb", "mps", RuntimeOptions()).vae_dtype == torch.float32


@pytest.mark.parametrize(
    "words",
    [
        "MPS backend out of memory (MPS allocated: 5.00 GB, other allocations: 3.00 GB, max allowed: 9.07 GB).",
        "Invalid buffer size: 24.00 GB",
        "level_zero backend failed with error: 39 (UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY)",
        "XPU out of memory. Tried to allocate 2.00 GiB.",
        "Native API failed. Native API returns: 40 (UR_RESULT_ERROR_OUT_OF_RESOURCES)",
    ],
)
def test_their_errors_are_known(words):
    assert is_out_of_memory(RuntimeError(words))


def test_the_doctor_lists_them(monkeypatch):
    with machine(monkeypatch, "mps", "xpu"):
        checks = json.loads(CliRunner().invoke(app, ["doctor", "--json"]).stdout)
    messages = [check["message"] for check in checks if check["name"] in ("device", "device memory", "dtypes")]
    assert messages[0] == "xpu: Arc, Intel; not tested" and messages[3].startswith("mps: ")
    assert messages[1] == "7.0 GiB free" and messages[2] == messages[5] == "fp32, bf16"


class Remote(torch.Tensor):
    """A tensor that says it is on an accelerator, and is computed on the CPU; float64 is refused, as Apple's do."""

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> Remote:
        if inner.dtype in (torch.float64, torch.complex128):
            raise TypeError(f"Cannot convert a MPS Tensor to {inner.dtype}, as the MPS framework doesn't support it")
        out = torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, strides=inner.stride(), dtype=inner.dtype, device=Accelerator.device
        )
        out.inner = inner
        return out

    def __repr__(self, **_: object) -> str:
        return f"Remote({self.inner})"

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return Accelerator.compute(func, args, kwargs or {})


class Accelerator(TorchDispatchMode):
    """Plays an accelerator: what is made there, or computed from what is there, is there."""

    device = torch.device("meta")  # a device that torch has on every machine, and computes nothing on

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return self.compute(func, args, kwargs or {})

    @classmethod
    def compute(cls, func, args, kwargs):
        """The result of an operation on the CPU, on the accelerator again if an argument or ``device`` is."""
        given = [part for part in pytree.tree_leaves((args, kwargs)) if isinstance(part, Remote)]
        device = next((part for part in (*args, *kwargs.values()) if isinstance(part, torch.device)), None)
        there = device.type == cls.device.type if device is not None else bool(given)
        if device is None and func is torch.ops.aten.copy_.default:
            there = isinstance(args[0], Remote)
        arguments = [
            part for part in pytree.tree_leaves((args, kwargs)) if isinstance(part, torch.Tensor) and part.ndim
        ]
        if given and not any(word in str(func) for word in ("copy", "index", "aten.to.")):
            assert all(isinstance(part, Remote) for part in arguments), f"{func}: tensors on two devices"

        def inside(part: object) -> object:
            here = torch.device("cpu") if isinstance(part, torch.device) else part
            return part.inner if isinstance(part, Remote) else here

        args, kwargs = pytree.tree_map(inside, (args, kwargs))
        out = func(*args, **kwargs)
        wrap = lambda part: Remote(part) if there and isinstance(part, torch.Tensor) else part  # noqa: E731
        if func._schema.name.endswith("_") and given and out is given[0].inner:
            return given[0]
        return pytree.tree_map(wrap, out)


def test_the_played_accelerator_refuses_float64():
    with Accelerator():
        x = torch.ones(3, device="meta")
        assert x.device.type == "meta" and (x + 1).sum().item() == 6 and (x * 2).cpu().double().sum() == 6
        for wrong in (lambda: x.double(), lambda: torch.zeros(2, dtype=torch.float64, device="meta")):
            with pytest.raises(TypeError, match="float64"):
                wrong()
        with pytest.raises(AssertionError, match="two devices"):
            x + torch.ones(3)


@pytest.mark.parametrize(
    "changes",
    [
        {"kv_cache": {"name": "window", "window": 4, "sink": 1}, "positions": "packed"},
        {"kv_cache": {"name": "semantic", "tau": 0.9, "probes": 4}, "solver": "unipc"},
        {"solver": "renoise", "cache_update": "last-step", "positions": "packed"},
        {"guidance": 3.0},
    ],
)
def test_nothing_on_an_accelerator_is_float64(changes):
    film, recipe = small.plan((2, 2, 2), cuts=(False, False, True)), small.recipe(**changes)
    rows = 2 if "guidance" in changes else 1
    network = small.network()
    from blockvid_cli.models.wan.denoiser import WanDenoiser
    from blockvid_cli.rollout.rollout import Rollout

    with Accelerator(), torch.inference_mode():
        for module in network.modules():
            for name, weight in module._parameters.items():
                module._parameters[name] = None if weight is None else torch.nn.Parameter(weight.data.to("meta"), False)
        denoiser = WanDenoiser(network)
        prompts = lambda blocks: small.read(blocks, rows).to("meta")  # noqa: E731
        wrapped = recipe.guidance.wrap(denoiser, rows, False)
        rollout = Rollout(film, recipe.kv_cache(), denoiser.rope, (1, 2, 2), prompts, "meta")
        results = list(rollout.run(small.segments(film, recipe, wrapped)))
        finished = [latents for result in results for _, latents in result.finished]
        assert len(finished) == 6 and all(latents.dtype == torch.float32 for latents in finished)


def test_tokens_are_ranked_on_the_cpu():
    with Accelerator():
        mass = torch.tensor([0.1, 0.6, 0.3]).to("meta")
        assert top_p_tokens(mass, 0.8).tolist() == [1, 2]
