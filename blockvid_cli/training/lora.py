"""LoRA for post-training, by PEFT: pairs of small matrices beside linear layers; a file that diffusers loads.

    W + alpha / rank · B A      the linear layers that a stage names, in all of the network's blocks or the later ones

(Hu et al. 2021). The file has diffusers' names, ``transformer.blocks.3.attn1.to_k.lora_A.weight``, and says its
rank in its header, as ``WanPipeline.load_lora_weights`` reads them; this program reads it where a card names it.
"""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save
from torch import nn

from blockvid_cli.errors import UsageError
from blockvid_cli.project.atomic_files import write_atomically
from blockvid_cli.training.stages import LoraConfig

ADAPTER = "default"
PREFIX = "transformer"  # of names in diffusers' files


def add_lora(network: nn.Module, config: LoraConfig) -> None:
    """Freezes a network and puts trainable pairs beside its layers.

    Raises:
        UsageError: PEFT is not installed, or the network has no layer of these names.
    """
    if importlib.util.find_spec("peft") is None:
        raise UsageError("LoRA needs PEFT; install it with: pip install 'blockvid[train]'.")
    from peft import LoraConfig as PeftConfig
    from peft import inject_adapter_in_model

    names = target_layers(network, config)
    if not names:
        raise UsageError(f"LoRA: the network has no layers {', '.join(config.targets)}; name others.")
    network.requires_grad_(False)
    alpha = config.rank if config.alpha is None else config.alpha
    inject_adapter_in_model(
        PeftConfig(r=config.rank, lora_alpha=alpha, target_modules=names, lora_dropout=0.0), network, ADAPTER
    )
    for value in (p for p in network.parameters() if p.requires_grad):
        value.data = value.data.float()


def target_layers(network: nn.Module, config: LoraConfig) -> list[str]:
    """The names of the linear layers that get a pair, from the block on where ``first_layer`` of them are passed."""
    blocks = len(list(network.get_submodule("blocks").children()))
    first = round(config.first_layer * blocks)
    found = []
    for name, module in network.named_modules():
        match = re.fullmatch(r"blocks\.(\d+)\.(.+)", name)
        if match and isinstance(module, nn.Linear) and match[2] in config.targets and int(match[1]) >= first:
            found.append(name)
    return found


def lora_state(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The pairs among a network's weights, in diffusers' names."""
    return {
        f"{PREFIX}.{name.replace(f'.{ADAPTER}.', '.')}": value
        for name, value in weights.items()
        if ".lora_A." in name or ".lora_B." in name
    }


def write_lora(file: Path, weights: Mapping[str, torch.Tensor], config: LoraConfig) -> None:
    """Writes the pairs of a network as a file for diffusers and for this program, in half precision.

    B is scaled, so that alpha is the rank in the file: not every reader looks for another one.

    Raises:
        BlockvidError: the file cannot be written.
    """
    scale = (config.rank if config.alpha is None else config.alpha) / config.rank
    pairs = {
        name: (value.detach().cpu() * (scale if ".lora_B." in name else 1.0)).half().contiguous()
        for name, value in lora_state(weights).items()
    }
    header = {
        "r": config.rank,
        "lora_alpha": config.rank,
        "target_modules": sorted(config.targets),
        "peft_type": "LORA",
    }
    write_atomically(file, save(pairs, {"format": "pt", "lora_adapter_metadata": json.dumps(header)}))


def merge_lora(network: nn.Module) -> None:
    """Adds every pair to its layer's weights and takes the pairs away; all weights can be trained again."""
    from peft.tuners.lora import LoraLayer

    for name, module in list(network.named_modules()):
        if isinstance(module, LoraLayer):
            module.merge()
            parent, _, attribute = name.rpartition(".")
            setattr(network.get_submodule(parent), attribute, module.get_base_layer())
    network.requires_grad_(True)
