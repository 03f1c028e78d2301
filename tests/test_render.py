"""The whole way: films of the right length, resumed = uninterrupted, edits that render again only what they must."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import weakref
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from imageio_ffmpeg import count_frames_and_secs, read_frames
from safetensors.torch import load_file

from blockvid_cli.errors import BlockvidError, MissingModelError, OutOfMemoryError, PartialError, UsageError
from blockvid_cli.job import RenderRequest, prepare
from blockvid_cli.render import render
from blockvid_cli.retake import RetakeRequest, chunk_changes, retake
from blockvid_cli.rollout import recipe as recipe_module
from blockvid_cli.rollout.schedules.step import Schedule, moving_step
from blockvid_cli.runtime.presets import RuntimeOptions
from blockvid_cli.session import load
from blockvid_cli.storyboard import storyboard
from blockvid_cli.video.metadata import read_metadata, read_tags
from blockvid_cli.video.mux import uint8_frames


def render_story(story: Path, model: Path, **options) -> tuple[list, Path]:
    """Renders; returns the events and the film."""
    events = []
    film = render(prepare(RenderRequest(story, model=str(model), **options)), events.append)
    return events, film.path


def takes(story: Path) -> dict[str, str]:
    """The hash of each chunk's latents."""
    files = sorted(story.with_suffix(".blockvid").glob("chunks/*/take-1.safetensors"))
    latents = {file.parent.name: load_file(file)["latents"] for file in files}
    return {chunk: hashlib.sha256(values.numpy().tobytes()).hexdigest() for chunk, values in latents.items()}


def rendered_blocks(events) -> list[int]:
    """Blocks that were rendered, not resumed."""
    return [
        block.number for event in events if event.step and not event.step.resumed for block, _ in event.step.finished
    ]


def pictures(film: Path) -> np.ndarray:
    reader = read_frames(str(film))
    next(reader)
    return np.stack([np.frombuffer(frame, np.uint8) for frame in reader])


def test_a_storyboard_becomes_a_film(story, model):
    events, film = render_story(story, model)
    frames, seconds = count_frames_and_secs(str(film))
    assert frames == 60 and seconds == pytest.approx(5.0, abs=0.01)
    assert film == story.with_suffix(".mp4") and film.with_suffix(".srt").read_text().count("-->") == 3
    folder = story.with_suffix(".blockvid")
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["seed"] == 3 and [c["seed"] for c in manifest["chunks"]] and manifest["recipe"]["steps"] == 3
    assert (folder / "sheet.png").is_file() and set(takes(story)) == {"001", "002", "003"}
    assert rendered_blocks(events) == [0, 1, 2, 3, 4, 5]
    assert read_metadata(film)["recipe"] == manifest["recipe"]


def test_rendering_again_renders_nothing_and_gives_the_same_film(story, model):
    _, film = render_story(story, model)
    before, frames = takes(story), pictures(film)
    events, film = render_story(story, model)
    assert rendered_blocks(events) == [] and takes(story) == before
    assert np.array_equal(pictures(film), frames)


def test_subtitles_that_were_edited_by_hand_stay(story, model):
    """Those that a render wrote follow the captions."""

    def render_with(caption: str) -> tuple[str, list[str]]:
        story.write_text(re.sub("hops up and down|rises|sinks", caption, story.read_text()))
        events, _ = render_story(story, model)
        return beside.read_text(), [event.note for event in events if str(beside) in event.note]

    beside = story.with_suffix(".srt")
    render_with("hops up and down")
    text, notes = render_with("rises")
    assert "rises" in text and notes == []
    beside.write_text(f"{text}mine\n")
    edited, notes = render_with("sinks")
    assert edited == f"{text}mine\n" and len(notes) == 1 and "remove it" in notes[0]
    beside.unlink()
    text, notes = render_with("sinks")
    assert "sinks" in text and notes == []


def test_one_seed_one_film_another_seed_another(story, model, tmp_path):
    render_story(story, model)
    first = takes(story)
    render_story(story, model, fresh=True)
    assert takes(story) == first
    events, _ = render_story(story, model, seed=4)
    assert rendered_blocks(events) == [0, 1, 2, 3, 4, 5] and not set(takes(story).values()) & set(first.values())


EDITS = [
    ("title: Three moments", "title: Another", []),
    ("seed: 3", "seed: 3\nstyle: in watercolour", [0, 1, 2, 3, 4, 5]),
    ("hops up and down", "rests", [3, 4, 5]),
    ("glides to the left.", "glides to the right.", [2, 3, 4, 5]),
    ("A red boat rests", "A blue boat rests", [0, 1, 2, 3, 4, 5]),
    ("glides to the left.\n", "glides to the left.\n    seed: 9\n", [2, 3, 4, 5]),
]


@pytest.mark.parametrize(("old", "new", "rerendered"), EDITS)
def test_an_edit_rerenders_what_it_must(story, model, old, new, rerendered):
    render_story(story, model)
    before = takes(story)
    assert old in story.read_text()
    story.write_text(story.read_text().replace(old, new))
    events, _ = render_story(story, model)
    assert rendered_blocks(events) == rerendered
    untouched = [chunk for chunk, blocks in (("001", 0), ("002", 2), ("003", 3)) if blocks not in rerendered]
    assert all(takes(story)[chunk] == before[chunk] for chunk in untouched)


def test_appended_and_removed_chunks(story, model):
    render_story(story, model)
    before = takes(story)
    story.write_text(story.read_text() + "  - caption: Night falls.\n    duration: 1s\n")
    events, film = render_story(story, model)
    assert rendered_blocks(events) == [5, 6]
    assert takes(story)["001"] == before["001"] and takes(story)["002"] == before["002"]
    assert count_frames_and_secs(str(film))[0] == 72
    story.write_text(story.read_text().rsplit("  - caption", 2)[0])
    events, film = render_story(story, model)
    assert min(rendered_blocks(events), default=3) >= 3 and count_frames_and_secs(str(film))[0] == 36


def test_a_damaged_take_is_named_and_redrawn(story, model):
    render_story(story, model)
    before = takes(story)
    file = story.with_suffix(".blockvid") / "chunks" / "002" / "take-1.safetensors"
    data = bytearray(file.read_bytes())
    data[-100] ^= 4
    file.write_bytes(data)
    events, _ = render_story(story, model)
    notes = [event.note for event in events if event.note]
    assert any("chunks/002/take-1.safetensors" in note and "chunk 2" in note for note in notes)
    assert rendered_blocks(events)[0] == 2 and takes(story) == before


def test_a_full_disk_ends_with_a_sentence_and_can_be_resumed(story, model, monkeypatch, tmp_path):
    render_story(story, model)
    whole = takes(story)
    real, calls = os.replace, []

    def full(source, target):
        if str(target).endswith("take-1.safetensors"):
            calls.append(target)
            if len(calls) == 4:
                raise OSError(errno.ENOSPC, "No space left on device")
        return real(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(PartialError, match=r"full|space"):
        render_story(story, model, fresh=True)
    monkeypatch.setattr(os, "replace", real)
    events, _ = render_story(story, model)
    assert rendered_blocks(events) == [3, 4, 5] and takes(story) == whole


@pytest.mark.parametrize(
    "recipe",
    [
        {"schedule": {"name": "diagonal", "lag": 1}},
        {"schedule": "joint"},
        {"kv_cache": "full", "positions": "absolute", "solver": "unipc"},
        {"kv_cache": {"name": "window", "window": 6, "sink": 1}, "noise": "shared-base", "solver": "renoise"},
        {"guidance": 2.0, "cache_update": "clean"},
        {"steps": [1.0, 0.9375, 0.625]},
    ],
)
def test_every_part_of_a_recipe_renders_a_film(story, model, recipe):
    _, film = render_story(story, model, recipe=recipe)
    assert count_frames_and_secs(str(film))[0] == 60
    assert read_metadata(film)["recipe"]["steps"] == recipe.get("steps", 3)


def test_half_precision_renders_nearly_the_same(story, model):
    _, film = render_story(story, model)
    full = pictures(film).astype(float)
    _, film = render_story(story, model, runtime=RuntimeOptions(precision="bf16"), output=story.with_name("half.mp4"))
    half = pictures(film).astype(float)
    assert 0 < np.abs(full - half).mean() < 4


def test_a_later_caption_changes_earlier_chunks_where_blocks_are_rendered_together(story, model):
    recipe = {"schedule": "joint"}
    render_story(story, model, recipe=recipe)
    before = takes(story)
    story.write_text(story.read_text().replace("hops up and down", "rests"))
    events, _ = render_story(story, model, recipe=recipe)
    assert rendered_blocks(events) == [0, 1, 2, 3, 4, 5] and takes(story)["001"] != before["001"]


def test_a_chunk_may_have_a_recipe(story, model):
    text = story.read_text().replace("glides to the left.", "glides to the left.\n    recipe: {steps: 5}")
    story.write_text(text)
    events, _ = render_story(story, model)
    steps = [e.step.blocks[0].number for e in events if e.step]
    assert steps.count(2) == 5 and steps.count(1) == 3


KILLER = """
    import os, random, shutil, signal, sys, threading
    from pathlib import Path
    from blockvid_cli.job import RenderRequest, prepare
    from blockvid_cli.render import render
    import blockvid_cli.models.sentence_encoder, transformers, sentence_transformers

    story, model = Path(sys.argv[1]), sys.argv[2]
    generator = random.Random(11)
    for number in range(20):
        folder = story.parent / f"kill-{number}"
        folder.mkdir()
        copy = Path(shutil.copy(story, folder / "story.yaml"))
        delay, events = generator.random() / 50, []
        child = os.fork()
        if child == 0:  # is killed a moment after its event of this number: text, load, and 18 steps
            def kill(event):
                events.append(event)
                if len(events) == number + 1:
                    threading.Timer(delay, os.kill, (os.getpid(), signal.SIGKILL)).start()

            render(prepare(RenderRequest(copy, model=model)), kill)
            os._exit(0)
        os.waitpid(child, 0)
"""


def test_killed_at_twenty_moments_it_ends_with_the_same_film(story, model):
    """The killer only forks and never computes, so that its children may."""
    render_story(story, model)
    whole, frames = takes(story), pictures(story.with_suffix(".mp4"))
    command = [sys.executable, "-c", textwrap.dedent(KILLER), str(story), str(model)]
    subprocess.run(command, check=True, timeout=600)
    unfinished = reused = 0
    for number in range(20):
        copy = story.parent / f"kill-{number}" / "story.yaml"
        unfinished += not copy.with_suffix(".mp4").exists()
        saved = len(takes(copy))
        events, film = render_story(copy, model)
        reused += len(rendered_blocks(events)) < 6
        assert saved == 0 or len(rendered_blocks(events)) < 6, number
        assert takes(copy) == whole, number
        assert np.array_equal(pictures(film), frames), number
        assert not list(copy.parent.rglob("*.part*")), number
    assert unfinished >= 12 and reused >= 10  # of 18 that are killed before the last step, 14 with a finished block


def test_interrupting_ends_with_130_and_a_resumable_project(story, model):
    story.write_text(story.read_text() + "".join(f"  - caption: Wave {n}.\n    duration: 4s\n" for n in range(40)))
    command = [sys.executable, "-m", "blockvid_cli", "render", str(story), "--model", str(model), "--progress", "json"]
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # whoever runs the tests may not hear it
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=heard)
    for line in process.stderr:
        if '"block": 8' in line:
            process.send_signal(signal.SIGINT)
            break
    rest = process.stderr.read()
    assert process.wait(60) == 130 and "interrupted" in rest and "Traceback" not in rest
    assert len(takes(story)) >= 2 and not story.with_suffix(".mp4").exists()


@pytest.mark.parametrize(
    ("options", "kind", "said"),
    [
        ({"model": "storybok"}, MissingModelError, "storybook"),
        ({"size": "60x32"}, UsageError, "64x32"),
        ({"size": "big"}, UsageError, "WIDTHxHEIGHT"),
        ({"device": "tpu9"}, UsageError, "device"),
        ({"runtime": RuntimeOptions(precision="fp99")}, UsageError, "bf16"),
        ({"recipe": {"kv_cache": "elephant"}}, UsageError, "semantic"),
        ({"recipe": {"solver": {"name": "unipc", "ordr": 2}}}, UsageError, "order"),
        ({"recipe": {"steps": 0}}, UsageError, "steps"),
        ({"recipe": {"cache_update": {"name": "context-noise", "sigma": 2.0}}}, UsageError, "sigma"),
        ({"overrides": ("chunks.9.seed=1",)}, UsageError, "chunks"),
        ({"output": Path("/nowhere/film.avi")}, UsageError, "mp4"),
    ],
)
def test_a_wrong_request_gets_a_sentence(story, model, options, kind, said):
    with pytest.raises(kind, match=said):
        render(prepare(RenderRequest(story, **{"model": str(model), **options})))


def test_another_size_or_model_needs_another_project(story, model):
    render_story(story, model)
    with pytest.raises(UsageError, match="size"):
        render_story(story, model, size="32x32", untrained_size=True)
    render_story(story, model, size="32x32", untrained_size=True, fresh=True)


def test_a_picture_to_begin_from_is_refused_where_it_cannot_be_used(story, model):
    (story.parent / "a.png").write_bytes(b"x")
    story.write_text(story.read_text().replace("on the lake.", "on the lake.\n    image: a.png"))
    with pytest.raises(UsageError, match=r"story.yaml:\d+.*image"):
        prepare(RenderRequest(story, model=str(model)))


@pytest.mark.parametrize("damage", ["missing", "truncated", "other"])
def test_wrong_weights_get_a_sentence(story, model, tmp_path, damage):
    import shutil

    folder = Path(shutil.copytree(model, tmp_path / "broken"))
    file = folder / "transformer.safetensors"
    if damage == "missing":
        file.unlink()
    elif damage == "truncated":
        file.write_bytes(file.read_bytes()[:5000])
    else:
        shutil.copy(folder / "vae.safetensors", file)
    with pytest.raises(MissingModelError, match=r"transformer\.safetensors"):
        render_story(story, folder)


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("no"), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
@pytest.mark.parametrize(
    ("part", "phase"), [("wan.denoiser.WanDenoiser.__call__", "denoise"), ("tiny_vae.Decoder.forward", "decode")]
)
def test_running_out_of_memory_names_the_phase(story, model, monkeypatch, error, part, phase):
    def starved(*_, **__):
        raise error

    monkeypatch.setattr(f"blockvid_cli.models.{part}", starved)
    with pytest.raises(OutOfMemoryError, match=phase):
        render_story(story, model)


class Hungry:
    """A denoiser that runs out of memory after so many passes."""

    def __init__(self, inner, passes):
        self.inner, self.passes = inner, passes

    def __call__(self, *arguments):
        self.passes -= 1
        if self.passes < 0:
            raise torch.OutOfMemoryError("out of memory")
        return self.inner(*arguments)


def test_after_a_lower_preset_finished_chunks_stay_and_say_how_they_were_rendered(story, model):
    request = RenderRequest(story, model=str(model), runtime=RuntimeOptions("h20"))
    passes, events = iter([14, 1000]), []  # chunks 1 and 2 take 12
    render(prepare(request), events.append, wrap=lambda inner: Hungry(inner, next(passes)))
    folder = story.with_suffix(".blockvid")
    manifest, before = json.loads((folder / "manifest.json").read_text()), takes(story)
    assert manifest["preset"] == "24gb"
    assert [identity["precision"] for identity in manifest["identities"]] == ["fp32", "fp32", "bf16"]
    for again in (request, replace(request, runtime=RuntimeOptions())):
        job = prepare(again)
        assert list(job.keys.keys) == manifest["keys"] and job.preset.name == "24gb"
        assert {change.action for change in chunk_changes(job)} == {"keep"}
        events, _ = render_story(story, model, runtime=again.runtime)
        assert rendered_blocks(events) == [] and takes(story) == before
    alone = retake(job, RetakeRequest(1, alone=True))
    assert [change.action for change in chunk_changes(alone)] == ["render", "keep", "keep"]
    events = []
    render(alone, events.append)
    assert rendered_blocks(events) == [0, 1] and takes(story) == before
    assert [i.precision for i in prepare(job.request).keys.identities] == ["bf16", "fp32", "bf16"]
    other = prepare(replace(request, runtime=RuntimeOptions("h20", kv_dtype="int8")))
    assert other.preset.name == "h20" and {i.kv_dtype for i in other.keys.identities} == {"int8"}


def test_the_transformer_is_freed_when_it_is_released(story, model):
    loaded = load(prepare(RenderRequest(story, model=str(model))))
    network = weakref.ref(loaded.segments[0].denoiser.network)
    assert network() is not None
    loaded.release_transformer("cpu")
    assert network() is None and loaded.vae is not None
    with pytest.raises(RuntimeError, match="released"):
        loaded.run()


def test_a_render_reads_its_storyboard_once(story, model, blockvid, monkeypatch):
    built, build = [], storyboard._build
    monkeypatch.setattr(storyboard, "_build", lambda *arguments: built.append(1) or build(*arguments))
    assert blockvid("render", story, "--model", model).code == 0
    assert len(built) == 1


class EvenFirst(Schedule):
    """Every second block of the film first, then those between."""

    def steps(self, blocks, sigmas, before):
        for block in (*blocks[::2], *blocks[1::2]):
            for pair in pairwise(sigmas):
                yield moving_step((), 0.0, (block.number,), pair)

    def needs(self, chunk, chunks):
        return [number for number in range(1, chunks + 1) if number != chunk]


def test_blocks_that_finish_in_any_order_are_saved_by_index_and_handed_on_in_order(story, model, monkeypatch):
    monkeypatch.setitem(recipe_module.SCHEDULES, "even-first", EvenFirst)
    recipe = {"schedule": "even-first", "kv_cache": "full"}
    events, film = render_story(story, model, recipe=recipe)
    whole, frames = takes(story), pictures(film)
    assert rendered_blocks(events) == [0, 2, 4, 1, 3, 5]
    job = prepare(RenderRequest(story, model=str(model), recipe=recipe, fresh=True))

    def stop(event):
        if event.step and event.step.finished and event.step.finished[0][0].number == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        render(job, stop)
    assert [change.action for change in chunk_changes(replace(job, request=replace(job.request, fresh=False)))] == [
        "keep",
        "keep",
        "finish",
    ]
    events, film = render_story(story, model, recipe=recipe)
    assert rendered_blocks(events) == [3, 5]
    assert takes(story) == whole and np.array_equal(pictures(film), frames)


def test_a_film_never_overwrites_what_it_is_made_from(tmp_path, model):
    source = tmp_path / "talk.srt"
    source.write_text("1\n00:00:00,000 --> 00:00:02,000\nA red boat.\n")
    with pytest.raises(UsageError, match=r"overwrite .*talk\.srt"):
        prepare(RenderRequest(source, model=str(model), output=tmp_path / "talk.mp4"))
    job = prepare(RenderRequest(source, model=str(model)))
    assert job.output == tmp_path / "talk-film.mp4" and job.plan.frames == 24


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "seed: 3",
            "seed: 3\nrecipe: {kv_cache: {name: window, recent: 3}}",
            r"story\.yaml:4: recipe\.kv_cache.*recent",
        ),
        ("to the left.", "to the left.\n    recipe: {solvr: euler}", r"story\.yaml:7: recipe.*solver"),
        ("to the left.", "to the left.\n    recipe: {kv_cache: window}", r"story\.yaml:7: recipe\.kv_cache"),
    ],
)
def test_a_wrong_recipe_in_a_storyboard_names_file_and_line(story, model, old, new, said):
    story.write_text(story.read_text().replace(old, new))
    with pytest.raises(UsageError, match=said):
        prepare(RenderRequest(story, model=str(model)))


def test_a_block_of_nothing_is_noticed(story, model, monkeypatch):
    from blockvid_cli.models.wan.denoiser import WanDenoiser

    real = WanDenoiser.__call__

    def broken(self, x, *rest):
        velocity, layers = real(self, x, *rest)
        return velocity * float("nan"), layers

    monkeypatch.setattr(WanDenoiser, "__call__", broken)
    with pytest.raises(BlockvidError, match=r"chunk 1 .*not finite"):
        render_story(story, model)


def test_the_sheet_shows_the_middle_of_each_chunk(story, model):
    plan, stills = prepare(RenderRequest(story, model=str(model))).plan, {}
    frames = (
        torch.full((12, 3, 4, 4), 0.0) + torch.arange(n * 12, n * 12 + 12).view(-1, 1, 1, 1) / 255 for n in range(6)
    )
    assert len(list(uint8_frames(frames, plan, stills))) == 72
    shown = {number: int(still[0, 0, 0]) for number, still in stills.items()}
    assert shown == {c.number: (c.first_frame + c.end_frame) // 2 for c in plan.chunks}
    assert all(still.base is None for still in stills.values())  # a copy, not a hold on the whole block


def test_without_metadata_no_output_tells_of_the_storyboard(story, model):
    """Neither title nor caption nor card is in a file beside the project, as text."""
    words = ["Secret title", "A secret boat", "secret card"]
    story.write_text(
        "title: Secret title\ntitle_card: a secret card\nfps: 12\nchunks:\n- {caption: A secret boat, duration: 1}\n"
    )
    for metadata in (False, True):
        _, film = render_story(story, model, metadata=metadata)
        outputs = [path for path in story.parent.iterdir() if path.is_file() and path != story]
        told = {word for path in outputs for word in words if word.encode() in path.read_bytes()}
        assert told == (set(words) if metadata else set())
        assert bool(read_metadata(film)) == bool(read_tags(film)[1]) == film.with_suffix(".srt").exists() == metadata
