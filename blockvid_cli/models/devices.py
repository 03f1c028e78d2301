"""Where a network computes, in which number format, and which of its weights wait in main memory.

    kind    accelerators of        free memory                         half precision     quantized weights
    cuda    NVIDIA, AMD            asked                               bf16               yes (bitsandbytes)
    xpu     Intel                  asked                               bf16               no
    mps     Apple                  what the system recommends,         bf16 from          no
                                   less what is allocated              macOS 14
    cpu     main memory            asked                               no (fp32)          yes

Only the linear layers of the blocks are quantized; patch, prompt and time embeddings, modulation, norms and the last
projection are not, since errors there change the colour of whole frames. bitsandbytes is imported only when a layer is
quantized.

An mps device computes nothing in float64, so positions, ranks and the like are computed on the CPU, everywhere. Random
numbers are drawn on the CPU as well, and are the same for every device.

diffusers' ``apply_group_offloading`` keeps weights in main memory in more general ways than ``OffloadHook``. It needs
accelerate, which nothing else here does, and without CUDA streams it copies a group's weights back after each call;
these weights are never written, so that the copy on the device is just dropped.
"""

from __future__ import annotations

import os
import platform
import resource
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from blockvid_cli.errors import UsageError

ACCELERATORS = ("cuda", "xpu", "mps")
QUANTIZING = ("cuda", "cpu")  # kinds of devices for which bitsandbytes quantizes weights
BY_MODULE = ("group", "sequential")


def device_kind(device: str) -> str:
    """``cuda`` of ``cuda:1``."""
    return device.partition(":")[0]


def accelerators() -> list[str]:
    """The kinds of accelerators that torch can use on this machine."""
    present = {"cuda": torch.cuda.is_available, "xpu": torch.xpu.is_available, "mps": torch.backends.mps.is_available}
    return [kind for kind in ACCELERATORS if present[kind]()]


def resolve_device(name: str) -> str:
    """A device by its name; "auto" is the accelerator where there is one.

    Raises:
        UsageError: there is no such device on this machine.
    """
    here = accelerators()
    if name == "auto":
        return here[0] if here else "cpu"
    try:
        if device_kind(name) not in ("cpu", *here):
            raise ValueError(name)
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError, ValueError) as error:
        raise UsageError(
            f"--device: there is no device '{name}' here; give {', '.join(['auto', 'cpu', *here])}."
        ) from error
    return name


def free_memory(device: str) -> int:
    """Bytes that are free on a device; for the CPU, of main memory (half of all where the system does not say)."""
    kind = device_kind(device)
    if kind == "mps":  # a part of main memory
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    if kind in ACCELERATORS:
        return torch.get_device_module(kind).mem_get_info(device)[0]
    with suppress(OSError, StopIteration, ValueError):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return int(next(line for line in lines if line.startswith("MemAvailable")).split()[1]) * 1024
    with suppress(ValueError, OSError, AttributeError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    return 8 * 2**30


def peak_memory(device: str) -> int:
    """Bytes at the most: of an accelerator's memory (of Apple's: now), else of this process."""
    kind = device_kind(device)
    if kind == "mps":
        return torch.mps.driver_allocated_memory()
    if kind in ACCELERATORS:
        return torch.get_device_module(kind).max_memory_allocated(device)
    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def device_name(device: str) -> str:
    """What the device is called by its maker."""
    kind = device_kind(device)
    if kind in ("cuda", "xpu"):
        return torch.get_device_module(kind).get_device_name(device)
    return platform.processor() or platform.machine()


def half_precision(device: str) -> torch.dtype:
    """bfloat16 where the device computes in it, else float32."""
    kind = device_kind(device)
    if kind == "cpu" or (kind == "mps" and not torch.backends.mps.is_macos_or_newer(14, 0)):
        return torch.float32
    return torch.bfloat16


def synchronize(device: str) -> None:
    """Waits until a device has finished its work."""
    if device_kind(device) in ACCELERATORS:
        torch.get_device_module(device_kind(device)).synchronize()


def empty_cache(device: str) -> None:
    """Gives memory that torch holds on a device and does not use back to the device."""
    if device_kind(device) in ACCELERATORS:
        torch.get_device_module(device_kind(device)).empty_cache()


Quantize = Callable[[nn.Linear, torch.Tensor], nn.Linear]


@dataclass(frozen=True)
class Precision:
    """The format of computation, and how linear layers are quantized: to how many bytes a weight (0: as ``dtype``)."""

    name: str
    dtype: torch.dtype
    quantize: Quantize | None = None
    bytes: float = 0.0

    @property
    def weight_bytes(self) -> float:
        """Bytes for each weight of the blocks' linear layers."""
        return self.bytes or self.dtype.itemsize


def int8(layer: nn.Linear, weight: torch.Tensor) -> nn.Linear:
    """LLM.int8: a scale a row; activations above 6 are multiplied in full (Dettmers et al. 2022)."""
    from bitsandbytes.nn import Int8Params, Linear8bitLt

    has_bias = layer.bias is not None
    quantized = Linear8bitLt(
        layer.in_features, layer.out_features, has_bias, has_fp16_weights=False, threshold=6.0, device="meta"
    )
    quantized.weight = Int8Params(weight, requires_grad=False, has_fp16_weights=False)
    return quantized


def nf4(layer: nn.Linear, weight: torch.Tensor) -> nn.Linear:
    """Four-bit normal floats, a scale for 64 weights (QLoRA, Dettmers et al. 2023)."""
    from bitsandbytes.nn import Linear4bit, Params4bit

    quantized = Linear4bit(
        layer.in_features,
        layer.out_features,
        layer.bias is not None,
        compute_dtype=weight.dtype,
        quant_type="nf4",
        device="meta",
    )
    quantized.weight = Params4bit(weight, requires_grad=False, quant_type="nf4")
    return quantized


QUANTIZED: dict[str, tuple[Quantize, float]] = {"int8": (int8, 1.0), "nf4": (nf4, 0.5625)}
PRECISIONS = ("auto", "fp32", "bf16", "int8", "nf4")


def precision(name: str, device: str) -> Precision:
    """A precision by its name; beside quantized weights, computation is in the device's usual format.

    Raises:
        UsageError: there is no such precision, or weights cannot be quantized for the device.
    """
    default = half_precision(device)
    if name == "auto":
        return Precision("fp32" if default == torch.float32 else "bf16", default)
    if name in QUANTIZED and device_kind(device) not in QUANTIZING:
        raise UsageError(
            f"{name}: weights cannot be quantized for {device_kind(device)} devices, only for NVIDIA and AMD GPUs and"
            " the CPU; give --precision bf16 or fp32, or the preset least."
        )
    if name in QUANTIZED:
        return Precision(name, default, *QUANTIZED[name])
    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16}
    if name not in dtypes:
        raise UsageError(f"--precision: give {', '.join(PRECISIONS[:-1])} or {PRECISIONS[-1]}; not '{name}'.")
    return Precision(name, dtypes[name])


def offloads_by_module(offload: str) -> bool:
    """Whether weights stay in main memory and come to the device module by module."""
    return offload in BY_MODULE


def enable_offload(network: nn.Module, offload: str, device: str) -> None:
    """Hooks the offloaded modules of a network in main memory; all other weights move to the device for good."""
    modules = offloaded_modules(network, offload)
    offloaded = {id(parameter) for module in modules for parameter in module.parameters()}
    for parameter in network.parameters():
        if id(parameter) not in offloaded:
            parameter.data = parameter.data.to(device)
    for module in modules:
        OffloadHook(module, device)


def offloaded_modules(network: nn.Module, offload: str) -> list[nn.Module]:
    """The modules that are offloaded: the network's blocks ("group"), or the single layers of its blocks."""
    blocks = list(network.get_submodule("blocks").children())
    if offload == "group":
        return blocks
    return [module for block in blocks for module in block.modules() if not any(True for _ in module.children())]


class OffloadHook:
    """Keeps a module's weights on the device only while it is called."""

    def __init__(self, module: nn.Module, device: str) -> None:
        self.device = torch.device(device)
        self.host = [(parameter, parameter.data) for parameter in module.parameters()]
        module.register_forward_pre_hook(self.load)
        module.register_forward_hook(self.release)

    def load(self, module: nn.Module, inputs: object) -> None:
        """Before the module is called: copies its weights to the device."""
        for parameter, weights in self.host:
            parameter.data = weights.to(self.device, non_blocking=self.device.type == "cuda")

    def release(self, module: nn.Module, inputs: object, output: object) -> None:
        """After the call: refers to the weights in main memory again."""
        for parameter, weights in self.host:
            parameter.data = weights
