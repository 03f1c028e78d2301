"""From a card to a network and a codec with their weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import WanTransformer3DModel
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from blockvid_cli.card import ModelCard
from blockvid_cli.codec.stream import Codec
from blockvid_cli.codec.tiny import TinyCodec, TinySizes
from blockvid_cli.denoiser.wan import WanDenoiser
from blockvid_cli.errors import MissingModelError, UsageError, choose
from blockvid_cli.storybook.edition import read_edition
from blockvid_cli.storybook.probe import Probe


def wan_network(config: dict[str, Any]) -> WanTransformer3DModel:
    """A Wan network of these sizes, with diffusers' random weights."""
    return WanTransformer3DModel(**{**config, "patch_size": tuple(config["patch_size"])})


def tiny_codec(config: dict[str, Any]) -> TinyCodec:
    """The small codec of these sizes, with random weights."""
    return TinyCodec(TinySizes(**config))


NETWORKS: dict[str, Callable[[dict[str, Any]], nn.Module]] = {"wan": wan_network}
CODECS: dict[str, Callable[[dict[str, Any]], nn.Module]] = {"tiny": tiny_codec}


def load_denoiser(card: ModelCard, device: str, dtype: torch.dtype) -> WanDenoiser:
    """The card's network with its weights, brought to the denoiser's contract."""
    network = choose("network", NETWORKS, card.network.kind)(card.network.config)
    _fill(network, card.path(card.network), card.name)
    cast(network, dtype)
    return WanDenoiser(network.to(device).eval().requires_grad_(False), card.network.predicts)


def cast(network: WanTransformer3DModel, dtype: torch.dtype) -> None:
    """Casts the weights, except those that diffusers says must stay in float32 (norms, clock, modulation)."""
    sensitive = network._keep_in_fp32_modules or []
    for name, value in network.named_parameters():
        if not any(part in sensitive for part in name.split(".")):
            value.data = value.data.to(dtype)


def load_codec(card: ModelCard, device: str) -> Codec:
    """The card's codec with its weights, in float32."""
    codec = choose("codec", CODECS, card.codec.kind)(card.codec.config)
    _fill(codec, card.path(card.codec), card.name)
    return codec.to(device).eval().requires_grad_(False)


def load_probe(card: ModelCard) -> Probe:
    """The network that reads the pictures of a picture-book model.

    Raises:
        UsageError: the model has none; its pictures have no ground truth.
    """
    if card.probe is None or card.edition is None:
        raise UsageError(f"the model '{card.name}' has no probe; --quality measures picture-book models (storybook).")
    probe = Probe(read_edition(card.folder / card.edition))
    _fill(probe, card.folder / card.probe, card.name)
    return probe.eval().requires_grad_(False)


def _fill(module: nn.Module, file: Path, model: str) -> None:
    """Loads a safetensors file into a module, whole.

    Raises:
        MissingModelError: the file is absent, damaged, or of another shape.
    """
    if not file.is_file():
        raise MissingModelError(f"the model '{model}' lacks {file.name}; expected at {file}.")
    try:
        weights = load_file(file)
    except (SafetensorError, OSError) as error:
        raise MissingModelError(f"{file}: the weights of '{model}' cannot be read ({error}).") from error
    own = module.state_dict()
    wrong = [name for name in own if name not in weights or weights[name].shape != own[name].shape]
    if wrong or len(weights) != len(own):
        raise MissingModelError(
            f"{file}: these are not the weights of '{model}': {len(own) - len(wrong)} of {len(own)} tensors fit"
            f"{f', {wrong[0]} does not' if wrong else ''}, {len(set(weights) - set(own))} are unknown."
        )
    module.load_state_dict(weights)
