"""Quick decoders: the published layout to the byte, streamed = whole bit for bit, and which one a model gets."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save, save_file
from torch.nn import functional as F

from blockvid_cli.errors import MissingModelError
from blockvid_cli.models.card import ModelCard, bundled_models, find_card
from blockvid_cli.models.hub import sha256
from blockvid_cli.models.preview_decoders import (
    RGB_BIAS,
    RGB_FACTORS,
    TAEW21,
    TAEW21_BYTES,
    TAEW21_LICENCE,
    LatentRGB,
    TaehvDecoder,
    load_preview_decoder,
    load_taehv,
    taehv_weights,
)
from blockvid_cli.models.registry import has_wan21_latents
from blockvid_cli.models.tiny_vae import TinyVAE
from blockvid_cli.models.vae import decode
from tests import tiny_wan
from tests.fake_hub import FakeHub
from tests.test_vae import randomize

WAN21 = ("wan2.1-t2v-1.3b", "wan2.1-t2v-14b", "self-forcing", "longlive", "skyreels-v2-df-1.3b", "causvid")


@pytest.fixture(scope="module")
def taehv() -> TaehvDecoder:
    """Random weights in the true sizes."""
    return randomize(TaehvDecoder(), seed=3)


@pytest.fixture
def wan_card(tmp_path, monkeypatch) -> ModelCard:
    """A Wan 2.1 card in a folder of its own, on a machine that has pulled nothing."""
    monkeypatch.setenv("BLOCKVID_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    (tmp_path / "card").mkdir()
    return find_card("wan2.1-t2v-1.3b").model_copy(update={"folder": tmp_path / "card"})


def latents(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 16, 2, 3, generator=torch.Generator().manual_seed(seed))


def published(decoder: TaehvDecoder) -> dict[str, torch.Tensor]:
    """The decoder's weights as they are published: in half precision, with an encoder (zeros here) beside them."""
    shapes: dict[str, tuple[int, ...]] = {"0.weight": (64, 3, 3, 3), "0.bias": (64,)}
    for stage, pooled in enumerate((2, 2, 1)):
        at = 2 + 5 * stage
        shapes |= {f"{at}.conv.weight": (64, 64 * pooled, 1, 1), f"{at + 1}.weight": (64, 64, 3, 3)}
        for memory in range(at + 2, at + 5):
            for layer, inner in ((0, 128), (2, 64), (4, 64)):
                shapes |= {f"{memory}.conv.{layer}.weight": (64, inner, 3, 3), f"{memory}.conv.{layer}.bias": (64,)}
    shapes |= {"17.weight": (16, 64, 3, 3), "17.bias": (16,)}
    encoder = {f"encoder.{name}": torch.zeros(shape).half() for name, shape in shapes.items()}
    return encoder | {name: value.half() for name, value in decoder.state_dict().items()}


def all_at_once(weights: dict[str, torch.Tensor], z: torch.Tensor) -> torch.Tensor:
    """The decoder said again without a state: all frames of a film at once, a memory looks one frame back."""

    def conv(x: torch.Tensor, name: str, padding: int = 1) -> torch.Tensor:
        return F.conv2d(x, weights[f"decoder.{name}.weight"], weights.get(f"decoder.{name}.bias"), padding=padding)

    x = F.relu(conv(3 * torch.tanh(z / 3), "1"))
    for first, times in ((3, 1), (9, 2), (15, 2)):
        for part in range(first, first + 3):
            both = torch.cat([x, F.pad(x, (0, 0, 0, 0, 0, 0, 1, 0))[:-1]], 1)
            h = F.relu(conv(F.relu(conv(both, f"{part}.conv.0")), f"{part}.conv.2"))
            x = F.relu(conv(h, f"{part}.conv.4") + x)
        x = conv(x.repeat_interleave(2, 2).repeat_interleave(2, 3), f"{first + 4}.conv", padding=0)
        x = torch.cat([part for frame in x for part in frame.chunk(times)]).view(-1, x.shape[1] // times, *x.shape[2:])
        x = conv(x, f"{first + 5}")
    return conv(F.relu(x), "22").clamp(0, 1)[3:]


def test_the_layout_is_the_published_one_to_the_byte(taehv):
    """taew2_1.safetensors is 22,642,902 bytes: 128 names, 11.3 million weights; a name or shape more would show."""
    tensors = published(taehv)
    assert len(tensors) == 128 and len(save(tensors)) == TAEW21_BYTES


@torch.inference_mode()
def test_taehv_says_what_the_simple_way_says(taehv):
    z = latents(5) * 2
    frames, simple = decode(taehv, z), all_at_once(taehv.state_dict(), z)
    assert frames.shape == (17, 3, 16, 24) and frames.min() >= 0 and frames.max() <= 1
    assert frames.std() > 0.05 and torch.allclose(frames, simple, atol=1e-4)


@pytest.mark.parametrize("sizes", [[2, 2, 1], [1] * 5])
@pytest.mark.parametrize("kind", ["taehv", "smooth", "square"])
def test_streamed_equals_whole(taehv, kind, sizes):
    decoder = taehv if kind == "taehv" else LatentRGB(smooth=kind == "smooth")
    parts = list(decoder.stream(latents(5).split(sizes)))
    assert [len(part) for part in parts] == [4 * size - (3 if i == 0 else 0) for i, size in enumerate(sizes)]
    assert torch.equal(torch.cat(parts), decode(decoder, latents(5)))


def test_taehv_remembers_and_is_causal(taehv):
    z = latents(4)
    whole = decode(taehv, z)
    assert not torch.allclose(whole[-9:-4], decode(taehv, z[2:])[:5], atol=1e-3)
    assert torch.equal(whole[:9], decode(taehv, torch.cat([z[:3], latents(1, seed=9)]))[:9])


def test_a_published_file_is_loaded_and_another_is_not(taehv, tmp_path):
    tensors = published(taehv)
    halves, pickle = tmp_path / "taew2_1.safetensors", tmp_path / "taew2_1.pth"
    save_file(tensors, halves)
    torch.save(tensors, pickle)
    z = latents(2)
    ours = decode(load_taehv(halves), z)
    assert torch.equal(ours, decode(load_taehv(pickle), z)) and torch.allclose(ours, decode(taehv, z), atol=2e-2)
    narrow = tensors | {"decoder.1.weight": torch.zeros(256, 48, 3, 3)}
    for wrong in (
        {name: value for name, value in tensors.items() if name != "decoder.22.bias"},
        narrow,
        tensors | {"decoder.3.conv.6.weight": torch.zeros(1)},
    ):
        save_file(wrong, halves)
        with pytest.raises(MissingModelError, match="not the weights of TAEHV"):
            load_taehv(halves)


def test_colours_are_a_linear_map_of_normalised_latents():
    assert torch.tensor(RGB_FACTORS).shape == (16, 3)
    middle = decode(LatentRGB(scale=1), torch.zeros(3, 16, 4, 6))
    assert middle.shape == (9, 3, 4, 6)
    assert torch.allclose(middle[0, :, 0, 0], (torch.tensor(RGB_BIAS) + 1) / 2)
    z = torch.zeros(2, 16, 4, 6)
    z[1, 2, 1, 1] = 1.0
    frames = decode(LatentRGB(scale=1), z)
    assert torch.allclose(frames[1, :, 1, 1] - frames[0, :, 1, 1], torch.tensor(RGB_FACTORS[2]) / 2, atol=1e-6)
    assert torch.equal(frames[1], frames[4]) and torch.equal(frames[1, :, 0], frames[0, :, 0])
    assert decode(LatentRGB(), z).shape == (5, 3, 32, 48)
    with pytest.raises(ValueError, match="16 channels, not 4"):
        decode(LatentRGB(), torch.zeros(1, 4, 2, 2))


def test_square_pixels_are_the_latents_pixels():
    z = latents(2)
    small, square = decode(LatentRGB(scale=1), z), decode(LatentRGB(smooth=False), z)
    assert torch.equal(square, small.repeat_interleave(8, 2).repeat_interleave(8, 3))


def test_models_are_told_apart_by_their_codec():
    assert set(WAN21) <= {name for name in bundled_models() if has_wan21_latents(find_card(name))}
    assert not has_wan21_latents(find_card("storybook"))
    wan = find_card("wan2.1-t2v-1.3b")
    config = {**wan.vae.config, "latents_mean": [0.0] * 16}
    assert not has_wan21_latents(wan.model_copy(update={"vae": wan.vae.model_copy(update={"config": config})}))


def test_a_model_gets_the_quickest_decoder_that_is_here(taehv, wan_card):
    assert isinstance(load_preview_decoder(find_card("storybook"), "cpu").decoder, TinyVAE)
    nothing = load_preview_decoder(wan_card, "cpu")
    assert nothing.kind == "rgb" and nothing.file is None and taehv_weights(wan_card) is None
    beside = wan_card.folder / "taew2_1.safetensors"
    save_file(published(taehv), beside)
    there = load_preview_decoder(wan_card, "cpu", torch.bfloat16)
    assert (there.kind, there.file) == ("taehv", beside) and there.decoder.decoder[1].weight.dtype == torch.bfloat16
    assert decode(there.decoder, latents(1)).dtype == torch.float32
    assert load_preview_decoder(wan_card, "cpu", linear=True).kind == "rgb"
    beside.write_bytes(beside.read_bytes()[:1000])
    with pytest.raises(MissingModelError, match="damaged"):
        load_preview_decoder(wan_card, "cpu")


def test_another_autoencoder_is_decoded_by_itself(tmp_path):
    folder = tiny_wan.model(tmp_path / "model", "diffusers")
    assert load_preview_decoder(find_card(str(folder)), "cpu").kind == "vae"


BRING = """
import sys
from blockvid_cli.models.card import find_card
from blockvid_cli.errors import MissingModelError
from blockvid_cli.models import preview_decoders
card = find_card("wan2.1-t2v-1.3b")
for known in ("0" * 64, sys.argv[2]):
    preview_decoders.TAEW21 = preview_decoders.TAEW21.model_copy(update={"repository": sys.argv[1], "sha256": known})
    print(preview_decoders.taehv_weights(card))
    try:
        print(preview_decoders.pull_taehv(card).name)
    except MissingModelError as error:
        print(error)
        print(preview_decoders.taehv_weights(card))
"""


def test_the_weights_are_brought_from_the_hub_and_checked(tmp_path):
    (tmp_path / "served").mkdir()
    file = tmp_path / "served" / TAEW21.file
    save_file({"decoder.1.weight": torch.zeros(2)}, file)
    hub = FakeHub(tmp_path / "served", "someone/taew")
    homes = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "hf"), "BLOCKVID_HOME": str(tmp_path / "home")}
    ran = subprocess.run(
        [sys.executable, "-c", BRING, "someone/taew", sha256(file)],
        capture_output=True,
        text=True,
        env={**os.environ, **homes, "HF_HUB_OFFLINE": "0"},
        timeout=120,
        check=False,
    )
    hub.close()
    absent, refused, unused, cached, pulled = ran.stdout.splitlines()
    assert absent == unused == "None" and "the hash differs" in refused, ran.stderr
    assert cached.endswith(TAEW21.file) and pulled == TAEW21.file


def test_where_the_weights_come_from_is_told():
    assert TAEW21.repository == "OzzyGT/taew2_1"
    assert len(TAEW21.sha256 or "") == 64 and "MIT" in TAEW21_LICENCE
