"""Offloaded weights come to the device when their module is called, and the output is the same."""

from __future__ import annotations

import pytest
import torch

from blockvid_cli.models import devices
from blockvid_cli.models.wan.denoiser import WanDenoiser
from blockvid_cli.rollout.kv_cache.base import KVView
from tests import tiny_wan


@torch.inference_mode()
@pytest.mark.parametrize(("offload_by", "calls"), [("group", 2), ("sequential", 2 * 10)])
def test_an_offloaded_network_gives_the_same_velocity(offload_by, calls, monkeypatch):
    x, text = torch.randn(1, 3, 16, 4, 6), torch.randn(1, 7, 32)
    arguments = (x, torch.tensor([0.7] * 3), text, torch.arange(3.0), KVView())
    whole, _ = WanDenoiser(tiny_wan.network())(*arguments)
    loaded = []
    monkeypatch.setattr(devices.OffloadHook, "load", lambda self, module, inputs: loaded.append(module))
    network = tiny_wan.network()
    devices.enable_offload(network, offload_by, "cpu")
    velocity, _ = WanDenoiser(network)(*arguments)
    assert torch.equal(velocity, whole) and len(loaded) >= calls
    if offload_by == "group":
        assert loaded == list(network.blocks)


def test_nearly_all_weights_are_offloaded():
    network = tiny_wan.network(num_layers=6)
    total = sum(value.numel() for value in network.parameters())
    assert devices.offloaded_modules(network, "group") == list(network.blocks)
    for offload_by in devices.BY_MODULE:
        modules = devices.offloaded_modules(network, offload_by)
        offloaded = {id(value): value.numel() for module in modules for value in module.parameters()}
        assert id(network.proj_out.weight) not in offloaded and id(network.blocks[0].attn1.to_q.weight) in offloaded
        assert sum(offloaded.values()) > 0.8 * total


def test_weights_are_on_the_device_only_during_the_call():
    layer = torch.nn.Linear(3, 3)
    hook = devices.OffloadHook(layer, "cpu")
    hook.host = [(parameter, weights.clone()) for parameter, weights in hook.host]  # as if from another device
    in_host_memory = hook.host[0][1].data_ptr()
    hook.load(layer, None)
    layer.weight.data = torch.zeros(3, 3)  # as if it were a copy on a device
    assert layer.weight.data_ptr() != in_host_memory
    hook.release(layer, None, None)
    assert layer.weight.data_ptr() == in_host_memory
