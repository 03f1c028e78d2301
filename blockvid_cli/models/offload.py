"""Where a network's weights wait: on the device, or in main memory, from which they come when it is their turn.

The weights in main memory are never written, so that nothing has to be copied back: what came is let go.
"""

from __future__ import annotations

import torch
from torch import nn

GROUPS = ("group", "sequential")


def offloads_by_module(offload: str) -> bool:
    """Whether weights wait in main memory."""
    return offload in GROUPS


def enable_offload(network: nn.Module, offload: str, device: str) -> None:
    """Lets parts of a network in main memory come when they are used; what is in none goes to the device for good."""
    parts = offloaded_modules(network, offload)
    away = {id(parameter) for part in parts for parameter in part.parameters()}
    for parameter in network.parameters():
        if id(parameter) not in away:
            parameter.data = parameter.data.to(device)
    for part in parts:
        OffloadHook(part, device)


def offloaded_modules(network: nn.Module, offload: str) -> list[nn.Module]:
    """The parts that wait: the network's blocks ("group"), or the single layers of its blocks ("sequential")."""
    blocks = list(network.blocks)
    if offload == "group":
        return blocks
    return [module for block in blocks for module in block.modules() if not any(True for _ in module.children())]


class OffloadHook:
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
