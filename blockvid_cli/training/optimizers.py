"""Muon for matrices and convolution kernels, AdamW for all other weights (both from torch.optim)."""

from __future__ import annotations

import torch
from torch import nn


class KernelMuon(torch.optim.Muon):
    """Muon for matrices and for convolution kernels, which are matrices (out, rows·columns·in) to it.

    Kernels must be in ``channels_last``, so that the matrix is a view of the kernel and not a copy.
    """

    def __init__(self, weights: list[nn.Parameter], rate: float) -> None:
        self.weights = weights
        matrices = [nn.Parameter(_matrix(weight.detach())) for weight in weights]
        shared = all(m.data_ptr() == w.data_ptr() for m, w in zip(matrices, weights, strict=True))
        if not shared:
            raise ValueError("a convolution's kernel is not in channels_last")
        super().__init__(matrices, lr=rate, momentum=0.95, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """One step with the gradients of the weights."""
        for matrix, weight in zip(self.param_groups[0]["params"], self.weights, strict=True):
            matrix.grad = None if weight.grad is None else _matrix(weight.grad)
        super().step(closure)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clears the weights' gradients."""
        for weight in self.weights:
            weight.grad = None


def _matrix(weight: torch.Tensor) -> torch.Tensor:
    return weight if weight.ndim == 2 else weight.permute(0, 2, 3, 1).flatten(1)


def muon_and_adamw(
    module: nn.Module, matrix_rate: float, rate: float, but: tuple[str, ...] = ()
) -> list[torch.optim.Optimizer]:
    """Muon for matrices and kernels, AdamW for all other weights and for names that contain one of ``but``."""
    inner = {n: p for n, p in module.named_parameters() if p.ndim in (2, 4) and not any(name in n for name in but)}
    others = [p for n, p in module.named_parameters() if n not in inner]
    return [
        KernelMuon(list(inner.values()), matrix_rate),
        torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.95), weight_decay=0.0),
    ]
