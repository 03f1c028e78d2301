"""The number format of a transformer's weights: full or half precision, or quantized by bitsandbytes.

Only the linear layers of the blocks are quantized; patch, prompt and time embeddings, modulation, norms and the last
projection are not, since errors there change the colour of whole frames. It works on the CPU as well. bitsandbytes is
imported only when a layer is quantized.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from blockvid_cli.errors import UsageError

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
        UsageError: there is no such precision.
    """
    default = torch.float32 if device == "cpu" else torch.bfloat16
    if name == "auto":
        return Precision("fp32" if device == "cpu" else "bf16", default)
    if name in QUANTIZED:
        return Precision(name, default, *QUANTIZED[name])
    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16}
    if name not in dtypes:
        raise UsageError(f"--precision: give {', '.join(PRECISIONS[:-1])} or {PRECISIONS[-1]}; not '{name}'.")
    return Precision(name, dtypes[name])
