"""What all tests share: one home for embeddings, a model folder with random weights."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the program itself does, before torch is imported


@pytest.fixture(scope="session", autouse=True)
def _home(tmp_path_factory):
    """Embeddings made by tests stay out of the user's cache."""
    os.environ["BLOCKVID_HOME"] = str(tmp_path_factory.mktemp("home"))
    os.environ["HF_HUB_OFFLINE"] = "1"
    yield
    del os.environ["BLOCKVID_HOME"]


CARD = {
    "name": "random",
    "family": "storybook",
    "summary": "Random weights in the bundled model's layout; for tests.",
    "licence": "Apache-2.0",
    "size": "64x32",
    "fps": 12,
    "latent": {"channels": 4, "time": 4, "space": 8},
    "patch": [1, 2, 2],
    "block": 3,
    "text": {"tokens": 16},
    "transformer": {
        "file": "transformer.safetensors",
        "config": {
            "patch_size": [1, 2, 2],
            "num_attention_heads": 2,
            "attention_head_dim": 24,
            "in_channels": 12,
            "out_channels": 4,
            "text_dim": 384,
            "freq_dim": 32,
            "ffn_dim": 64,
            "num_layers": 2,
            "rope_max_seq_len": 64,
        },
    },
    "vae": {
        "file": "vae.safetensors",
        "config": {
            "channels": 4,
            "encode_fine": 16,
            "encode_coarse": 16,
            "decode_coarse": 16,
            "decode_fine": 16,
            "encode_depth": [1, 1],
            "decode_depth": [1, 1],
        },
    },
    "recipe": {
        "schedule": "block",
        "kv_cache": {"name": "semantic", "last_blocks": 1},
        "positions": "packed",
        "noise": "independent",
        "solver": "euler",
        "cache_update": {"name": "context-noise", "sigma": 0.05},
        "steps": 3,
        "shift": 2.0,
        "guidance": 1.0,
    },
}


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> Path:
    """A folder with a card and random weights."""
    import torch
    from safetensors.torch import save_file

    from blockvid_cli.models.card import find_card
    from blockvid_cli.models.registry import build_transformer, build_vae

    folder = tmp_path_factory.mktemp("random-model")
    (folder / "card.yaml").write_text(yaml.safe_dump(CARD))
    card = find_card(str(folder))
    torch.manual_seed(0)
    parts = ((build_transformer(card), card.transformer.file), (build_vae(card).module, card.vae.file))
    for module, file in parts:
        save_file({name: value.contiguous() for name, value in module.state_dict().items()}, folder / file)
    return folder


STORY = """\
version: 1
title: Three moments
seed: 3
chunks:
  - caption: A red boat rests on the lake.
    duration: 2s
  - caption: The red boat glides to the left.
    duration: 1s
  - caption: The red boat hops up and down.
    duration: 2s
"""


@pytest.fixture
def story(tmp_path) -> Path:
    """A five-second storyboard: 60 frames, 6 blocks, 3 chunks."""
    file = tmp_path / "story.yaml"
    file.write_text(STORY)
    return file


@dataclass(frozen=True)
class CommandResult:
    """Exit code and output of a command."""

    code: int
    out: str
    err: str


@pytest.fixture
def blockvid(capsys, monkeypatch) -> Callable[..., CommandResult]:
    """The console script in this process, which has torch already: ``blockvid("render", story)``."""
    from blockvid_cli.__main__ import main

    def run(*arguments: object) -> CommandResult:
        monkeypatch.setattr("sys.argv", ["blockvid", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        return CommandResult(int(ended.value.code or 0), *capsys.readouterr())

    return run
