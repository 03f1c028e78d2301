"""Wherever cached tokens are stored, the film is the same; packed tokens stay close."""

from __future__ import annotations

import pytest
import torch

from blockvid_cli.errors import BlockvidError, UsageError
from blockvid_cli.job import RenderRequest, prepare
from blockvid_cli.models.wan.attention import LayerQKV, TokenKV
from blockvid_cli.models.wan.rope import token_grid
from blockvid_cli.rollout.kv_cache.storage import make_storage, pack, unpack
from blockvid_cli.rollout.rollout import RolloutSegment
from blockvid_cli.runtime.presets import RuntimeOptions
from tests.small import denoiser, plan, recipe, rollout

SELF_ONLY = {"name": "clean", "self_only": True}
CACHES = [
    "full",
    {"name": "window", "window": 5, "sink": 1},
    {"name": "semantic", "recent": 1, "top": 1, "tau": 0.9, "probes": 4},
    {"name": "semantic", "recent": 1, "top": 1, "tau": 0.9, "probes": 4, "last_blocks": 1},
]


@torch.inference_mode()
def film(cache, location: str, dtype: str, folder, cut: bool = False, **changes) -> torch.Tensor:
    network, how = denoiser(), recipe(kv_cache=cache, **changes)
    story = plan(
        (2, 3, 1, 2), 2, ["a red boat", "a grey cat", "a red boat again", "a grey cat again"], (False, cut, False)
    )
    run = rollout(story, network, how.kv_cache())
    run.kv_cache.storage = make_storage(location, dtype, location == "device", folder, run.recompute)
    steps = run.run([RolloutSegment(story.blocks, how, network)])
    return torch.cat([latents for step in steps for _, latents in step.finished])


@pytest.mark.parametrize("cache", CACHES, ids=lambda m: m if isinstance(m, str) else f"{m['name']}{len(m)}")
@pytest.mark.parametrize("location", ["host", "disk"])
def test_host_and_disk_give_the_same_film_bit_for_bit(cache, location, tmp_path):
    assert torch.equal(film(cache, location, "native", tmp_path / ".memory"), film(cache, "device", "native", None))
    assert not any(tmp_path.iterdir())  # what was on disk is gone with the film, and its folder


@pytest.mark.parametrize("cache", CACHES, ids=lambda m: m if isinstance(m, str) else f"{m['name']}{len(m)}")
def test_latents_give_the_same_film(cache):
    again = film(cache, "latents", "native", None, cache_update=SELF_ONLY)
    assert torch.allclose(again, film(cache, "device", "native", None, cache_update=SELF_ONLY), atol=1e-5)


def test_a_disk_that_cannot_be_written_gets_a_sentence(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(BlockvidError, match="file"):
        film("full", "disk", "native", tmp_path / "file" / "folder")


def test_packed_tokens_change_the_film_by_little():
    full = film("full", "device", "native", None)
    for dtype in ("bf16", "int8"):
        error = float((film("full", "device", dtype, None) - full).norm() / full.norm())
        assert 1e-6 < error < 0.02, dtype


@pytest.mark.parametrize("dtype", ["native", "bf16", "int8"])
@pytest.mark.parametrize("location", ["device", "host", "disk"])
@pytest.mark.parametrize("shape", [(12,), (2, 12)])
def test_a_bias_is_stored_with_its_tokens(location, dtype, shape, tmp_path):
    bias, block = torch.randn(shape), plan().blocks[0]
    tokens = TokenKV(torch.randn(1, 12, 2, 24), torch.randn(1, 12, 2, 24), token_grid(2, 2, 3), bias)
    store = make_storage(location, dtype, False, tmp_path / "cache", None).store
    entry = store(block.frame_indices, [tokens], [block])
    assert torch.equal(entry.layer(0).bias, bias)
    assert torch.equal(entry.last(1).layer(0).bias, bias[..., 6:])


def test_a_bias_survives_recomputed_tokens():
    block, where = plan().blocks[0], token_grid(2, 2, 3)
    layer = LayerQKV(*(torch.randn(1, 12, 2, 24) for _ in range(3)))
    sparse = TokenKV(layer.keys, layer.values, where, torch.randn(2, 12)).select(torch.tensor([1, 4, 7]))
    entry = make_storage("latents", "native", False, None, lambda block: ([layer], where)).store(
        block.frame_indices, [sparse], [block]
    )
    tokens = entry.layer(0)
    assert torch.equal(tokens.keys, sparse.keys) and torch.equal(tokens.bias, sparse.bias)


def test_int8_is_within_half_a_step_of_each_tokens_head():
    x = torch.randn(1, 9, 3, 8, generator=torch.Generator().manual_seed(0)) * torch.logspace(-3, 3, 9)[:, None, None]
    step = x.abs().amax(-1, keepdim=True) / 127
    packed = pack(x, "int8")
    assert packed[""].dtype == torch.int8 and sum(v.nbytes for v in packed.values()) < 0.35 * x.nbytes
    assert bool(
        ((unpack(lambda name: packed.get(name[1:]), "x", x.device, x.dtype) - x).abs() <= 0.51 * step + 1e-7).all()
    )


def test_latents_need_a_cache_update_of_the_block_alone(story, model):
    with pytest.raises(UsageError, match="self_only: true"):
        prepare(RenderRequest(story, model=str(model), runtime=RuntimeOptions(kv_storage="latents")))
    for wrong in (
        RuntimeOptions(kv_storage="cloud"),
        RuntimeOptions(kv_dtype="int4"),
        RuntimeOptions(offload="sometimes"),
        RuntimeOptions("9gb"),
    ):
        with pytest.raises(UsageError):
            prepare(RenderRequest(story, model=str(model), runtime=wrong))
