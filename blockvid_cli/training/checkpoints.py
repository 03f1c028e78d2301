"""A training's state on disk: written whole then renamed, so that a kill never costs more than the last interval."""

from __future__ import annotations

import os
import pickle
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from blockvid_cli.errors import BlockvidError


@dataclass
class EMA:
    """The exponential moving average of a module's floating-point parameters and buffers."""

    decay: float
    values: dict[str, torch.Tensor] = field(default_factory=dict)

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Takes in the module after ``step``; early steps weigh more (decay grows as (1 + t)/(10 + t))."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, value in module.state_dict().items():
            if name not in self.values:
                self.values[name] = value.detach().clone()
            elif value.is_floating_point():
                self.values[name].lerp_(value, 1 - decay)

    def swap(self, module: nn.Module) -> None:
        """Exchanges the module's values and the average's; call it twice to restore."""
        held = {name: value.detach().clone() for name, value in module.state_dict().items()}
        module.load_state_dict(self.values)
        self.values = held


def save(path: Path, state: dict[str, object]) -> None:
    """Writes a state dictionary, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    torch.save(state, part)
    os.replace(part, path)


def load(path: Path) -> dict[str, object] | None:
    """The state saved at ``path``, or None when there is none.

    Raises:
        BlockvidError: the file is damaged.
    """
    if not path.exists():
        return None
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise BlockvidError(f"{path}: this checkpoint cannot be read ({error}); delete it to begin again.") from error
