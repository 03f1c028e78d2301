"""Which model a name means: one with a card, bundled or in a folder, or a checkpoint as others publish it.

    storybook, self-forcing, ...      models/<name>/card.yaml
    a folder with a card.yaml         what that card says
    a diffusers folder                transformer/ and, where they are there, vae/, text_encoder/, tokenizer/
    a weights file, or a folder       a network in any layout; codec and captions are those of its family
    of them

A checkpoint without a card takes the card of its family, told by its sizes and by how its file names its tensors.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from blockvid_cli.errors import MissingModelError
from blockvid_cli.models.card import ModelCard, bundled_models, find_card
from blockvid_cli.models.checkpoint import Checkpoint, read_checkpoint

CLASSES = {"WanTransformer3DModel": "wan", "SkyReelsV2Transformer3DModel": "skyreels"}
WIDTHS = {1536: "wan2.1-t2v-1.3b", 5120: "wan2.1-t2v-14b"}


def find_model(name: str) -> ModelCard:
    """The card of a model by its name, folder or file.

    Raises:
        MissingModelError: there is no such model, or its family cannot be told.
        UsageError: its card is not a card.
    """
    place = Path(name)
    if name in bundled_models():
        return find_card(name)
    if place.is_dir() and not (place / "card.yaml").is_file() and (place / "transformer" / "config.json").is_file():
        return _of_folder(place)
    if place.is_file() or (place.is_dir() and not (place / "card.yaml").is_file() and any(place.glob("*.safetensors"))):
        return _of_weights(place)
    return find_card(name)


def _of_folder(folder: Path) -> ModelCard:
    """A diffusers folder: what lies in it is taken from it, the rest from its family."""
    config = _config(folder / "transformer" / "config.json")
    kind = CLASSES.get(str(config.get("_class_name")))
    if kind is None:
        raise MissingModelError(
            f"{folder}: its network is a {config.get('_class_name')}; blockvid draws with {' or '.join(CLASSES)}."
        )
    channels = find_card(WIDTHS[1536]).latent.channels
    if config.get("image_dim") or [config.get("in_channels", 16), config.get("out_channels", 16)] != [channels] * 2:
        raise MissingModelError(
            f"{folder}: its network reads {config.get('in_channels')} channels or a picture; blockvid draws with"
            f" text-to-video networks of {channels} channels in and out."
        )
    heads, head = config.get("num_attention_heads"), config.get("attention_head_dim")
    width = heads * head if isinstance(heads, int) and isinstance(head, int) else 0
    base = find_card("skyreels-v2-df-1.3b" if kind == "skyreels" else WIDTHS.get(width, WIDTHS[1536]))
    sizes = {name: value for name, value in config.items() if not name.startswith("_")}
    here = {"repository": None}
    network = base.transformer.model_copy(update={**here, "file": "transformer", "config": sizes})
    changes: dict[str, Any] = {"transformer": network}
    if (folder / "vae" / "config.json").is_file():
        codec = {name: value for name, value in _config(folder / "vae" / "config.json").items() if name[0] != "_"}
        changes["vae"] = base.vae.model_copy(update={**here, "file": "vae", "config": codec})
    if (folder / "text_encoder").is_dir() and (folder / "tokenizer").is_dir():
        changes["text"] = base.text.model_copy(update=here)
    return base.model_copy(update={**changes, "name": folder.resolve().name, "folder": folder, "origin": "folder"})


def _of_weights(file: Path) -> ModelCard:
    """A network alone: a file, or a folder with one or its shards, as the original repositories have them."""
    file = file.resolve()
    found = read_checkpoint(file)
    base = find_card(_family(found))
    network = base.transformer.model_copy(update={"repository": None, "file": file.name, "lora": None, "sha256": None})
    return base.model_copy(
        update={"transformer": network, "name": file.stem, "folder": file.parent, "origin": "folder"}
    )


def _family(found: Checkpoint) -> str:
    """The card that a checkpoint without one is drawn by."""
    patches = found.tensors.get("patch_embedding.weight")
    width = patches.shape[0] if patches else 0
    if width not in WIDTHS:
        raise MissingModelError(
            f"{found.file}: its sizes are none that blockvid knows ({width or 'no'} channels, {found.layout});"
            " put it in a folder with a card.yaml that says them."
        )
    if "fps_embedding.weight" in found.tensors:
        return "skyreels-v2-df-1.3b"
    return "self-forcing" if "'generator" in found.layout and width == 1536 else WIDTHS[width]


def _config(file: Path) -> dict[str, Any]:
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise MissingModelError(f"{file}: this configuration cannot be read ({error}).") from error
    if not isinstance(values, dict):
        raise MissingModelError(f"{file}: this configuration is no mapping.")
    return values
