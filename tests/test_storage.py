"""Wherever remembered tokens lie, the film is the same; packed tokens stay close."""

from __future__ import annotations

import pytest
import torch

from blockvid_cli.errors import BlockvidError, UsageError
from blockvid_cli.job import RenderRequest, prepare
from blockvid_cli.rollout.kv_cache.storage import make_storage, pack, unpack
from blockvid_cli.rollout.rollout import RolloutSegment
from blockvid_cli.runtime.presets import RuntimeOptions
from tests.small import denoiser, plan, recipe, rollout

ALONE = {"name": "clean", "self_only": True}
MEMORIES = [
    "full",
    {"name": "window", "window": 5, "sink": 1},
    {"name": "semantic", "recent": 1, "top": 1, "tau": 0.9, "probes": 4},
    {"name": "semantic", "recent": 1, "top": 1, "tau": 0.9, "probes": 4, "last_blocks": 1},
]


@torch.inference_mode()
def film(memory, place: str, dtype: str, folder, **changes) -> torch.Tensor:
    drawn_by, how = denoiser(), recipe(kv_cache=memory, **changes)
    story = plan((2, 3, 1, 2), 2, ["a red boat", "a grey cat", "a red boat again", "a grey cat again"])
    run = rollout(story, drawn_by, how.kv_cache())
    run.kv_cache.storage = make_storage(place, dtype, place == "device", folder, run.recompute)
    moments = run.run([RolloutSegment(story.blocks, how, drawn_by)])
    return torch.cat([latents for moment in moments for _, latents in moment.finished])


@pytest.mark.parametrize("memory", MEMORIES, ids=lambda m: m if isinstance(m, str) else f"{m['name']}{len(m)}")
@pytest.mark.parametrize("place", ["host", "disk"])
def test_host_and_disk_give_the_same_film_bit_for_bit(memory, place, tmp_path):
    assert torch.equal(film(memory, place, "native", tmp_path / ".memory"), film(memory, "device", "native", None))
    assert not any(tmp_path.iterdir())  # what was on disk is gone with the film, and its folder


@pytest.mark.parametrize("memory", MEMORIES, ids=lambda m: m if isinstance(m, str) else f"{m['name']}{len(m)}")
def test_latents_give_the_same_film(memory):
    again = film(memory, "latents", "native", None, cache_update=ALONE)
    assert torch.allclose(again, film(memory, "device", "native", None, cache_update=ALONE), atol=1e-5)


def test_a_disk_that_cannot_be_written_gets_a_sentence(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(BlockvidError, match="file"):
        film("full", "disk", "native", tmp_path / "file" / "folder")


def test_packed_tokens_change_the_film_by_little():
    full = film("full", "device", "native", None)
    for dtype in ("bf16", "int8"):
        error = float((film("full", "device", dtype, None) - full).norm() / full.norm())
        assert 1e-6 < error < 0.02, dtype


def test_int8_is_within_half_a_step_of_each_tokens_head():
    x = torch.randn(1, 9, 3, 8, generator=torch.Generator().manual_seed(0)) * torch.logspace(-3, 3, 9)[:, None, None]
    step = x.abs().amax(-1, keepdim=True) / 127
    packed = pack(x, "int8")
    assert packed[""].dtype == torch.int8 and sum(v.nbytes for v in packed.values()) < 0.35 * x.nbytes
    assert bool(
        ((unpack(lambda name: packed.get(name[1:]), "x", x.device, x.dtype) - x).abs() <= 0.51 * step + 1e-7).all()
    )


def test_latents_need_a_commit_that_is_alone(story, model):
    with pytest.raises(UsageError, match="alone: true"):
        prepare(RenderRequest(story, model=str(model), runtime=RuntimeOptions(kv_storage="latents")))
    for wrong in (
        RuntimeOptions(kv_storage="cloud"),
        RuntimeOptions(kv_dtype="int4"),
        RuntimeOptions(offload="sometimes"),
        RuntimeOptions("9gb"),
    ):
        with pytest.raises(UsageError):
            prepare(RenderRequest(story, model=str(model), runtime=wrong))
