"""Weights in main memory that come to the device only while their module is called.

diffusers' ``apply_group_offloading`` does the same in more general ways. It needs accelerate, which nothing else here
does, and without CUDA streams it copies a group's weights back after each call; these weights are never written, so
that the copy on the device is just dropped.
"""

from __future__ import annotations

import torch
from torch import nn

BY_MODULE = ("group", "sequential")


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
            parameter.data = weights.to(self.device, non_blocking=True)

    def release(self, module: nn.Module, inputs: object, output: object) -> None:
        """After the call: refers to the weights in main memory again."""
        for parameter, weights in self.host:
            parameter.data = weights
