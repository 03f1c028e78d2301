"""Presets: whatever is offloaded, a film has the same frames; what it needs is known before anything is loaded."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from imageio_ffmpeg import count_frames_and_secs

from blockvid_cli import render as pipeline
from blockvid_cli import session
from blockvid_cli.errors import OutOfMemoryError, UsageError
from blockvid_cli.job import RenderRequest, prepare
from blockvid_cli.models.card import find_card
from blockvid_cli.render import render
from blockvid_cli.rollout.recipe import make_recipe
from blockvid_cli.runtime import memory_estimate, time_estimate
from blockvid_cli.runtime.memory_estimate import GIB, choose_preset, estimate_memory, format_plan
from blockvid_cli.runtime.presets import PRESETS, RuntimeOptions, next_lower_preset, resolve_preset
from blockvid_cli.runtime.time_estimate import count_flops, estimate_render
from blockvid_cli.storyboard.plan import make_plan
from blockvid_cli.storyboard.storyboard import read_storyboard
from blockvid_cli.video.mux import warn_degenerate_blocks
from tests import tiny_wan


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return tiny_wan.model(tmp_path_factory.mktemp("tiny"), "container")


@pytest.fixture
def minute(tmp_path):
    chunks = "".join(f"  - caption: A swan glides past tree number {n}.\n    duration: 4s\n" for n in range(15))
    file = tmp_path / "minute.yaml"
    file.write_text(f"version: 1\nseed: 3\nchunks:\n{chunks}")
    return file


def notes_of(events) -> str:
    return " ".join(event.note for event in events)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_renders_all_frames(name, tiny, story):
    events = []
    job = prepare(RenderRequest(story, model=str(tiny), runtime=RuntimeOptions(name)))
    film = render(job, events.append)
    assert job.preset.name == name and count_frames_and_secs(str(film.path))[0] == 80  # 5 s at 16 fps
    assert "frozen" not in notes_of(events) and "black" not in notes_of(events)


@pytest.mark.slow
@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_renders_a_minute(name, tiny, minute):
    film = render(prepare(RenderRequest(minute, model=str(tiny), runtime=RuntimeOptions(name))))
    assert count_frames_and_secs(str(film.path))[0] == 960


def test_presets_of_one_precision_give_one_film(tiny, story, tmp_path):
    def frames(name, **options):
        request = RenderRequest(
            story, tmp_path / f"{name}.mp4", str(tiny), runtime=RuntimeOptions(name, "fp32", **options)
        )
        blocks = pipeline.stream_frames(prepare(request))
        return torch.cat(list(blocks))

    whole = frames("h20")
    assert torch.equal(whole, frames("24gb", kv_storage="disk"))
    assert torch.equal(whole, frames("16gb"))
    assert float((whole - frames("12gb")).abs().max()) < 1e-5  # so small a frame is one tile


def test_a_render_continues_with_the_preset_it_began_with(tiny, story, monkeypatch):
    first = prepare(RenderRequest(story, model=str(tiny), runtime=RuntimeOptions("8gb")))
    render(first)
    again = prepare(RenderRequest(story, model=str(tiny)))
    assert (
        again.preset.name == "8gb" and prepare(RenderRequest(story, model=str(tiny), fresh=True)).preset.name == "h20"
    )
    events = []
    render(again, events.append)
    assert all(event.step.resumed for event in events if event.step)


def test_a_render_that_runs_out_of_memory_continues_with_the_next_lower_preset(tiny, story, monkeypatch):
    load_denoiser = session.load_denoiser
    precisions, events = [], []

    class Hungry:
        def __init__(self, inner, most):
            self.inner, self.most, self.network = inner, most, inner.network
            self.rope, self.patch = inner.rope, inner.patch

        def __call__(self, *arguments):
            self.most -= 1
            if self.most < 0:
                raise torch.OutOfMemoryError("out of memory")
            return self.inner(*arguments)

    def load(card, device, precision, fps):
        precisions.append(precision.name)
        return Hungry(load_denoiser(card, device, precision, fps), 17 if len(precisions) == 1 else 1000)

    monkeypatch.setattr(session, "load_denoiser", load)
    film = render(prepare(RenderRequest(story, model=str(tiny), runtime=RuntimeOptions("h20"))), events.append)
    assert precisions == ["fp32", "bf16"] and film.frames == 80
    assert "not enough memory to denoise" in notes_of(events) and "preset 24gb" in notes_of(events)
    resumed = [event.step for event in events if event.step and event.step.resumed]
    assert len(resumed) == 3  # 17 passes finish the first chunk; a chunk in two precisions is not resumed
    precisions.clear()
    with pytest.raises(OutOfMemoryError, match="--preset"):
        render(prepare(RenderRequest(story, model=str(tiny), runtime=RuntimeOptions("h20"), retry=False, fresh=True)))


def test_a_black_or_frozen_block_gets_a_note(tiny, story, monkeypatch):
    events = []
    blocks = iter([torch.zeros(9, 3, 4, 4), torch.rand(1, 3, 4, 4).expand(12, -1, -1, -1), torch.rand(12, 3, 4, 4)])
    job = prepare(RenderRequest(story, model=str(tiny)))
    plan = replace(job.plan, chunks=(replace(job.plan.chunks[0], block_count=3),))
    assert len(list(warn_degenerate_blocks(blocks, plan, events.append))) == 3
    assert events == [
        "chunk 1: block 1 came out black.",
        "chunk 1: block 2 came out frozen.",
    ]


def test_each_preset_has_a_next_lower_one():
    names = list(PRESETS)
    assert [next_lower_preset(resolve_preset(name, "cuda", RuntimeOptions()), RuntimeOptions()) for name in names] == [
        *names[1:],
        None,
    ]
    quantized = RuntimeOptions(precision="int8")
    assert (
        next_lower_preset(resolve_preset("8gb", "cuda", quantized), quantized) is None
    )  # they cannot be offloaded by parts
    with pytest.raises(UsageError, match="cannot be offloaded by parts"):
        resolve_preset("24gb", "cuda", RuntimeOptions(precision="nf4", offload="group"))


def wan(model: str, size: str = "832x480", seconds: int = 60, story=None, **changes):
    card = find_card(model)
    board = read_storyboard(story)
    recipe = make_recipe({**card.recipe, **changes})
    return card, make_plan(board, card, seed=1), recipe


@pytest.mark.parametrize(("window", "gib"), [(12, 3.2), (15, 4.0), (21, 5.6), (30, 8.0)])
def test_cached_tokens_need_the_published_memory(window, gib, minute):
    card, plan, recipe = wan("self-forcing", story=minute, kv_cache={"name": "window", "window": window, "sink": 0})
    preset = resolve_preset("16gb", "cuda", RuntimeOptions())
    cached = estimate_memory(card, plan, recipe, 1, preset).phases["denoise"]
    none = estimate_memory(card, plan, make_recipe({**card.recipe, "kv_cache": "none"}), 1, preset).phases["denoise"]
    assert (cached - none) / GIB == pytest.approx(gib, rel=0.12)  # with two layers joined


def test_phases_need_the_measured_memory(minute):
    card, plan, recipe = wan("self-forcing", story=minute)
    need = {
        name: estimate_memory(card, plan, recipe, 1, resolve_preset(name, "cuda", RuntimeOptions())).phases
        for name in PRESETS
    }
    assert need["24gb"]["text"] / GIB == pytest.approx(10.6, rel=0.02) and need["12gb"]["text"] == 0
    none = make_recipe({**card.recipe, "kv_cache": "none"})
    weights = (
        estimate_memory(card, plan, none, 1, resolve_preset("16gb", "cuda", RuntimeOptions())).phases["denoise"] / GIB
    )
    assert weights == pytest.approx(2.64 + 0.2, rel=0.05)
    eight = (
        estimate_memory(card, plan, none, 1, resolve_preset("8gb", "cuda", RuntimeOptions())).phases["denoise"] / GIB
    )
    assert eight == pytest.approx(1.32 + 0.2, rel=0.08)
    assert need["16gb"]["decode"] / GIB == pytest.approx(3.9, rel=0.05)
    assert 0.6 < need["12gb"]["decode"] / GIB < 0.9
    assert need["h20"]["denoise"] > 1.9 * need["24gb"]["denoise"]


def test_each_preset_fits_the_gpu_it_is_named_after(minute):
    card, plan, recipe = wan("self-forcing", story=minute)
    for name, room in (("24gb", 24), ("16gb", 16), ("12gb", 12), ("8gb", 8)):
        peak = estimate_memory(card, plan, recipe, 1, resolve_preset(name, "cuda", RuntimeOptions())).peak
        assert peak + 0.7 * GIB < 0.97 * room * 1e9, name


def test_auto_chooses_the_first_preset_that_fits(minute):
    card, plan, recipe = wan("self-forcing", story=minute)

    def chosen(gib, options=RuntimeOptions()):  # noqa: B008
        return choose_preset(
            round(gib * GIB), "cuda", options, lambda preset: estimate_memory(card, plan, recipe, 1, preset)
        ).name

    assert [chosen(gib) for gib in (23, 11.6, 9.8, 4.5, 0.5)] == ["24gb", "16gb", "12gb", "8gb", "least"]
    assert chosen(0.5, RuntimeOptions("24gb")) == "24gb"
    line = format_plan(
        resolve_preset("8gb", "cuda", RuntimeOptions()),
        estimate_memory(card, plan, recipe, 1, resolve_preset("8gb", "cuda", RuntimeOptions())),
        8 * GIB,
    )
    assert "int8 weights" in line and "text encoder on the CPU" in line


def test_a_longer_film_needs_no_more(minute, tmp_path):
    card, plan, recipe = wan("longlive", story=minute)
    longer = tmp_path / "longer.yaml"
    longer.write_text(minute.read_text().replace("duration: 4s", "duration: 16s"))
    four = make_plan(read_storyboard(longer), card, seed=1)
    preset = resolve_preset("24gb", "cuda", RuntimeOptions())
    assert len(four.blocks) > 3.9 * len(plan.blocks)
    assert (
        estimate_memory(card, four, recipe, 1, preset).phases == estimate_memory(card, plan, recipe, 1, preset).phases
    )
    more, less = (count_flops(card, film, recipe, 1)["denoise"] for film in (four, plan))
    assert more == pytest.approx(4 * less, rel=0.02)


def test_main_memory_beside_a_gpu_is_counted_phase_by_phase(minute):
    card, plan, recipe = wan("self-forcing", story=minute)

    def host(name, **options):
        preset = resolve_preset(name, "cuda", RuntimeOptions(**options))
        return {phase: size / GIB for phase, size in estimate_memory(card, plan, recipe, 1, preset).host.items()}

    encoder, vae = 5_680_910_336 * 2 / GIB, 126_892_531 * 2 / GIB
    assert host("24gb") == {"text": pytest.approx(encoder), "denoise": 0, "decode": 0}  # read there, then moved
    assert host("12gb") == {"text": pytest.approx(encoder), "denoise": pytest.approx(vae), "decode": 0}
    tokens = 2 * 1560 * 1536 * 30 * 21 * 1.03 / GIB  # keys and values of 21 frames in int8
    assert host("8gb")["denoise"] == pytest.approx(vae + tokens, rel=0.2)
    assert host("least")["denoise"] > 1_418_996_800 * 2 / GIB + vae
    cpu = estimate_memory(card, plan, recipe, 1, resolve_preset("8gb", "cpu", RuntimeOptions()))
    assert cpu.host == {} and cpu.phases["text"] / GIB == pytest.approx(encoder)


def test_an_estimate_compares_main_memory_with_what_is_free(minute, monkeypatch):
    card, plan, recipe = wan("self-forcing", story=minute)
    preset = resolve_preset("8gb", "cuda", RuntimeOptions())
    for free, fits_there in ((8, False), (16, True)):
        monkeypatch.setattr(time_estimate, "free_memory", lambda device, free=free: free * GIB)
        monkeypatch.setattr(memory_estimate, "free_memory", lambda device, free=free: free * GIB)
        gpu, main = str(estimate_render(card, plan, recipe, 1, preset, None)).split("\n")
        assert "of GPU memory (preset 8gb)" in gpu and "text" not in gpu
        assert main.startswith("needs about text 10.58, denoise ") and f"of {free}.0 GiB free main memory" in main
        assert main.endswith("this may not fit") != fits_there
        line = format_plan(preset, estimate_memory(card, plan, recipe, 1, preset), 8 * GIB)
        assert line.startswith("fits: ") == fits_there and f"10.6 of {free}.0 GiB free in main memory" in line
    with monkeypatch.context() as patch:
        patch.setattr(time_estimate, "matmul_flops", lambda device, dtype: 1e12)
        storybook, plan, recipe = wan("storybook", story=minute)
        cpu = estimate_render(storybook, plan, recipe, 1, resolve_preset("h20", "cpu", RuntimeOptions()), 8 * GIB)
    assert "free main memory (preset h20 on cpu)" in str(cpu) and "\n" not in str(cpu)
