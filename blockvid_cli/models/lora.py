"""Low-rank changes of a network's weights, as PEFT, diffusers and ComfyUI name them; merged on reading.

W + scale · (alpha / rank) · B A       (Hu et al. 2021, "LoRA"); alpha is the rank where a file says nothing
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import torch

from blockvid_cli.errors import MissingModelError
from blockvid_cli.models.checkpoint import read_checkpoint
from blockvid_cli.models.layouts import to_diffusers

_PART = re.compile(r"(.+)\.(?:lora_(A|B|down|up)(?:\.\w+)?\.weight|(alpha))")


@dataclass(frozen=True)
class Lora:
    """Pairs (A (r, in), B (out, r)) and factors by the name of the weight they change."""

    pairs: dict[str, tuple[torch.Tensor, torch.Tensor, float]]

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of the weight that a pair changes."""
        down, up, _ = self.pairs[name]
        return up.shape[0], down.shape[1]

    def added(self, name: str, weight: torch.Tensor) -> torch.Tensor:
        """The weight with its change, in the weight's type."""
        if name not in self.pairs:
            return weight
        down, up, factor = self.pairs[name]
        return (weight.float() + factor * (up.float() @ down.float())).to(weight.dtype)


def read_lora(place: Path, scale: float = 1.0) -> Lora:
    """The changes in a file.

    Raises:
        MissingModelError: it holds no LoRA, or half of one.
    """
    parts: dict[str, dict[str, torch.Tensor]] = {}
    for name, stored in read_checkpoint(place).tensors.items():
        match = _PART.fullmatch(name)
        if match:
            kind = {"down": "A", "up": "B"}.get(match[2], match[2]) or "alpha"
            parts.setdefault(to_diffusers(f"{match[1]}.weight"), {})[kind] = stored.read()
    pairs = {}
    for name, part in parts.items():
        if "A" not in part or "B" not in part or part["A"].shape[0] != part["B"].shape[1]:
            raise MissingModelError(f"{place}: this LoRA is not whole: the pair of {name} does not fit together.")
        rank = part["A"].shape[0]
        alpha = float(part["alpha"]) if "alpha" in part else rank
        pairs[name] = part["A"], part["B"], scale * alpha / rank
    if not pairs:
        raise MissingModelError(f"{place}: this file holds no LoRA; expected pairs of lora_A and lora_B.")
    return Lora(pairs)
