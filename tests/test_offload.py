"""Weights that wait in main memory come when it is their turn, and what is drawn is the same."""

from __future__ import annotations

import pytest
import torch

from blockvid_cli.models import offload
from blockvid_cli.models.wan.denoiser import WanDenoiser
from blockvid_cli.rollout.kv_cache.base import KVView
from tests import tiny_wan


@torch.inference_mode()
@pytest.mark.parametrize(("way", "turns"), [("group", 2), ("sequential", 2 * 10)])
def test_a_network_whose_weights_wait_draws_the_same(way, turns, monkeypatch):
    x, text = torch.randn(1, 3, 16, 4, 6), torch.randn(1, 7, 32)
    arguments = (x, torch.tensor([0.7] * 3), text, torch.arange(3.0), KVView())
    whole, _ = WanDenoiser(tiny_wan.network())(*arguments)
    came = []
    monkeypatch.setattr(offload.OffloadHook, "load", lambda self, module, inputs: came.append(module))
    network = tiny_wan.network()
    offload.enable_offload(network, way, "cpu")
    drawn, _ = WanDenoiser(network)(*arguments)
    assert torch.equal(drawn, whole) and len(came) >= turns
    if way == "group":
        assert came == list(network.blocks)


def test_what_waits_is_nearly_all_and_what_does_not_is_small():
    network = tiny_wan.network(num_layers=6)
    total = sum(value.numel() for value in network.parameters())
    assert offload.offloaded_modules(network, "group") == list(network.blocks)
    for way in offload.BY_MODULE:
        away = {id(value): value.numel() for part in offload.offloaded_modules(network, way) for value in part.parameters()}
        assert id(network.proj_out.weight) not in away and id(network.blocks[0].attn1.to_q.weight) in away
        assert sum(away.values()) > 0.8 * total


def test_what_came_goes_again():
    layer = torch.nn.Linear(3, 3)
    home, turn = layer.weight.data_ptr(), offload.OffloadHook(layer, "cpu")
    turn.home = [(parameter, waiting.clone()) for parameter, waiting in turn.home]
    turn.come(layer, None)
    assert layer.weight.data_ptr() != home
    elsewhere = layer.weight.data_ptr()
    layer.weight.data = torch.zeros(3, 3)  # as if it were on a device
    turn.go(layer, None, None)
    assert layer.weight.data_ptr() == elsewhere
