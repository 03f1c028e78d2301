"""VAEs: streamed = whole, bit for bit; 9, then 12 frames a block; 81 frames of 21 latents, not 63."""

from __future__ import annotations

import itertools

import pytest
import torch
from diffusers import AutoencoderKLWan

from blockvid_cli.models.tiny_vae import TinyVAE, TinyVAEConfig, fit_principal, fold
from blockvid_cli.models.vae import decode, to_uint8
from blockvid_cli.models.wan import vae as wan_vae
from blockvid_cli.models.wan.vae import WanVAE
from blockvid_cli.training.objectives.reconstruction import reconstruct

SMALL = TinyVAEConfig(
    channels=4,
    encode_fine=16,
    encode_coarse=16,
    decode_coarse=16,
    decode_fine=16,
    encode_depth=(1, 2),
    decode_depth=(2, 1),
)


def randomize(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Random weights everywhere, so that zero-initialised paths count too."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for value in module.parameters():
            if value.ndim > 1:
                value.copy_(torch.randn_like(value) * value[0].numel() ** -0.5)
    return module.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def tiny() -> TinyVAE:
    vae = randomize(TinyVAE(SMALL))
    vae.mean.copy_(torch.randn(4))
    vae.std.copy_(torch.rand(4) + 0.5)
    return vae


@pytest.fixture(scope="module")
def wan() -> WanVAE:
    from diffusers import AutoencoderKLWan

    torch.manual_seed(0)
    return WanVAE(AutoencoderKLWan(base_dim=16, z_dim=16, num_res_blocks=1).eval().requires_grad_(False))


def cuts(latents: torch.Tensor, sizes: list[int]) -> list[torch.Tensor]:
    return list(latents.split(sizes))


@pytest.mark.parametrize("sizes", [[3, 3, 3], [1] * 9, [2, 5, 2], [9]])
def test_tiny_streamed_equals_whole(tiny, sizes):
    latents = torch.randn(9, 4, 4, 6, generator=torch.Generator().manual_seed(1))
    streamed = list(tiny.stream(cuts(latents, sizes)))
    assert [len(part) for part in streamed] == [4 * size - (3 if i == 0 else 0) for i, size in enumerate(sizes)]
    assert torch.equal(torch.cat(streamed), decode(tiny, latents))


def test_tiny_state_matters(tiny):
    """A VAE that forgot its state between blocks would decode other frames."""
    latents = torch.randn(6, 4, 4, 6)
    whole, alone = decode(tiny, latents), decode(tiny, latents[3:])
    assert not torch.allclose(whole[-9:], alone, atol=1e-3)


def test_tiny_is_causal(tiny):
    latents = torch.randn(4, 4, 4, 6)
    changed = torch.cat([latents[:3], torch.randn(1, 4, 4, 6)])
    assert torch.equal(decode(tiny, latents)[:9], decode(tiny, changed)[:9])
    frames = torch.rand(17, 3, 32, 48)
    later = torch.cat([frames[:13], torch.rand(4, 3, 32, 48)])
    assert torch.equal(tiny.encode(frames)[:4], tiny.encode(later)[:4])


def test_training_path_equals_streaming_path(tiny):
    """All latents of a clip at once, as training does it, is the same as one by one."""
    frames = torch.rand(2, 9, 3, 32, 48)
    whole, latents = reconstruct(tiny, fold(frames))
    z = (latents.unflatten(0, (2, 3))[0] - tiny.mean.view(-1, 1, 1)) / tiny.std.view(-1, 1, 1)
    assert torch.allclose(tiny.encode(frames[0]), z, atol=1e-5)
    assert torch.allclose(
        decode(tiny, z), whole[0].unflatten(1, (4, 3)).flatten(0, 1)[3:].add(0.5).clamp(0, 1), atol=1e-4
    )


def test_principal_components_give_a_linear_vae():
    """Pictures with few degrees of freedom come back almost exactly before any training."""
    torch.manual_seed(0)
    basis, weights = torch.randn(3, 3, 8, 8) * 0.1, torch.randn(60, 3)
    frames = (0.5 + torch.einsum("nk,kchw->nchw", weights, basis)).repeat_interleave(4, 0)
    folded = frames.unflatten(0, (-1, 4)).flatten(1, 2) - 0.5
    vae = TinyVAE(SMALL)
    fit_principal(vae, folded)
    z, _ = vae.encoder(folded, len(folded), [])
    y, _ = vae.decoder(z, len(folded), [])
    assert (y - folded).abs().max() < 1e-3
    assert folded.std() > 0.05


def test_wan_streamed_equals_whole_and_counts_81_frames(wan):
    latents = torch.randn(21, 16, 4, 4, generator=torch.Generator().manual_seed(2))
    parts = list(wan.stream(cuts(latents, [3] * 7)))
    assert [len(part) for part in parts] == [9, 12, 12, 12, 12, 12, 12]
    streamed, whole = torch.cat(parts), decode(wan, latents)
    assert streamed.shape == (81, 3, 32, 32)
    assert torch.equal(streamed, whole)


def test_wan_equals_diffusers_decode(wan):
    latents = torch.randn(4, 16, 4, 4)
    model = wan.module
    mean, std = (torch.tensor(model.config[name]).view(1, -1, 1, 1, 1) for name in ("latents_mean", "latents_std"))
    z = latents.transpose(0, 1)[None] * std + mean
    theirs = model.decode(z, return_dict=False)[0][0].transpose(0, 1) / 2 + 0.5
    assert torch.allclose(decode(wan, latents), theirs.clamp(0, 1), atol=1e-5)


def test_wan_encodes_with_published_mean_and_std(wan):
    frames = torch.rand(9, 3, 32, 32)
    latents = wan.encode(frames)
    assert latents.shape == (3, 16, 4, 4)
    theirs = wan.module.encode(frames.transpose(0, 1)[None] * 2 - 1).latent_dist.mode()[0].transpose(0, 1)
    mean, std = (torch.tensor(wan.module.config[n]).view(-1, 1, 1) for n in ("latents_mean", "latents_std"))
    assert torch.allclose(latents, (theirs - mean) / std, atol=1e-5)


def test_frames_are_bytes():
    frames = to_uint8(torch.tensor([-1.0, 0.0, 0.5, 1.0, 2.0]).view(5, 1, 1, 1).expand(5, 3, 2, 2))
    assert frames.dtype.name == "uint8" and frames.shape == (5, 2, 2, 3)
    assert frames[:, 0, 0, 0].tolist() == [0, 0, 128, 255, 255]


@pytest.fixture(scope="module")
def small_wan():
    torch.manual_seed(0)
    return AutoencoderKLWan(base_dim=8, z_dim=16, num_res_blocks=1).eval()


def test_tiles_cover_a_frame_and_end_at_its_edge():
    for length in (5, 32, 33, 56, 60, 104):
        windows = wan_vae._windows(length)
        assert windows[0].start == 0 and windows[-1].stop == length
        assert all(b.start <= a.stop - (wan_vae.TILE - wan_vae.STRIDE) for a, b in itertools.pairwise(windows))


@torch.inference_mode()
def test_tiled_frames_are_near_the_whole_ones_and_streamed_equal_whole(small_wan):
    z = torch.randn(4, 16, 40, 36, generator=torch.Generator().manual_seed(1))
    whole = torch.cat(list(WanVAE(small_wan).stream(z.split(2))))
    tiled = torch.cat(list(WanVAE(small_wan, tiled=True).stream(z.split(2))))
    at_once = torch.cat(list(WanVAE(small_wan, tiled=True).stream([z])))
    assert tiled.shape == whole.shape == (13, 3, 320, 288) and torch.allclose(tiled, at_once, atol=1e-5)
    assert float((tiled - whole).abs().mean()) < 0.1 * float(whole.std())


@torch.inference_mode()
def test_one_tile_is_the_whole_frame(small_wan):
    z = torch.randn(3, 16, 8, 12)
    assert torch.equal(*(torch.cat(list(WanVAE(small_wan, tiled=t).stream([z]))) for t in (False, True)))


@torch.inference_mode()
@pytest.mark.parametrize("kind", ["tiny", "wan", "tiled"])
def test_frames_encoded_in_pieces_equal_the_whole_film(kind, small_wan):
    torch.manual_seed(3)
    vae = TinyVAE().eval() if kind == "tiny" else WanVAE(small_wan, tiled=kind == "tiled")
    frames = torch.rand(13, 3, 320, 288) if kind == "tiled" else torch.rand(13, 3, 32, 48)
    whole = vae.encode(frames)
    pieces = torch.cat(list(vae.encode_stream([frames[:5], frames[5:9], frames[9:]])))
    assert whole.shape[0] == 4 and torch.allclose(whole, pieces, atol=1e-5)


@torch.inference_mode()
def test_latents_encoded_in_tiles_are_near_those_of_whole_frames(small_wan):
    frames = torch.rand(5, 3, 320, 288, generator=torch.Generator().manual_seed(4))
    whole, tiled = (WanVAE(small_wan, tiled=t).encode(frames) for t in (False, True))
    assert whole.shape == tiled.shape == (2, 16, 40, 36)
    assert float((whole - tiled).abs().mean()) < 0.1 * float(whole.std())
