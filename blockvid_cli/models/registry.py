"""The table of model families.

A row says which classes run a family's networks, how its checkpoints name their tensors, and what planning has to know.
Classes are named by import path, so that reading the table imports neither diffusers nor transformers. A new family is
one file with its denoiser, one row here and one card.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from blockvid_cli.errors import MissingModelError, is_out_of_memory, lookup, shorten
from blockvid_cli.models.card import ModelCard, ModelSizes
from blockvid_cli.models.layouts import WAN_KEYS, KeyMap

if TYPE_CHECKING:
    from blockvid_cli.models.vae import VAE

WAN21_MEAN = (
    *(-0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508),
    *(0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921),
)
MISFITS = (  # what a constructor raises of sizes that it was not written for
    *(TypeError, ValueError, KeyError, IndexError, ArithmeticError, RuntimeError, AttributeError, NameError),
    AssertionError,
)
MAX_CONFIG_BYTES = 1_000_000
LATENT_CHANNELS = 16  # of the text-to-video networks that are recognized without a card
FLOP_FRAMES, FLOP_SIDE = 3, 16  # latent frames and pixels a side on which a VAE's operations are counted


@dataclass(frozen=True)
class TransformerSizes:
    """Weights of a transformer, those of its blocks' linear layers, channels of a token, and layers."""

    params: int
    linear_params: int
    channels: int
    layers: int


def wan_sizes(config: Mapping[str, Any]) -> TransformerSizes:
    """The sizes of a ``WanTransformer3DModel``, or of SkyReels-V2's, from its configuration.

    Raises:
        KeyError: the configuration lacks a size.
    """
    width, layers, ffn = (
        config["num_attention_heads"] * config["attention_head_dim"],
        config["num_layers"],
        config["ffn_dim"],
    )
    patch = math.prod(config["patch_size"])
    linear = layers * (8 * width * width + 2 * width * ffn)
    block = 8 * width + 4 * width + ffn + width + 6 * width + (2 * width if config.get("cross_attn_norm", True) else 0)
    ends = width * (config["in_channels"] + config["out_channels"]) * patch + width + config["out_channels"] * patch
    condition = width * (config["freq_dim"] + config["text_dim"] + 8 * width) + 10 * width + 2 * width
    rate = 2 * width + 7 * width * width + 7 * width if config.get("inject_sample_info") else 0
    return TransformerSizes(linear + layers * block + ends + condition + rate, linear, width, layers)


@dataclass(frozen=True)
class MemoryConstants:
    """Values that are alive at once, measured on diffusers' networks.

    Wan 1.3B at 832x480 in half precision: 0.2, 0.8 and 1.5 GiB of activations for 3, 12 and 21 latent frames, and
    3.9 GiB while decoding, whatever the length of the film.
    """

    activations: int = 16  # for each token and channel of a pass
    modulation: int = 30  # as many more, in full precision, where frames have sigmas of their own
    decoding: int = 5240  # for each pixel, in a VAE 96 channels wide


@dataclass(frozen=True)
class ModelFamily:
    """What loading and planning have to know of a family.

    Args:
        transformer: import path of the network's class, which is built from the card's ``transformer.config``.
        denoiser: import path of a ``VideoDenoiser`` around it.
        vae: import path of a ``VAE``.
        text_encoder: import path of a ``TextEncoder``.
        sizes: a transformer's sizes from its configuration.
        key_map: how the original code names the tensors.
        memory: constants of the memory estimate.
        sigma_per_frame: whether a network always modulates each frame by a sigma of its own.
        reads_fps: whether the denoiser is built for a frame rate.
        half_precision_vae: whether the VAE may compute in bfloat16.
        wan21_latents: whether the latents may be Wan 2.1's, which have small decoders for previews.
        signature: a tensor (diffusers' names) by which a checkpoint of the family is recognized; "" for never.
        cards: the card that a checkpoint without one takes, by its width in channels; the first where a diffusers
            folder has another width.
        generator_cards: the same, for checkpoints of a distilled "generator".
    """

    transformer: str
    denoiser: str
    vae: str
    text_encoder: str
    sizes: Callable[[Mapping[str, Any]], TransformerSizes]
    key_map: KeyMap = WAN_KEYS
    memory: MemoryConstants = MemoryConstants()
    sigma_per_frame: bool = False
    reads_fps: bool = False
    half_precision_vae: bool = True
    wan21_latents: bool = False
    signature: str = ""
    cards: Mapping[int, str] = field(default_factory=dict)
    generator_cards: Mapping[int, str] = field(default_factory=dict)


WAN_TRANSFORMER = "blockvid_cli.models.wan.networks:WanTransformer3DModel"
WAN_DENOISER = "blockvid_cli.models.wan.denoiser:WanDenoiser"
WAN_VAE = "blockvid_cli.models.wan.vae:WanVAE"
UMT5 = "blockvid_cli.models.wan.text_encoder:UMT5Tokens"

FAMILIES: dict[str, ModelFamily] = {  # a checkpoint belongs to the first family whose signature it has
    "storybook": ModelFamily(
        transformer=WAN_TRANSFORMER,
        denoiser=WAN_DENOISER,
        vae="blockvid_cli.models.tiny_vae:TinyVAE",
        text_encoder="blockvid_cli.models.sentence_encoder:MiniLMTokens",
        sizes=wan_sizes,
        half_precision_vae=False,
    ),
    "skyreels": ModelFamily(
        transformer="blockvid_cli.models.wan.networks:SkyReelsV2Transformer3DModel",
        denoiser="blockvid_cli.models.skyreels:SkyReelsDenoiser",
        vae=WAN_VAE,
        text_encoder=UMT5,
        sizes=wan_sizes,
        sigma_per_frame=True,
        reads_fps=True,
        wan21_latents=True,
        signature="fps_embedding.weight",
        cards={1536: "skyreels-v2-df-1.3b"},
    ),
    "wan": ModelFamily(
        transformer=WAN_TRANSFORMER,
        denoiser=WAN_DENOISER,
        vae=WAN_VAE,
        text_encoder=UMT5,
        sizes=wan_sizes,
        wan21_latents=True,
        signature="patch_embedding.weight",
        cards={1536: "wan2.1-t2v-1.3b", 5120: "wan2.1-t2v-14b"},
        generator_cards={1536: "self-forcing"},
    ),
}


def family_of(card: ModelCard) -> ModelFamily:
    """The row of a card's family.

    Raises:
        UsageError: there is no such family.
    """
    return lookup("model family", FAMILIES, card.family)


def import_class(path: str) -> Any:  # noqa: ANN401 - a class or function of any module
    """What an import path ``module:name`` names."""
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)


def build_transformer(card: ModelCard) -> nn.Module:
    """The card's transformer with diffusers' random weights.

    Raises:
        MissingModelError: no network has these sizes.
    """
    network = import_class(family_of(card).transformer)
    config = {
        name: tuple(value) if isinstance(value, list) else value for name, value in card.transformer.config.items()
    }
    return _build("transformer", card, lambda: network(**config))


def build_vae(card: ModelCard, tiled: bool = False) -> VAE:
    """The card's VAE with random weights.

    Raises:
        MissingModelError: no VAE has these sizes.
    """
    vae = import_class(family_of(card).vae)
    return _build("vae", card, lambda: vae.from_config(card.vae.config, tiled))


def _build(part: str, card: ModelCard, build: Callable[[], Any]) -> Any:  # noqa: ANN401 - what ``build`` returns
    try:
        return build()
    except MISFITS as error:
        if is_out_of_memory(error):
            raise
        first = shorten(str(error).strip() or type(error).__name__, 150)
        raise MissingModelError(
            f"the model '{card.name}': {part}.config: a model of the family '{card.family}' cannot have these sizes"
            f" ({first})."
        ) from error


def has_wan21_latents(card: ModelCard) -> bool:
    """Whether a model's latents are Wan 2.1's; by their mean, since another VAE may have as many channels."""
    return family_of(card).wan21_latents and tuple(card.vae.config.get("latents_mean") or ()) == WAN21_MEAN


def model_sizes(card: ModelCard) -> ModelSizes:
    """What planning counts with: the card's sizes, else computed from the configurations of transformer and VAE."""
    return card.sizes or _computed_sizes(card.model_copy(update={"provenance": {}, "recipe": {}}).model_dump_json())


@lru_cache(maxsize=16)
def _computed_sizes(card_json: str) -> ModelSizes:
    card = ModelCard.model_validate_json(card_json)
    return _build("transformer", card, lambda: _count_sizes(card))


def _count_sizes(card: ModelCard) -> ModelSizes:
    transformer = family_of(card).sizes(card.transformer.config)
    vae_params, vae_decode_flops = count_vae(card)
    return ModelSizes(
        transformer_params=transformer.params,
        linear_params=transformer.linear_params,
        channels=transformer.channels,
        layers=transformer.layers,
        vae_params=vae_params,
        vae_channels=card.vae.config.get("base_dim", 16),
        vae_decode_flops=vae_decode_flops,
    )


def count_vae(card: ModelCard) -> tuple[int, float]:
    """Weights of the VAE, and floating-point operations to decode one latent pixel, counted on a small video.

    Builds the VAE without memory, and so imports diffusers for the families whose VAE is diffusers'.
    """
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        vae = build_vae(card)
        latents = torch.empty(FLOP_FRAMES, card.latent.channels, FLOP_SIDE, FLOP_SIDE)
        with FlopCounterMode(display=False) as counter:
            _build("vae", card, lambda: list(vae.stream([latents])))
    params = sum(weight.numel() for weight in vae.module.parameters())
    return params, counter.get_total_flops() / (FLOP_FRAMES * FLOP_SIDE * FLOP_SIDE)
