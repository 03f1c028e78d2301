"""Targets of the fuzz: what a model is made of. Cards, configurations, weights and indexes of shards."""

from __future__ import annotations

import io
import json
from pathlib import Path

import torch
from safetensors.torch import save

from blockvid_cli.models.card import packaged_folder
from blockvid_cli.models.checkpoint import read_checkpoint, weight_files
from blockvid_cli.models.find import find_model
from blockvid_cli.models.loading import match_keys, meta_transformer
from blockvid_cli.models.registry import model_sizes
from blockvid_cli.rollout.recipe import make_recipe
from blockvid_cli.storyboard.plan import make_plan
from blockvid_cli.storyboard.storyboard import read_storyboard
from blockvid_cli.storybook.edition import read_edition
from tests.fuzzing import Target
from tests.test_bad_storyboards import GOOD

CARDS = tuple((packaged_folder("models") / name / "card.yaml").read_bytes() for name in ("storybook", "self-forcing"))
SMALL = {
    "num_attention_heads": 2,
    "attention_head_dim": 24,
    "in_channels": 16,
    "out_channels": 16,
    "text_dim": 32,
    "freq_dim": 32,
    "ffn_dim": 64,
    "num_layers": 2,
    "patch_size": [1, 2, 2],
    "eps": 1e-6,
    "cross_attn_norm": True,
    "qk_norm": "rms_norm_across_heads",
    "rope_max_seq_len": 64,
}
CONFIGS = tuple(
    json.dumps({"_class_name": name, **SMALL}, indent=1).encode()
    for name in ("WanTransformer3DModel", "SkyReelsV2Transformer3DModel")
)
TENSORS = {
    "model.blocks.0.self_attn.q.weight": torch.arange(4.0).reshape(2, 2),
    "head.head.bias": torch.ones(3, dtype=torch.bfloat16),
    "patch_embedding.weight": torch.zeros(0, 4),
}
INDEX = json.dumps({"metadata": {"total_size": 8}, "weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}).encode()


def read_card(content: bytes, folder: Path) -> None:
    """Reads a card, builds its transformer without memory, and plans a film with it."""
    (folder / "card.yaml").write_bytes(content)
    (folder / "story.yaml").write_text(GOOD, encoding="utf-8")
    card = find_model(str(folder))
    assert "/" not in card.name and not card.name.startswith(".")
    model_sizes(card)
    meta_transformer(card)
    make_recipe(card.recipe)
    make_plan(read_storyboard(folder / "story.yaml"), card, seed=1)


def read_config(content: bytes, folder: Path) -> None:
    """Reads the configuration of a diffusers folder, and builds its network without memory."""
    (folder / "config" / "transformer").mkdir(parents=True, exist_ok=True)
    (folder / "config" / "transformer" / "config.json").write_bytes(content)
    meta_transformer(find_model(str(folder / "config")))


def read_weights(name: str, content: bytes, folder: Path) -> None:
    """Reads every tensor of a file, and compares them with a network."""
    (folder / name).write_bytes(content)
    checkpoint = read_checkpoint(folder / name)
    assert len(str(match_keys(torch.nn.Linear(2, 2), checkpoint.tensors))) < 1000
    for stored in checkpoint.tensors.values():
        assert stored.shape == tuple(stored.read().shape)


def read_index(content: bytes, folder: Path) -> None:
    """Looks for the shards of an index; none lies outside its folder."""
    shards = folder / "shards"
    shards.mkdir(exist_ok=True)
    for number in (1, 2):
        (shards / f"{number}.safetensors").touch()
    (shards / "model.safetensors.index.json").write_bytes(content)
    assert all(file.parent == shards for file in weight_files(shards))


def edition(content: bytes, folder: Path) -> None:
    """Reads an edition of the picture book."""
    (folder / "edition.yaml").write_bytes(content)
    read_edition(folder / "edition.yaml")


def saved(zipped: bool) -> bytes:
    """The tensors as torch writes them, now or before 2020."""
    file = io.BytesIO()
    torch.save({"generator_ema": TENSORS, "step": 7}, file, _use_new_zipfile_serialization=zipped)
    return file.getvalue()


MODEL_TARGETS = {
    "card": Target(CARDS, read_card),
    "config": Target(CONFIGS, read_config),
    "safetensors": Target((save(TENSORS), save(TENSORS, {"a": "b"})), lambda c, f: read_weights("a.safetensors", c, f)),
    "pickle": Target((saved(True), saved(False)), lambda c, f: read_weights("a.pt", c, f)),
    "index": Target((INDEX,), read_index),
    "edition": Target(((packaged_folder("models") / "storybook" / "edition.yaml").read_bytes(),), edition),
}
