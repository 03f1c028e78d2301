"""Where a network's weights wait: on the device, or in main memory, from which they come when it is their turn.

The weights in main memory are never written, so that nothing has to be copied back: what came is let go.
"""

from __future__ import annotations

import torch
from torch import nn

GROUPS = ("group", "sequential")


def waits(offload: str) -> bool:
    """Whether weights wait in main memory."""
    return offload in GROUPS


def brought_in_turn(network: nn.Module, offload: str, device: str) -> None:
    """Lets blocks ("group") or single layers ("sequential") of a network in main memory come when they are used.

    What belongs to no block or layer is small and goes to the device for good.
    """
    blocks = list(network.blocks)
    leaves = [module for block in blocks for module in block.modules() if not any(True for _ in module.children())]
    waiting = blocks if offload == "group" else leaves
    away = {id(parameter) for module in waiting for parameter in module.parameters()}
    for parameter in network.parameters():
        if id(parameter) not in away:
            parameter.data = parameter.data.to(device)
    for module in waiting:
        Turn(module, device)


class Turn:
    """A module whose weights are on the device only while it is called."""

    def __init__(self, module: nn.Module, device: str) -> None:
        self.device = torch.device(device)
        self.home = [(parameter, parameter.data) for parameter in module.parameters()]
        module.register_forward_pre_hook(self.come)
        module.register_forward_hook(self.go)

    def come(self, module: nn.Module, inputs: object) -> None:
        """Before the module is called."""
        for parameter, waiting in self.home:
            parameter.data = waiting.to(self.device, non_blocking=True)

    def go(self, module: nn.Module, inputs: object, output: object) -> None:
        """After it was called."""
        for parameter, waiting in self.home:
            parameter.data = waiting
