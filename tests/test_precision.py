"""Quantized weights stay close to full ones, and only the linear layers of the blocks are quantized."""

from __future__ import annotations

import pytest
import torch

from blockvid_cli.errors import UsageError
from blockvid_cli.models.devices import precision
from blockvid_cli.models.find import find_model
from blockvid_cli.models.loading import load_denoiser
from blockvid_cli.rollout.kv_cache.base import KVView
from tests import tiny_wan

WIDE = {"num_attention_heads": 4, "attention_head_dim": 64, "ffn_dim": 1024, "num_layers": 4}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A network wide enough for scales of 64 weights to mean something."""
    folder = tiny_wan.model(tmp_path_factory.mktemp("wide"), "diffusers")
    network = tiny_wan.network(**WIDE)
    network.save_pretrained(folder / "transformer")
    card = (folder / "card.yaml").read_text()
    for name, value in WIDE.items():
        card = card.replace(f"{name}: {tiny_wan.NETWORK[name]}", f"{name}: {value}")
    (folder / "card.yaml").write_text(card)
    return folder


@torch.inference_mode()
def velocity(folder, name: str) -> torch.Tensor:
    denoiser = load_denoiser(find_model(str(folder)), "cpu", precision(name, "cpu"))
    generator = torch.Generator().manual_seed(3)
    x, text = torch.randn(1, 3, 16, 8, 12, generator=generator), torch.randn(1, 7, 32, generator=generator)
    return denoiser(x, torch.tensor([0.6] * 3), text, torch.arange(3.0), KVView())[0]


@pytest.mark.parametrize(("name", "most"), [("bf16", 0.02), ("int8", 0.02), ("nf4", 0.06)])
def test_a_precision_changes_the_velocity_by_little(name, most, folder):
    full, other = velocity(folder, "fp32"), velocity(folder, name)
    error = float((other - full).norm() / full.norm())
    print(f"{name}: {100 * error:.2f} % of the velocity")
    assert 1e-5 < error < most


def test_only_linear_layers_of_blocks_are_quantized(folder):
    from bitsandbytes.nn import Linear4bit, Linear8bitLt

    for name, kind in (("int8", Linear8bitLt), ("nf4", Linear4bit)):
        network = load_denoiser(find_model(str(folder)), "cpu", precision(name, "cpu")).network
        quantized = {path for path, layer in network.named_modules() if isinstance(layer, kind)}
        assert quantized and all(path.startswith("blocks.") for path in quantized)
        assert len(quantized) == 4 * 10  # q, k, v, out twice, and the two of the feed-forward, in each block
        assert network.proj_out.weight.dtype == torch.float32
        assert network.blocks[0].scale_shift_table.dtype == torch.float32


def test_sensitive_modules_stay_in_full_precision(folder):
    network = load_denoiser(find_model(str(folder)), "cpu", precision("bf16", "cpu")).network
    assert network.blocks[0].attn1.to_q.weight.dtype == torch.bfloat16
    assert network.blocks[0].scale_shift_table.dtype == torch.float32
    assert network.condition_embedder.time_embedder.linear_1.weight.dtype == torch.float32


def test_an_unknown_precision_gets_a_sentence():
    with pytest.raises(UsageError, match="nf4"):
        precision("fp8", "cpu")
    assert precision("auto", "cpu").name == "fp32" and precision("auto", "cuda").name == "bf16"
