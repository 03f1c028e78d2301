"""Captions for Wan: padded with zeros, read alone, kept, and let go."""

from __future__ import annotations

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from blockvid_cli.errors import MissingModelError
from blockvid_cli.models.find import find_model
from blockvid_cli.models.loading import load_text_encoder
from blockvid_cli.models.wan.text_encoder import UMT5Tokens, clean_prompt
from tests import tiny_wan


@pytest.fixture(scope="module")
def card(tmp_path_factory):
    return find_model(str(tiny_wan.model(tmp_path_factory.mktemp("umt5"), "original")))


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("BLOCKVID_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@torch.inference_mode()
def test_tokens_are_the_encoders_and_zeros_behind(card):
    from transformers import AutoTokenizer, UMT5EncoderModel

    words = "A swan glides."
    tokenizer = AutoTokenizer.from_pretrained(card.folder / "tokenizer")
    encoder = UMT5EncoderModel.from_pretrained(card.folder / "text_encoder").eval()
    padded = tokenizer(words, padding="max_length", max_length=64, return_tensors="pt")
    count = int(padded.attention_mask.sum())
    theirs = encoder(**padded).last_hidden_state[0]
    (ours,) = UMT5Tokens(card, dtype=torch.float32)([words])
    assert ours.shape == (64, 32) and 5 < count < 20
    assert torch.allclose(ours[:count], theirs[:count], atol=1e-5) and not ours[count:].any()


def test_an_empty_caption_is_the_encoders_own_empty(card):
    empty, _ = UMT5Tokens(card)(["", "a swan"])
    assert empty[0].any() and not empty[1:].any()


def test_a_caption_is_read_once_and_the_encoder_is_loaded_only_then(card, monkeypatch):
    reader = UMT5Tokens(card)
    first = reader(["a swan", "a boat"])
    monkeypatch.setattr(UMT5Tokens, "_encode", lambda self, captions: pytest.fail("read again"))
    assert torch.equal(UMT5Tokens(card)(["a boat", "a  swan "]), first.flip(0))


def test_long_captions_are_cut_and_told_of(card):
    reader = load_text_encoder(card)
    assert reader.fits("a swan") and not reader.fits("a swan " * 40)
    assert reader(["a swan " * 40])[0, -1].any()


def test_entities_and_spaces_are_clean_prompt():
    assert clean_prompt("  a &amp;amp; b\n\t c ") == "a & b c"


def test_an_encoder_that_is_not_whole_is_refused(card, tmp_path):
    folder = shutil.copytree(card.folder, tmp_path / "model")
    tensors = load_file(folder / "text_encoder" / "model.safetensors")
    tensors = {name: value for name, value in tensors.items() if "block.1" not in name}
    save_file(tensors, folder / "text_encoder" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(MissingModelError, match=r"lacks .* tensors"):
        UMT5Tokens(card.model_copy(update={"folder": folder}))(["a swan that was never read"])


def test_missing_parts_get_a_sentence(card, tmp_path):
    gone = card.model_copy(update={"folder": tmp_path})
    with pytest.raises(MissingModelError, match=r"tokenizer|encoder"):
        UMT5Tokens(gone)(["a swan"])
