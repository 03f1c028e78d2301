"""Weights that wait in main memory come when it is their turn, and what is drawn is the same."""

from __future__ import annotations

import pytest
import torch

from blockvid_cli.denoiser import offload
from blockvid_cli.denoiser.wan import WanDenoiser
from blockvid_cli.rollout.memories.memory import View
from tests import tiny_wan


@torch.inference_mode()
@pytest.mark.parametrize(("way", "turns"), [("group", 2), ("sequential", 2 * 10)])
def test_a_network_whose_weights_wait_draws_the_same(way, turns, monkeypatch):
    x, text = torch.randn(1, 3, 16, 4, 6), torch.randn(1, 7, 32)
    arguments = (x, torch.tensor([0.7] * 3), text, torch.arange(3.0), View())
    whole, _ = WanDenoiser(tiny_wan.network())(*arguments)
    came = []
    monkeypatch.setattr(offload.Turn, "come", lambda self, module, inputs: came.append(module))
    network = tiny_wan.network()
    offload.brought_in_turn(network, way, "cpu")
    drawn, _ = WanDenoiser(network)(*arguments)
    assert torch.equal(drawn, whole) and len(came) >= turns
    if way == "group":
        assert came == list(network.blocks)


@pytest.mark.parametrize("way", ["group", "sequential"])
def test_only_what_is_small_goes_to_the_device_for_good(way):
    network = tiny_wan.network()
    offload.brought_in_turn(network, way, "meta")
    assert network.proj_out.weight.device.type == "meta" and network.blocks[0].attn1.to_q.weight.device.type == "cpu"
    assert network.blocks[0].scale_shift_table.device.type == ("cpu" if way == "group" else "meta")


def test_what_came_goes_again():
    layer = torch.nn.Linear(3, 3)
    home = layer.weight.data
    turn = offload.Turn(layer, "meta")
    turn.come(layer, None)
    assert layer.weight.device.type == "meta"
    turn.go(layer, None, None)
    assert layer.weight.data is home or layer.weight.data.data_ptr() == home.data_ptr()
