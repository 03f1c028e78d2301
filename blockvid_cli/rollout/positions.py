"""At which moment each remembered and each new frame is said to be: the temporal coordinate of RoPE.

remembered   3  4  5 | 21 22 23     new  24 25 26      numbers in the film
absolute     3  4  5 | 21 22 23          24 25 26
packed       0  1  2 |  3  4  5           6  7  8      never leaves the range a network was trained on
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

Positions = Callable[[Sequence[int], Sequence[int]], torch.Tensor]


def absolute(remembered: Sequence[int], new: Sequence[int]) -> torch.Tensor:
    """Every frame at its number in the film: (remembered + new,)."""
    return torch.tensor([*remembered, *new], dtype=torch.float64)


def packed(remembered: Sequence[int], new: Sequence[int]) -> torch.Tensor:
    """Frames one after another from 0, whatever lies between them in the film: (remembered + new,)."""
    return torch.arange(len(remembered) + len(new), dtype=torch.float64)


POSITIONS: dict[str, Positions] = {"absolute": absolute, "packed": packed}
