"""In what a network's weights are kept: full, half, or quantised by bitsandbytes.

Only the wide linear layers of the blocks are quantised; patch and caption embedding, clock, modulation, norms and the
last projection stay as they are, since errors there colour the whole picture. Works on the CPU as well.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from blockvid_cli.errors import UsageError

Quantise = Callable[[nn.Linear, torch.Tensor], nn.Linear]


@dataclass(frozen=True)
class Precision:
    """What is computed in, how wide layers are kept, and their bytes a weight (0: those of ``dtype``)."""

    name: str
    dtype: torch.dtype
    quantise: Quantise | None = None
    bytes: float = 0.0

    @property
    def weight_bytes(self) -> float:
        """Bytes a weight of a block's wide layers."""
        return self.bytes or self.dtype.itemsize


def int8(layer: nn.Linear, weight: torch.Tensor) -> nn.Linear:
    """LLM.int8: a scale a row; activations above 6 are multiplied in full (Dettmers et al. 2022)."""
    from bitsandbytes.nn import Int8Params, Linear8bitLt

    has_bias = layer.bias is not None
    kept = Linear8bitLt(
        layer.in_features, layer.out_features, has_bias, has_fp16_weights=False, threshold=6.0, device="meta"
    )
    kept.weight = Int8Params(weight, requires_grad=False, has_fp16_weights=False)
    return kept


def nf4(layer: nn.Linear, weight: torch.Tensor) -> nn.Linear:
    """Four-bit normal floats, a scale for 64 weights (QLoRA, Dettmers et al. 2023)."""
    from bitsandbytes.nn import Linear4bit, Params4bit

    kept = Linear4bit(
        layer.in_features,
        layer.out_features,
        layer.bias is not None,
        compute_dtype=weight.dtype,
        quant_type="nf4",
        device="meta",
    )
    kept.weight = Params4bit(weight, requires_grad=False, quant_type="nf4")
    return kept


KEPT: dict[str, tuple[Quantise, float]] = {"int8": (int8, 1.0), "nf4": (nf4, 0.5625)}
PRECISIONS = ("auto", "fp32", "bf16", "int8", "nf4")


def precision(name: str, device: str) -> Precision:
    """A precision by its name; what is computed in beside quantised weights is the device's usual.

    Raises:
        UsageError: there is no such precision.
    """
    usual = torch.float32 if device == "cpu" else torch.bfloat16
    if name == "auto":
        return Precision("fp32" if device == "cpu" else "bf16", usual)
    if name in KEPT:
        return Precision(name, usual, *KEPT[name])
    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16}
    if name not in dtypes:
        raise UsageError(f"--precision: give {', '.join(PRECISIONS[:-1])} or {PRECISIONS[-1]}; not '{name}'.")
    return Precision(name, dtypes[name])
