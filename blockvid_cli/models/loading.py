"""From a card to a denoiser, a VAE and a text encoder with their weights, and checks of their files.

Transformers are built without memory and filled tensor by tensor, each converted to its precision and moved to its
device as it is read, so that a model needs its memory once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from blockvid_cli.errors import MissingModelError, UsageError, shorten
from blockvid_cli.models.card import FileRef, ModelCard, Weights
from blockvid_cli.models.checkpoint import Checkpoint, Lora, StoredTensor, read_checkpoint, read_lora, weight_files
from blockvid_cli.models.devices import Precision
from blockvid_cli.models.hub import blob_hash, hash_differs, local_path
from blockvid_cli.models.registry import build_transformer, build_vae, family_of, import_class
from blockvid_cli.models.sentence_encoder import TextEncoder
from blockvid_cli.models.vae import VAE
from blockvid_cli.storybook.edition import read_edition
from blockvid_cli.storybook.probe import Probe

if TYPE_CHECKING:
    from blockvid_cli.models.wan.denoiser import VideoDenoiser

BLOCKS = "blocks."  # the wide linear layers, which may be quantized, are in the modules of this prefix


@dataclass(frozen=True)
class KeyMatch:
    """How a checkpoint's tensors match a module: names that fit, are absent, have another shape, or are unknown."""

    fit: tuple[str, ...]
    absent: tuple[str, ...]
    misshapen: tuple[str, ...]
    unknown: tuple[str, ...]

    @property
    def complete(self) -> bool:
        """Whether every weight of the module is there; tensors that the module does not know do no harm."""
        return not self.absent and not self.misshapen

    def __str__(self) -> str:
        total = len(self.fit) + len(self.absent) + len(self.misshapen)
        out = f"{len(self.fit)} of {total} tensors fit"
        for what, names in (("absent", self.absent), ("of another shape", self.misshapen), ("unknown", self.unknown)):
            out += (
                f", {len(names)} {what} ({shorten(names[0], 100)}{', ...' if len(names) > 1 else ''})" if names else ""
            )
        return out


def match_keys(module: nn.Module, tensors: Mapping[str, StoredTensor]) -> KeyMatch:
    """Which tensors of a checkpoint fit a module."""
    shapes = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    return KeyMatch(
        fit=tuple(name for name, shape in shapes.items() if name in tensors and tensors[name].shape == shape),
        absent=tuple(name for name in shapes if name not in tensors),
        misshapen=tuple(name for name, shape in shapes.items() if name in tensors and tensors[name].shape != shape),
        unknown=tuple(name for name in tensors if name not in shapes),
    )


def meta_transformer(card: ModelCard) -> nn.Module:
    """A card's transformer in its true sizes, on the meta device: shapes and names, no memory."""
    with torch.device("meta"):
        return build_transformer(card)


def meta_vae(card: ModelCard) -> VAE:
    """A card's VAE, likewise."""
    with torch.device("meta"):
        return build_vae(card)


def load_denoiser(
    card: ModelCard, device: str, precision: Precision, fps: float | None = None, trainable: bool = False
) -> VideoDenoiser:
    """The card's transformer with its weights, behind the denoiser's contract.

    Args:
        fps: of the film, for networks that read it; the card's by default.
        trainable: in training mode, with weights that take gradients.

    Raises:
        MissingModelError: the weights are absent, damaged, or not of this network.
        RefusedModelError: the weights are a pickle that could run code.
        UsageError: quantized weights are to be trained.
    """
    if trainable and precision.quantize:
        raise UsageError(f"--precision {precision.name}: quantized weights cannot be trained; give fp32 or bf16.")
    network = meta_transformer(card)
    checkpoint = _open_checkpoint(network, card, card.transformer)
    lora = load_lora(network, card) if card.transformer.lora else None
    _fill_transformer(network, checkpoint.tensors, precision, device, lora)
    network.train(trainable).requires_grad_(trainable)
    return wrap_network(card, network, fps)


def wrap_network(card: ModelCard, network: nn.Module, fps: float | None = None) -> VideoDenoiser:
    """A card's transformer behind the denoiser's contract; ``fps`` is for networks that read it."""
    family = family_of(card)
    denoiser = import_class(family.denoiser)
    if family.reads_fps:
        return denoiser(network, card.transformer.predicts, fps or card.fps)
    return denoiser(network, card.transformer.predicts)


def load_lora(network: nn.Module, card: ModelCard) -> Lora:
    """The LoRA that the card merges into its transformer.

    Raises:
        MissingModelError: it is absent, damaged, or changes weights that the transformer lacks.
    """
    part = card.transformer.lora
    if part is None:
        raise ValueError(f"the card of '{card.name}' names no LoRA")
    file = local_path(card, part)
    lora = read_lora(file, part.scale, family_of(card).key_map)
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    wrong = [name for name in lora.pairs if shapes.get(name) != lora.shape(name)]
    if wrong:
        raise MissingModelError(
            f"{file}: this LoRA is not for '{card.name}':"
            f" {len(lora.pairs) - len(wrong)} of {len(lora.pairs)} changes fit, {wrong[0]} does not."
        )
    return lora


def _open_checkpoint(module: nn.Module, card: ModelCard, part: FileRef) -> Checkpoint:
    """A checkpoint that fits a module."""
    file = local_path(card, part)
    if not file.exists():
        raise MissingModelError(f"the model '{card.name}' lacks {part.file}; expected at {file}.")
    checkpoint = read_checkpoint(file, family_of(card).key_map)
    match = match_keys(module, checkpoint.tensors)
    if not match.complete:
        raise MissingModelError(f"{file}: these are not the weights of '{card.name}': {match}.")
    return checkpoint


def _fill_transformer(
    network: nn.Module, tensors: Mapping[str, StoredTensor], precision: Precision, device: str, lora: Lora | None
) -> None:
    """Reads every weight in turn; the blocks' linear layers are quantized where the precision says so."""
    sensitive: list[str] = network._keep_in_fp32_modules or []  # of diffusers' networks
    for name in list(network.state_dict()):
        path, _, kind = name.rpartition(".")
        keep_fp32 = any(part in sensitive for part in name.split("."))
        value = tensors[name].read()
        if lora is not None:
            value = lora.merge(name, value)
        value = value.to(torch.float32 if keep_fp32 else precision.dtype, copy=True)  # it may be mapped from the file
        layer = network.get_submodule(path)
        if precision.quantize and isinstance(layer, nn.Linear) and path.startswith(BLOCKS) and kind == "weight":
            layer = precision.quantize(layer, value)
            parent, _, attribute = path.rpartition(".")
            setattr(network.get_submodule(parent), attribute, layer)
            layer._parameters["weight"] = layer.weight.to(device)
        else:
            layer._parameters[kind] = nn.Parameter(value.to(device).contiguous(), requires_grad=False)


def load_vae(card: ModelCard, device: str, dtype: torch.dtype = torch.float32, tiled: bool = False) -> VAE:
    """The card's VAE with its weights.

    Args:
        dtype: what it computes in, if its family's VAE can compute in anything but full precision.
        tiled: decode large frames in tiles, where the VAE can.
    """
    checkpoint = _open_checkpoint(meta_vae(card).module, card, card.vae)  # before memory is taken for wrong sizes
    vae = build_vae(card, tiled)
    _fill(vae.module, checkpoint)
    vae.module.eval().requires_grad_(False)
    dtype = dtype if family_of(card).half_precision_vae else torch.float32
    nn.Module.to(vae.module, device, dtype)  # diffusers' own method warns of modules that it does not have
    return vae


def load_text_encoder(card: ModelCard, device: str = "cpu") -> TextEncoder:
    """The text encoder of the card's family; a large one computes on ``device``."""
    return import_class(family_of(card).text_encoder)(card, device)


def load_probe(card: ModelCard) -> Probe:
    """The network that recognizes what the frames of a picture-book model show.

    Raises:
        UsageError: the model has none; its frames have no ground truth.
    """
    if card.probe is None or card.edition is None:
        raise UsageError(f"the model '{card.name}' has no probe; --quality measures picture-book models (storybook).")
    probe = Probe(read_edition(card.folder / card.edition))
    _fill(probe, _open_checkpoint(probe, card, FileRef(file=card.probe)))
    return probe.eval().requires_grad_(False)


def _fill(module: nn.Module, checkpoint: Checkpoint) -> None:
    """Loads all weights of a small module."""
    module.load_state_dict({name: checkpoint.tensors[name].read() for name in module.state_dict()})


@dataclass(frozen=True)
class VerifiedPart:
    """A part of a model that is right: its file, and a sentence about what was checked."""

    part: str
    file: Path
    summary: str


def verify_model(card: ModelCard) -> list[VerifiedPart]:
    """Reads every tensor of a model, and compares every hash that is known.

    Raises:
        MissingModelError: a part is absent, damaged, or not what the card says; the first that is.
        RefusedModelError: a part is a pickle that could run code.
        UsageError: the card's sizes are not those of the network.
    """
    network = meta_transformer(card)
    params = sum(weight.numel() for weight in network.parameters())
    if card.sizes and card.sizes.transformer_params != params:
        raise UsageError(
            f"the card of '{card.name}': sizes.transformer_params is {card.sizes.transformer_params}, but the network"
            f" has {params} weights; correct it, or leave 'sizes' out."
        )
    parts = [
        _verify_weights(card, card.transformer, "transformer", network),
        _verify_weights(card, card.vae, "vae", meta_vae(card).module),
    ]
    if card.transformer.lora:
        lora = load_lora(network, card)
        parts.append(VerifiedPart("lora", local_path(card, card.transformer.lora), f"{len(lora.pairs)} changes fit"))
    if card.text.file:
        parts += [_verify_folder(card, card.text, "text encoder")]
        parts += [_verify_folder(card, card.text.model_copy(update={"file": card.text.tokenizer}), "tokenizer")]
    return parts


def _verify_weights(card: ModelCard, part: Weights, name: str, module: nn.Module) -> VerifiedPart:
    path = local_path(card, part)
    hashed = bool([file for file in weight_files(path) if _check_hash(file, part.sha256)])  # every file
    checkpoint = read_checkpoint(path, family_of(card).key_map)
    match = match_keys(module, checkpoint.tensors)
    if not match.complete:
        raise MissingModelError(f"{path}: these are not the weights of '{card.name}': {match}.")
    for tensor in match.fit:
        if not torch.isfinite(checkpoint.tensors[tensor].read()).all():
            raise MissingModelError(f"{path}: {tensor} holds numbers that are not finite; pull or copy the file anew.")
    return VerifiedPart(name, path, f"{checkpoint.layout}, {match}{', hash right' if hashed else ''}")


def _verify_folder(card: ModelCard, part: FileRef, name: str) -> VerifiedPart:
    path = local_path(card, part)
    if not path.is_dir():
        raise MissingModelError(f"{path}: the {name} of '{card.name}' is absent.")
    files = [file for file in sorted(path.iterdir()) if file.is_file()]
    for file in files:
        _check_hash(file, None)
    if any(file.suffix == ".safetensors" for file in files):
        tensors = read_checkpoint(path).tensors
        return VerifiedPart(name, path, f"{len(files)} files, {len(tensors)} tensors can be read")
    return VerifiedPart(name, path, f"{len(files)} files")


def _check_hash(file: Path, known: str | None) -> bool:
    """Compares a file with the hashes that are known of it; False where there are none."""
    hashes = [hash_ for hash_ in (known, blob_hash(file)) if hash_]
    if any(hash_differs(file, hash_) for hash_ in hashes):
        raise MissingModelError(f"{file}: its hash is wrong, so it was damaged or changed; pull or copy it anew.")
    return bool(hashes)
