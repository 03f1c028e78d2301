"""How fast a device multiplies matrices: what a denoiser's speed is measured against and foretold from."""

from __future__ import annotations

import time

import torch

SIDE = 2048  # of the matrices


def matmul_flops(device: str, dtype: torch.dtype) -> float:
    """Floating-point operations a second of a matrix product of SIDE x SIDE; the best of five."""
    a, b = (torch.randn(SIDE, SIDE, device=device).to(dtype) for _ in range(2))
    best = float("inf")
    for _ in range(6):
        synchronize(device)
        began = time.perf_counter()
        _ = a @ b
        synchronize(device)
        best = min(best, time.perf_counter() - began)
    return 2 * SIDE**3 / best


def synchronize(device: str) -> None:
    """Until a device has done what it was told."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
