"""``blockvid preview`` and the retake options of ``render``: a preview is what is rendered later."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from imageio_ffmpeg import count_frames_and_secs
from PIL import Image

from blockvid_cli.commands import options
from blockvid_cli.errors import UsageError
from blockvid_cli.job import RenderRequest, prepare
from blockvid_cli.preview import PreviewOptions, preview_chunk, preview_stills
from blockvid_cli.project.identity import read_take_choices
from blockvid_cli.render import render, stream_frames
from blockvid_cli.video.reader import read_frames
from tests.fuzzing import time_limit


def job_of(story: Path, model: Path, **options):
    return prepare(RenderRequest(story, model=str(model), **options))


def rendered_by(call) -> list[int]:
    """The chunks that were rendered, not resumed."""
    events = []
    call(events.append)
    results = [event.step for event in events if event.step and not event.step.resumed]
    return sorted({block.chunk for result in results for block, _ in result.finished})


def test_a_preview_is_the_later_render_bit_for_bit(story, model):
    job = job_of(story, model)
    (preview,) = preview_chunk(job, 2)
    whole = np.concatenate([(f.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1) for f in stream_frames(job)])
    chunk = job.plan.chunks[1]
    assert np.array_equal(np.stack(preview.frames), whole[chunk.first_frame : chunk.end_frame])
    assert rendered_by(lambda notify: render(job, notify)) == [3]  # the preview is used


def test_the_options_of_a_render_are_those_of_a_preview(blockvid, story, model):
    size = ("--size", "32x32", "--untrained-size")
    options = ("--model", str(model), "--steps", "2", *size, "--fps", "8", "--seed", "9")
    done = blockvid("preview", str(story), "--chunk", "2", *options, "--progress", "none")
    assert done.code == 0, done.err
    assert blockvid("render", str(story), *options, "--quiet").code == 0
    (record,) = json.loads(blockvid("history", str(story), "--json").out)
    assert (record["rendered"], record["resumed"]) == (1, 2)  # the preview is used


def test_what_is_final_is_not_rendered_for_a_preview(story, model):
    job = job_of(story, model)
    render(job)
    assert rendered_by(lambda notify: preview_chunk(job, 2, notify=notify)) == []
    assert rendered_by(lambda notify: preview_chunk(job, 2, takes=3, notify=notify)) == [2]
    assert read_take_choices(story.with_suffix(".blockvid")) == {}  # a preview chooses nothing
    assert rendered_by(lambda notify: render(job, notify)) == []


def test_takes_differ_from_each_other(story, model):
    one, two, three = preview_chunk(job_of(story, model), 1, takes=3)
    assert [preview.take for preview in (one, two, three)] == [1, 2, 3]
    assert not np.array_equal(one.frames, two.frames) and not np.array_equal(two.frames, three.frames)


def test_a_draft_uses_what_is_final_and_leaves_no_trace_in_the_film(story, model):
    job = job_of(story, model)
    preview_chunk(job, 1)
    assert rendered_by(lambda notify: preview_chunk(job, 2, options=PreviewOptions(draft=True), notify=notify)) == [2]
    assert (
        rendered_by(lambda notify: preview_chunk(job, 2, options=PreviewOptions(draft=True), notify=notify)) == []
    )  # drafts are saved too
    assert rendered_by(lambda notify: render(job, notify)) == [2, 3]
    fresh = story.with_name("fresh.yaml")
    fresh.write_text(story.read_text())
    other = render(job_of(fresh, model))
    assert np.array_equal([*read_frames(other.path, (64, 32))], [*read_frames(story.with_suffix(".mp4"), (64, 32))])


def test_the_whole_film_in_stills(story, model):
    stills = preview_stills(job_of(story, model))
    assert list(stills) == [1, 2, 3] and stills[1].shape == (32, 64, 3)


def test_preview_writes_a_film_and_a_sheet_and_says_where(blockvid, story, model, monkeypatch):
    monkeypatch.chdir(story.parent)
    done = blockvid("preview", "--chunk", "2", "--model", str(model), "--gif", "--json")
    assert done.code == 0, done.err
    film, gif, sheet = (Path(file) for file in json.loads(done.out)["files"])
    job = job_of(story, model)
    chunk = job.plan.chunks[1]
    assert count_frames_and_secs(str(film))[0] == chunk.end_frame - chunk.first_frame
    with Image.open(gif) as moving, Image.open(sheet) as still:
        assert moving.is_animated and still.format == "PNG"
    done = blockvid("preview", "--chunk", "2", "--takes", "3", "--draft", "--model", str(model), "--progress", "none")
    assert [Path(line).name for line in done.out.split()] == ["chunk-002-takes-draft.mp4", "chunk-002-takes-draft.png"]
    done = blockvid("preview", "--model", str(model), "--progress", "none")
    assert Path(done.out.strip()).name == "film-draft.png"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--chunk", "9"), "there is no chunk 9; the storyboard has 3"),
        (("--takes", "3"), "--takes: of which chunk?"),
        (("--chunk", "2", "--pull"), "needs no fast decoder"),
        (("--chunk", "2", "--set", "chunks.9.seed=1"), "chunks.9"),
    ],
)
def test_what_cannot_be_previewed(blockvid, story, model, arguments, sentence):
    done = blockvid("preview", str(story), "--model", str(model), *arguments)
    assert done.code == 2 and sentence in done.err


def test_which_storyboard_is_meant(tmp_path, monkeypatch):
    monkeypatch.setenv("BLOCKVID_HOME", str(tmp_path / "home"))
    os.mkfifo(tmp_path / "pipe.yaml")  # nobody writes to it: reading it would wait for ever
    with time_limit(wall=5), pytest.raises(UsageError, match="there is none here; write: blockvid preview"):
        options.default_storyboard(tmp_path, "preview {} --chunk 5")
    (tmp_path / "notes.yaml").write_text("a: 1\n")
    (tmp_path / "storyboards").mkdir()
    (tmp_path / "storyboards" / "swan.yaml").write_text("chunks: [A swan.]\n")
    with pytest.raises(UsageError, match=r"write: blockvid preview storyboards/swan\.yaml --chunk 5"):
        options.default_storyboard(tmp_path, "preview {} --chunk 5")
    one = tmp_path / "one.yaml"
    one.write_text("chunks: [A swan.]\n")
    assert options.default_storyboard(tmp_path, "preview {} --chunk 5") == one
    (tmp_path / "two.yml").write_text("chunks: [A boat.]\n")
    with pytest.raises(UsageError, match=r"there are one\.yaml, two\.yml"):
        options.default_storyboard(tmp_path, "preview {} --chunk 5")
    (tmp_path / "story.yaml").write_text("chunks: [A cat.]\n")
    assert options.default_storyboard(tmp_path, "preview {} --chunk 5").name == "story.yaml"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    options.save_last_storyboard(one)
    assert options.default_storyboard(elsewhere, "preview {} --chunk 5") == one
    with pytest.raises(UsageError, match=r"write: blockvid render one\.yaml$"):
        options.default_storyboard(ambiguous(tmp_path / "two"), "render {}")


def ambiguous(folder: Path) -> Path:
    """A folder with two storyboards."""
    folder.mkdir()
    for name in ("one.yaml", "two.yaml"):
        (folder / name).write_text("chunks: [A swan.]\n")
    return folder


def test_render_takes_the_only_storyboard_of_the_folder(tmp_path, blockvid, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "one.yaml").write_text("chunks: [A swan.]\nmodel: none-such\n")
    done = blockvid("render")
    assert "none-such" in done.err and "Missing argument" not in done.err


def test_render_renders_again_what_is_asked_for(blockvid, story, model):
    def ask(*arguments: str):
        done = blockvid("render", str(story), "--model", str(model), "--json", *arguments)
        return done, read_take_choices(story.with_suffix(".blockvid"))

    assert ask()[0].code == 0
    assert ask("--chunk", "2")[1][2].take == 2
    assert ask("--chunk", "2", "--take", "5")[1][2].take == 5
    choices = ask("--only", "1")[1]
    assert choices[1].between and choices[1].take == 2 and choices[2].take == 5
    assert {n: choice.take for n, choice in ask("--from-chunk", "2")[1].items()} == {1: 2, 2: 6, 3: 2}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--chunk", "2", "--only", "3"), "do not go together"),
        (("--take", "2"), "--take: of which chunk?"),
        (("--from-chunk", "2", "--take", "2"), "--take: of which chunk?"),
        (("--only", "2", "--fresh"), "--fresh renders everything again"),
        (("--only", "2", "--seeds", "1..3"), "name one storyboard and one seed"),
        (("--only", "2"), "never rendered"),
        (("--chunk", "7"), "there is no chunk 7"),
    ],
)
def test_retake_options_that_make_no_sense(blockvid, story, model, arguments, sentence):
    done = blockvid("render", str(story), "--model", str(model), *arguments)
    assert done.code == 2 and sentence in done.err


def test_an_edit_of_sound_and_words_renders_nothing(blockvid, story, model, tmp_path):
    assert blockvid("render", str(story), "--model", str(model), "--quiet").code == 0
    pictures = story.with_suffix(".blockvid") / "pictures.mp4"
    before = pictures.read_bytes()
    story.write_text(
        story.read_text().replace("title: Three moments", "title: Boats\nsubtitles: burned\nend_card: End")
    )
    done = blockvid("render", str(story), "--model", str(model), "--json")
    assert done.code == 0 and "denoise" not in json.loads(done.out)["phases"]
    assert pictures.read_bytes() == before
    assert json.loads(done.out)["seconds"] == 8.0  # five, and three of the card


def test_kept_pictures_that_are_damaged_are_made_anew(story, model):
    render(job_of(story, model))
    pictures = story.with_suffix(".blockvid") / "pictures.mp4"
    whole = pictures.read_bytes()
    pictures.write_bytes(whole[:-100])
    assert rendered_by(lambda notify: render(job_of(story, model), notify)) == []
    assert pictures.read_bytes() == whole
    shutil.rmtree(story.with_suffix(".blockvid") / "chunks")
    assert rendered_by(lambda notify: render(job_of(story, model), notify)) == [1, 2, 3]


def test_takes_are_listed_chosen_and_dropped(blockvid, story, model):
    story.write_text(story.read_text().replace("version: 1", f"version: 1\nmodel: {model}"))
    allow = "--allow-outside"
    assert blockvid("render", str(story), allow, "--quiet").code == 0
    assert blockvid("render", str(story), allow, "--quiet", "--only", "2").code == 0
    listed = json.loads(blockvid("takes", "list", str(story), allow, "--json").out)["chunks"]
    assert [row["takes"] for row in listed] == [[1], [1, 2], [1]]
    assert [row["in_the_film"] for row in listed] == [1, 2, 1] and [row["alone"] for row in listed] == [
        False,
        True,
        False,
    ]
    done = blockvid("takes", "choose", str(story), "2", "1", allow)
    assert done.code == 0 and "take 1 of chunk 2 is chosen" in done.out
    assert blockvid("takes", "drop", str(story), "2", "1", allow).code == 2
    assert blockvid("takes", "drop", str(story), "2", "2", allow).code == 0
    assert json.loads(blockvid("storyboard", "diff", str(story), allow, "--json").out)[1]["action"] == "keep"


def test_takes_are_counted_and_chunks_that_are_there_are_not_denoised_again(story, model, blockvid):
    said = blockvid("preview", story, "--model", model, "--chunk", "2", "--takes", "2").err
    assert "take 1 of 2\n" in said and "take 2 of 2\n" in said
    assert said.count("denoising chunk 1 of 3, block 1 ") == 1, said


def test_a_preview_on_a_pipe_says_what_it_does(story, model, blockvid):
    done = blockvid("preview", story, "--model", model, "--chunk", "1")
    assert done.code == 0 and "loading the model" in done.err and "denoising chunk 1 of 3, block 1" in done.err
    assert "denoising" not in blockvid("preview", story, "--model", model, "--chunk", "2", "--progress", "none").err
