"""Pulling from a hub: sizes first, broken downloads survive, hashes are checked, the standard variables count."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests import tiny_wan
from tests.fake_hub import FakeHub
from tests.hostile_hub import LIES, REPOSITORY


@pytest.fixture
def hub(tmp_path):
    """A model whose parts lie on a hub; its card in a folder without them."""
    source = tiny_wan.model(tmp_path / "source", "original", noncommercial=True, licence="CC-BY-NC-4.0")
    card = yaml.safe_load((source / "card.yaml").read_text())
    for part in ("transformer", "vae", "text"):
        card[part]["repository"] = REPOSITORY
    (tmp_path / "card").mkdir()
    (tmp_path / "card" / "card.yaml").write_text(yaml.safe_dump(card))
    served = FakeHub(source, REPOSITORY, break_off="model.safetensors")
    yield served
    served.close()


def blockvid(tmp_path: Path, hub: FakeHub, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "HF_ENDPOINT": hub.endpoint,
        "HF_HOME": str(tmp_path / "hf"),
        "BLOCKVID_HOME": str(tmp_path / "home"),
        "HF_HUB_OFFLINE": "0",
        **variables,
    }
    command = [sys.executable, "-m", "blockvid_cli", *words]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)


def test_a_model_is_pulled_verified_mended_and_drawn_with(hub, tmp_path, story):
    card = str(tmp_path / "card")
    asked = blockvid(tmp_path, hub, "models", "verify", card)
    assert asked.returncode == 3 and "blockvid models pull" in asked.stderr
    offline = blockvid(tmp_path, hub, "models", "pull", card, "--yes", HF_HUB_OFFLINE="1")
    assert offline.returncode == 3 and "HF_HUB_OFFLINE is set" in offline.stderr and "reached" not in offline.stderr

    pulled = blockvid(tmp_path, hub, "models", "pull", card, "--yes", "--json")
    assert pulled.returncode == 0, pulled.stderr
    assert "licence CC-BY-NC-4.0" in pulled.stderr and "GB to download" in pulled.stderr
    assert json.loads(pulled.stdout)["bytes"] > 100_000
    assert not hub.break_off  # one answer ended halfway, and was asked for again
    whole = blockvid(tmp_path, hub, "models", "verify", card, HF_HUB_OFFLINE="1")
    assert whole.returncode == 0 and "tensors fit, hash right" in whole.stdout, whole.stderr

    drawn = blockvid(tmp_path, hub, "render", str(story), "--model", card, HF_HUB_OFFLINE="1")
    assert drawn.returncode == 0 and "80 frames" in drawn.stdout, drawn.stderr

    (places,) = [json.loads(blockvid(tmp_path, hub, "models", "path", card, "--json").stdout)]
    blob = Path(places[0]).resolve()
    blob.write_bytes(blob.read_bytes()[:-1] + b"\x00")
    spoilt = blockvid(tmp_path, hub, "models", "verify", card, HF_HUB_OFFLINE="1")
    assert spoilt.returncode == 3 and "hash is wrong" in spoilt.stderr


def test_a_repository_that_is_not_there_gets_a_sentence(hub, tmp_path):
    card = tmp_path / "card" / "card.yaml"
    card.write_text(card.read_text().replace(REPOSITORY, "someone/else"))
    told = blockvid(tmp_path, hub, "models", "pull", str(tmp_path / "card"), "--yes")
    assert told.returncode == 3 and "no such repository" in told.stderr and told.stderr.count("\n") < 3


def test_a_licence_is_not_agreed_to_by_silence(hub, tmp_path):
    told = blockvid(tmp_path, hub, "models", "pull", str(tmp_path / "card"))
    assert told.returncode in (1, 2) and "non-commercial" in told.stderr + told.stdout
    assert not (tmp_path / "home" / "licences").exists()


def test_a_hostile_hub_gets_a_sentence_and_writes_nothing_outside(tmp_path):
    """Every lie of a hub, for the listing before a download and for the download itself."""
    run = subprocess.run(
        [sys.executable, "-m", "tests.hostile_hub", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        | {"PYTHONPATH": str(Path(__file__).parents[1])},
        cwd=Path(__file__).parents[1],
    )
    assert run.returncode == 0, run.stderr
    sentences = json.loads(run.stdout)
    assert set(sentences) == {f"{lie}: {act}" for lie in LIES for act in ("list", "pull")}
    assert sentences.pop("no listing: list") == "nothing was wrong"  # an empty repository; what it lacks is said then
    for case, sentence in sentences.items():
        assert sentence.startswith("the model 'tiny-original' cannot be pulled: the hub"), f"{case}: {sentence}"
        assert len(sentence) < 400, case
    for case in ("etag: pull", "linked etag: pull", "commit: pull", "revision: list", "file name: list", "depth: list"):
        assert "the hub sent a " in sentences[case], sentences[case]
    assert {path.name for path in tmp_path.iterdir()} <= {"source", "card", "cache"}
    below = {path.relative_to(tmp_path / "cache" / "hub").parts[0] for path in (tmp_path / "cache" / "hub").rglob("*")}
    assert below <= {".locks", "CACHEDIR.TAG", "models--someone--tiny-wan"}
