"""From a card to a network and a codec with their weights.

Networks are built without memory and filled tensor by tensor, each brought to its precision and device as it is read,
so that a model needs room once: names are told apart by ``layouts``, files read by ``checkpoint``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKLWan, SkyReelsV2Transformer3DModel, WanTransformer3DModel
from torch import nn

from blockvid_cli.errors import MissingModelError, UsageError, lookup
from blockvid_cli.models.card import FileRef, ModelCard, Weights
from blockvid_cli.models.checkpoint import Checkpoint, StoredTensor, read_checkpoint
from blockvid_cli.models.hub import local_path
from blockvid_cli.models.lora import Lora, read_lora
from blockvid_cli.models.precision import Precision
from blockvid_cli.models.skyreels import SkyReelsDenoiser
from blockvid_cli.models.tiny_vae import TinyVAE, TinyVAEConfig
from blockvid_cli.models.vae import VAE
from blockvid_cli.models.wan.denoiser import WanDenoiser
from blockvid_cli.models.wan.vae import WanVAE
from blockvid_cli.storybook.edition import read_edition
from blockvid_cli.storybook.probe import Probe


def wan_transformer(config: dict[str, Any]) -> WanTransformer3DModel:
    """A Wan network of these sizes, with diffusers' random weights."""
    return WanTransformer3DModel(**_as_tuples(config))


def skyreels_transformer(config: dict[str, Any]) -> SkyReelsV2Transformer3DModel:
    """A SkyReels-V2 network of these sizes, with diffusers' random weights."""
    return SkyReelsV2Transformer3DModel(**_as_tuples(config))


def _as_tuples(config: dict[str, Any]) -> dict[str, Any]:
    """Lists as tuples, which is how diffusers wants them."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in config.items()}


def tiny_vae(config: dict[str, Any]) -> TinyVAE:
    """The small codec of these sizes, with random weights."""
    return TinyVAE(TinyVAEConfig(**config))


def wan_vae(config: dict[str, Any]) -> AutoencoderKLWan:
    """Wan's autoencoder of these sizes, with diffusers' random weights; its mean and deviation are in the config."""
    return AutoencoderKLWan(**config)


NETWORKS: dict[str, Callable[[dict[str, Any]], nn.Module]] = {
    "wan": wan_transformer,
    "storybook": wan_transformer,
    "skyreels": skyreels_transformer,
}
CODECS: dict[str, Callable[[dict[str, Any]], nn.Module]] = {"storybook": tiny_vae, "wan": wan_vae, "skyreels": wan_vae}


@dataclass(frozen=True)
class KeyMatch:
    """How a checkpoint's tensors fit a module: names that fit, lack, have another shape, or are unknown."""

    fit: tuple[str, ...]
    absent: tuple[str, ...]
    misshapen: tuple[str, ...]
    unknown: tuple[str, ...]

    @property
    def whole(self) -> bool:
        """Whether the module is filled; tensors of the checkpoint that it does not know are no harm."""
        return not self.absent and not self.misshapen

    def __str__(self) -> str:
        total = len(self.fit) + len(self.absent) + len(self.misshapen)
        out = f"{len(self.fit)} of {total} tensors fit"
        for what, names in (("absent", self.absent), ("of another shape", self.misshapen), ("unknown", self.unknown)):
            out += f", {len(names)} {what} ({names[0]}{', ...' if len(names) > 1 else ''})" if names else ""
        return out


def match_keys(module: nn.Module, tensors: Mapping[str, StoredTensor]) -> KeyMatch:
    """Which tensors of a checkpoint fit a module."""
    own = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    return KeyMatch(
        tuple(name for name, shape in own.items() if name in tensors and tensors[name].shape == shape),
        tuple(name for name in own if name not in tensors),
        tuple(name for name, shape in own.items() if name in tensors and tensors[name].shape != shape),
        tuple(name for name in tensors if name not in own),
    )


def meta_transformer(card: ModelCard) -> nn.Module:
    """A card's network in its true sizes, on the meta device: shapes and names, no memory."""
    with torch.device("meta"):
        return _made("transformer", NETWORKS, card.family, card.transformer)


def meta_vae(card: ModelCard) -> nn.Module:
    """A card's codec, likewise."""
    with torch.device("meta"):
        return _made("vae", CODECS, card.family, card.vae)


def _made(
    what: str, table: Mapping[str, Callable[[dict[str, Any]], nn.Module]], family: str, part: Weights
) -> nn.Module:
    """A module of a part's kind and sizes.

    Raises:
        UsageError: there is no such kind, or its sizes are none.
    """
    try:
        return lookup("model family", table, family)(part.config)
    except (TypeError, ValueError, KeyError, RuntimeError, AttributeError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise UsageError(
            f"{what}.config: a model of the family '{family}' cannot have these sizes ({first})."
        ) from error


def load_denoiser(card: ModelCard, device: str, precision: Precision, fps: float | None = None) -> WanDenoiser:
    """The card's network with its weights, brought to the denoiser's contract, for films of ``fps`` (the card's).

    Raises:
        MissingModelError: the weights are absent, damaged, or not of this network.
    """
    network = meta_transformer(card)
    found = _opened(network, card, card.transformer)
    lora = lora_of(network, card) if card.transformer.lora else None
    _fill_network(network, found.tensors, precision, device, lora)
    network.eval().requires_grad_(False)
    if isinstance(network, SkyReelsV2Transformer3DModel):
        return SkyReelsDenoiser(network, card.transformer.predicts, fps or card.fps)
    return WanDenoiser(network, card.transformer.predicts)


def lora_of(network: nn.Module, card: ModelCard) -> Lora:
    """What the card adds to its network's weights.

    Raises:
        MissingModelError: it is absent, damaged, or changes weights that the network lacks.
    """
    part = card.transformer.lora
    if part is None:
        raise ValueError(f"the card of '{card.name}' names no LoRA")
    file = local_path(card, part)
    lora = read_lora(file, part.scale)
    own = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    wrong = [name for name in lora.pairs if own.get(name) != lora.shape(name)]
    if wrong:
        raise MissingModelError(
            f"{file}: this LoRA is not for '{card.name}':"
            f" {len(lora.pairs) - len(wrong)} of {len(lora.pairs)} changes fit, {wrong[0]} does not."
        )
    return lora


def _opened(module: nn.Module, card: ModelCard, part: FileRef) -> Checkpoint:
    """A checkpoint that fits a module."""
    file = local_path(card, part)
    if not file.exists():
        raise MissingModelError(f"the model '{card.name}' lacks {part.file}; expected at {file}.")
    found = read_checkpoint(file)
    fit = match_keys(module, found.tensors)
    if not fit.whole:
        raise MissingModelError(f"{file}: these are not the weights of '{card.name}': {fit}.")
    return found


def _fill_network(
    network: nn.Module, tensors: Mapping[str, StoredTensor], precision: Precision, device: str, lora: Lora | None
) -> None:
    """Reads every weight in turn; wide layers of the blocks are quantised where the precision says so."""
    sensitive = network._keep_in_fp32_modules or []
    for name in list(network.state_dict()):
        path, _, kind = name.rpartition(".")
        kept_full = any(part in sensitive for part in name.split("."))
        value = tensors[name].read()
        if lora is not None:
            value = lora.added(name, value)
        value = value.to(torch.float32 if kept_full else precision.dtype, copy=True)  # the file may be a map of it
        layer = network.get_submodule(path)
        if precision.quantise and isinstance(layer, nn.Linear) and path.startswith("blocks.") and kind == "weight":
            layer = precision.quantise(layer, value)
            _put(network, path, layer)
            layer._parameters["weight"] = layer.weight.to(device)
        else:
            layer._parameters[kind] = nn.Parameter(value.to(device).contiguous(), requires_grad=False)


def _put(network: nn.Module, path: str, layer: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(network.get_submodule(parent), name, layer)


def load_vae(card: ModelCard, device: str, dtype: torch.dtype = torch.float32, tiled: bool = False) -> VAE:
    """The card's codec with its weights; ``tiled`` decodes large pictures piece by piece where the codec can."""
    codec = _made("vae", CODECS, card.family, card.vae)
    _fill(codec, card, card.vae)
    codec = codec.eval().requires_grad_(False)
    if isinstance(codec, AutoencoderKLWan):
        return WanVAE(codec.to(device, dtype), tiled)
    return codec.to(device)


def load_probe(card: ModelCard) -> Probe:
    """The network that reads the pictures of a picture-book model.

    Raises:
        UsageError: the model has none; its pictures have no ground truth.
    """
    if card.probe is None or card.edition is None:
        raise UsageError(f"the model '{card.name}' has no probe; --quality measures picture-book models (storybook).")
    probe = Probe(read_edition(card.folder / card.edition))
    _fill(probe, card, FileRef(file=card.probe))
    return probe.eval().requires_grad_(False)


def _fill(module: nn.Module, card: ModelCard, part: FileRef) -> None:
    """Loads all weights of a small module."""
    found = _opened(module, card, part)
    module.load_state_dict({name: found.tensors[name].read() for name in module.state_dict()})
