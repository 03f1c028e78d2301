"""Which model a name means.

    storybook, self-forcing, ...      models/<name>/card.yaml
    a folder with a card.yaml         what that card says
    a diffusers folder                transformer/ and, where they are present, vae/, text_encoder/ and tokenizer/
    a weights file, or a folder       a transformer in any layout; VAE and text encoder are those of its family
    with weights files

A checkpoint without a card takes the card of its family, which is recognized by the tensors it holds and their sizes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from blockvid_cli.errors import MissingModelError, shorten
from blockvid_cli.files import read_plain_json, read_regular_file
from blockvid_cli.models.card import Config, ModelCard, bundled_models, card_name, find_card, validated
from blockvid_cli.models.checkpoint import Checkpoint, read_checkpoint
from blockvid_cli.models.registry import FAMILIES

MAX_CONFIG_BYTES = 1_000_000
LATENT_CHANNELS = 16  # of the text-to-video networks that are recognized without a card


def find_model(name: str) -> ModelCard:
    """The card of a model by its name, folder or file.

    Raises:
        MissingModelError: there is no such model, or its card or configuration is damaged or of no known family.
        RefusedModelError: its weights are a pickle that could run code.
    """
    try:
        card = _find(name, Path(name))
    except OSError as error:  # a name that no file can have, or a folder that may not be read
        raise MissingModelError(f"{shorten(name, 200)}: this model cannot be read ({error.strerror}).") from error
    config = card.transformer.config
    expected = {"patch_size": list(card.patch), "out_channels": card.latent.channels}
    wrong = [key for key, value in expected.items() if _listed(config.get(key, value)) != _listed(value)]
    if card.family not in FAMILIES:
        guess = f"'{shorten(card.family)}' is none of {', '.join(FAMILIES)}"
        raise MissingModelError(f"the model '{card.name}': family: {guess}.")
    if wrong:
        raise MissingModelError(
            f"the model '{card.name}': transformer.config.{wrong[0]} is {shorten(str(config[wrong[0]]))}, but its card"
            f" has {expected[wrong[0]]}."
        )
    return card


def _listed(value: object) -> list[object]:
    """A tuple, a list, or one value, as a list."""
    return [*value] if isinstance(value, list | tuple) else [value]


def _find(name: str, path: Path) -> ModelCard:
    if name in bundled_models():
        return find_card(name)
    if path.is_dir() and not (path / "card.yaml").is_file() and (path / "transformer" / "config.json").is_file():
        return _card_of_folder(path)
    if path.is_file() or (path.is_dir() and not (path / "card.yaml").is_file() and any(path.glob("*.safetensors"))):
        return _card_of_weights(path)
    return find_card(name)


def _card_of_folder(folder: Path) -> ModelCard:
    """A card for a diffusers folder: the folder's parts, the rest from its family."""
    config = read_config(folder / "transformer" / "config.json")
    known = {row.transformer.partition(":")[2]: name for name, row in FAMILIES.items() if row.cards}
    family = known.get(str(config.get("_class_name")))
    if family is None:
        raise MissingModelError(
            f"{folder}: its network is a {shorten(str(config.get('_class_name')))};"
            f" blockvid renders with {' or '.join(known)}."
        )
    channels = [config.get("in_channels", LATENT_CHANNELS), config.get("out_channels", LATENT_CHANNELS)]
    if config.get("image_dim") or channels != [LATENT_CHANNELS] * 2:
        raise MissingModelError(
            f"{folder}: its network reads {shorten(str(config.get('in_channels')))} channels or an image;"
            f" blockvid renders with text-to-video networks of {LATENT_CHANNELS} channels in and out."
        )
    cards = FAMILIES[family].cards
    heads, head = config.get("num_attention_heads"), config.get("attention_head_dim")
    width = heads * head if isinstance(heads, int) and isinstance(head, int) else 0
    base = find_card(cards.get(width, next(iter(cards.values()))))
    local = {"repository": None}
    sizes = {name: value for name, value in config.items() if not name.startswith("_")}
    changes: dict[str, Any] = {
        "transformer": base.transformer.model_copy(update={**local, "file": "transformer", "config": sizes})
    }
    if (folder / "vae" / "config.json").is_file():
        vae = {name: value for name, value in read_config(folder / "vae" / "config.json").items() if name[0] != "_"}
        changes["vae"] = base.vae.model_copy(update={**local, "file": "vae", "config": vae})
    if (folder / "text_encoder").is_dir() and (folder / "tokenizer").is_dir():
        changes["text"] = base.text.model_copy(update=local)
    card = base.model_copy(
        update={**changes, "name": card_name(folder.resolve().name), "folder": folder, "origin": "folder"}
    )
    return card if _same_sizes(card, base) else card.model_copy(update={"sizes": None})


def _same_sizes(card: ModelCard, base: ModelCard) -> bool:
    """Whether a folder's configurations agree with its family's card in all that the card says."""
    return all(
        part.config.get(name) == value
        for part, expected in ((card.transformer, base.transformer), (card.vae, base.vae))
        for name, value in expected.config.items()
    )


def _card_of_weights(file: Path) -> ModelCard:
    """A card for a transformer alone: a file, or a folder with one or its shards, as in original repositories."""
    file = file.resolve()
    base = find_card(_base_card(read_checkpoint(file)))
    weights = base.transformer.model_copy(update={"repository": None, "file": file.name, "lora": None, "sha256": None})
    changes = {"transformer": weights, "name": card_name(file.stem), "folder": file.parent, "origin": "folder"}
    return base.model_copy(update=changes)


def _base_card(checkpoint: Checkpoint) -> str:
    """The card that a checkpoint without one is rendered by."""
    patches = checkpoint.tensors.get("patch_embedding.weight")
    width = patches.shape[0] if patches else 0
    row = next((r for r in FAMILIES.values() if r.signature and r.signature in checkpoint.tensors), None)
    card = row.cards.get(width) if row else None
    if row is None or card is None:
        raise MissingModelError(
            f"{checkpoint.file}: its sizes are none that blockvid knows ({width or 'no'} channels,"
            f" {checkpoint.layout}); put it in a folder with a card.yaml that says them."
        )
    return row.generator_cards.get(width, card) if "'generator" in checkpoint.layout else card


def read_config(file: Path) -> dict[str, Any]:
    """A network's configuration.

    Raises:
        MissingModelError: it is damaged, or a size is so large that building the network would never end; the sentence
            names the file and the key.
    """
    try:
        values = read_plain_json(read_regular_file(file, MAX_CONFIG_BYTES))
    except OSError as error:
        raise MissingModelError(f"{file}: this configuration cannot be read ({error.strerror}).") from error
    except ValueError as error:
        raise MissingModelError(f"{file}: this configuration cannot be read ({shorten(str(error), 200)}).") from error
    if not isinstance(values, dict):
        raise MissingModelError(f"{file}: this configuration is no mapping.")
    return validated(file, TypeAdapter(Config), values)
