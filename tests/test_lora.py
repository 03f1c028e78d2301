"""LoRA of post-training: what is trained, the file it leaves, and that diffusers and this program read it alike."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from blockvid_cli.errors import UsageError
from blockvid_cli.models.checkpoint import read_lora
from blockvid_cli.training.stages import KV_LORA, LoraConfig
from tests.small import LATENT, network

pytest.importorskip("peft", reason="LoRA is trained by PEFT, which the extra 'train' installs")

from blockvid_cli.training.lora import add_lora, lora_state, merge_lora, target_layers, write_lora


def output(module: nn.Module) -> torch.Tensor:
    """What the small network makes of fixed latents."""
    torch.manual_seed(9)
    x, prompt = torch.randn(1, LATENT[0], 2, *LATENT[1:]), torch.randn(1, 3, 16)
    with torch.no_grad():
        return module(x, torch.tensor([500.0]), prompt, return_dict=False)[0]


def adapted(config: LoraConfig) -> nn.Module:
    """The small network with pairs that change something."""
    module = network()
    add_lora(module, config)
    torch.manual_seed(3)
    for name, value in module.named_parameters():
        if ".lora_B." in name:
            value.data.normal_(std=0.3)
    return module


def test_only_the_pairs_of_the_layers_that_were_named_are_trained():
    module = network(layers=4)
    names = target_layers(module, KV_LORA)
    assert names == [f"blocks.{block}.attn1.to_{part}" for block in (2, 3) for part in "kv"]
    plain = output(module)
    add_lora(module, KV_LORA)
    assert torch.equal(output(module), plain)  # a new pair changes nothing
    trained = [name for name, value in module.named_parameters() if value.requires_grad]
    assert len(trained) == 8 and all(".lora_" in name for name in trained)
    with pytest.raises(UsageError, match="no layers nonsense"):
        add_lora(network(), LoraConfig(targets=("nonsense",)))


@pytest.mark.parametrize("alpha", [None, 2])
def test_the_file_is_read_alike_by_diffusers_and_by_this_program(alpha, tmp_path):
    config = LoraConfig(rank=4, alpha=alpha, targets=("attn1.to_q", "ffn.net.0.proj"))
    module = adapted(config)
    expected = output(module)
    weights = module.state_dict()
    write_lora(tmp_path / "lora.safetensors", weights, config)
    assert len(lora_state(weights)) == 8
    theirs = network()
    theirs.load_lora_adapter(str(tmp_path / "lora.safetensors"), prefix="transformer")
    assert torch.allclose(output(theirs), expected, atol=2e-2)
    ours, pairs = network(), read_lora(tmp_path / "lora.safetensors")
    ours.load_state_dict({name: pairs.merge(name, value) for name, value in ours.state_dict().items()})
    assert torch.allclose(output(ours), expected, atol=2e-2)
    assert not torch.allclose(output(network()), expected, atol=2e-2)


def test_merged_pairs_are_the_weights_themselves():
    module = adapted(LoraConfig(rank=4))
    expected = output(module)
    merge_lora(module)
    assert torch.allclose(output(module), expected, atol=1e-5)
    assert module.state_dict().keys() == network().state_dict().keys()
    assert all(value.requires_grad for value in module.parameters())
