"""Takes and edits: what is rendered again is exactly what must be, told before and checked by the latents' hashes."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from blockvid_cli.commands.film import repeat_command
from blockvid_cli.errors import UsageError
from blockvid_cli.job import RenderRequest, prepare
from blockvid_cli.project.identity import TakeChoice, read_take_choices, write_take_choices
from blockvid_cli.project.project import project_folder
from blockvid_cli.render import render
from blockvid_cli.retake import (
    RetakeRequest,
    choose_take,
    chunk_changes,
    existing_takes,
    film_is_current,
    remove_take,
    retake,
)
from blockvid_cli.runtime.presets import RuntimeOptions

STORY = """\
version: 1
seed: 3
chunks:
  - {caption: A red boat rests on the lake., duration: 2s}
  - {caption: The red boat glides to the left., duration: 1s}
  - {caption: The red boat hops up and down., duration: 1s}
  - {caption: The red boat rests., duration: 2s, cut: true}
"""


@pytest.fixture
def story(tmp_path) -> Path:
    file = tmp_path / "story.yaml"
    file.write_text(STORY)
    return file


def job_of(story: Path, model: Path, **options):
    return prepare(RenderRequest(story, model=str(model), **options))


def render_story(job) -> list[int]:
    """Renders; returns the chunks that were rendered, not resumed."""
    events = []
    render(job, events.append)
    results = [event.step for event in events if event.step and not event.step.resumed]
    return sorted({block.chunk for result in results for block, _ in result.finished})


def latents(job) -> list[str]:
    """The hash of each chunk's latents in the film."""
    folder, hashes = project_folder(job.output) / "chunks", []
    for chunk, key in zip(job.plan.chunks, job.keys.keys, strict=True):
        for path in (folder / f"{chunk.number:03d}").glob(f"take-{chunk.take}.*"):
            with suppress(SafetensorError), safe_open(path, "pt") as file:
                if file.metadata()["key"] == key:
                    hashes.append(hashlib.sha256(load_file(path)["latents"].numpy().tobytes()).hexdigest())
    return hashes


def test_choices_survive_and_damaged_ones_are_none(tmp_path):
    choices = {2: TakeChoice(3), 4: TakeChoice(2, "a", "b", "c")}
    write_take_choices(tmp_path, {**choices, 5: TakeChoice()})
    assert read_take_choices(tmp_path) == choices
    for text in ("", "[]", "{", '{"2": {"take": 0}}', '{"x": {"take": 2}}', '{"2": {"taken": 2}}', '{"2": 3}'):
        (tmp_path / "takes.json").write_text(text)
        assert read_take_choices(tmp_path) == {}
    (tmp_path / "takes.json").write_text('{"2": {"take": 3, "before": "a", "link": "b"}}')  # of an older version
    assert read_take_choices(tmp_path) == {2: TakeChoice(3)}


# Takes


def test_another_take_rerenders_its_chunk_and_what_follows_and_the_first_comes_back_at_once(story, model):
    job = job_of(story, model)
    assert render_story(job) == [1, 2, 3, 4]
    first = latents(job)
    again = retake(job, RetakeRequest(2))
    assert again.plan.chunks[1].take == 2 and again.plan.chunks[1].seed != job.plan.chunks[1].seed
    assert render_story(again) == [2, 3, 4]
    second = latents(again)
    assert second[0] == first[0] and not set(second[1:]) & set(first)
    assert render_story(job_of(story, model)) == []  # the project remembers its choice
    back = choose_take(job_of(story, model), 2, 1)
    reasons = [change.reason for change in chunk_changes(back)]
    assert reasons == ["", "take 1 was chosen; the film shows take 2", "", ""]
    assert render_story(back) == [] and latents(back) == first
    forth = choose_take(back, 2, 2)
    assert render_story(forth) == [] and latents(forth) == second


def test_from_a_chunk_to_the_end_all_are_new_takes(story, model):
    job = job_of(story, model)
    render_story(job)
    again = retake(job, RetakeRequest(3, to_end=True))
    assert [chunk.take for chunk in again.plan.chunks] == [1, 1, 2, 2]
    assert render_story(again) == [3, 4]


def test_a_take_can_be_named_and_is_the_same_whenever_it_is_rendered(story, model):
    job = job_of(story, model)
    render_story(job)
    third = retake(job, RetakeRequest(2, take=3))
    render_story(third)
    one = latents(third)
    render_story(retake(job, RetakeRequest(2, take=2)))
    assert existing_takes(job, 2) == [1, 2, 3]
    fresh = story.with_name("other.yaml")
    fresh.write_text(story.read_text())
    other = prepare(RenderRequest(fresh, model=str(model), takes={2: TakeChoice(3)}))
    assert render_story(other) == [1, 2, 3, 4] and latents(other) == one


def test_takes_that_are_not_there_and_takes_in_the_film(story, model):
    job = job_of(story, model)
    render_story(job)
    render_story(retake(job, RetakeRequest(2)))
    job = job_of(story, model)
    with pytest.raises(UsageError, match="no take 5; there are 1, 2"):
        choose_take(job, 2, 5)
    with pytest.raises(UsageError, match="there is no chunk 9"):
        retake(job, RetakeRequest(9))
    with pytest.raises(UsageError, match="is in the film; choose another first") as error:
        remove_take(job, 2, 2)
    assert str(error.value).endswith(f"blockvid takes choose {story} 2 1.")
    with pytest.raises(UsageError, match="is in the film; the chunk has no other"):
        remove_take(job, 1, 1)
    assert remove_take(job, 2, 1) and existing_takes(job, 2) == [2]
    with pytest.raises(UsageError, match="no take 1"):
        remove_take(job, 2, 1)


# Alone


def test_a_chunk_alone_leaves_all_others_bit_for_bit(story, model):
    job = job_of(story, model)
    render_story(job)
    first = latents(job)
    alone = retake(job, RetakeRequest(2, alone=True))
    assert [change.chunk for change in chunk_changes(alone) if change.action == "render"] == [2]
    assert render_story(alone) == [2]
    second = latents(alone)
    assert [a == b for a, b in zip(first, second, strict=True)] == [True, False, True, True]
    assert render_story(job_of(story, model)) == []
    back = choose_take(job_of(story, model), 2, 1)
    assert render_story(back) == [] and latents(back) == first
    third = retake(back, RetakeRequest(2, alone=True))
    assert third.plan.chunks[1].take == 3 and render_story(third) == [2]


def test_what_comes_after_is_seen_by_a_chunk_alone(story, model):
    """The same take without what follows is another in every block."""
    job = job_of(story, model)
    render_story(job)
    alone = retake(job, RetakeRequest(1, alone=True))
    render_story(alone)
    folder = project_folder(job.output) / "chunks" / "001"
    between = load_file(folder / "take-2.safetensors")["latents"]
    (folder / "take-2.safetensors").unlink()
    free = prepare(replace(job.request, takes={1: TakeChoice(2)}))
    render_story(free)
    without = load_file(folder / "take-2.safetensors")["latents"]
    block = job.plan.blocks[0].frames
    assert between.shape == without.shape == (2 * block, *between.shape[1:])
    assert not (between[:block] == without[:block]).all() and not (between[block:] == without[block:]).all()


def test_an_edited_caption_alone(story, model):
    job = job_of(story, model)
    render_story(job)
    first = latents(job)
    story.write_text(story.read_text().replace("hops up and down", "rises"))
    alone = retake(job_of(story, model), RetakeRequest(3, alone=True))
    assert render_story(alone) == [3]
    second = latents(alone)
    assert [a == b for a, b in zip(first, second, strict=True)] == [True, True, False, True]
    story.write_text(story.read_text().replace("glides to the left", "rises"))
    assert render_story(job_of(story, model)) == [2, 3, 4]  # a neighbour is another now


def test_neighbours_that_cannot_stay(story, model):
    with pytest.raises(UsageError, match="never rendered"):
        retake(job_of(story, model), RetakeRequest(2, alone=True))
    render_story(job_of(story, model))
    story.write_text(story.read_text().replace("glides to the left", "rises"))
    with pytest.raises(UsageError, match=r"because chunk 2 changed since.*: blockvid render \S+story.yaml"):
        retake(job_of(story, model), RetakeRequest(3, alone=True))
    with pytest.raises(UsageError, match="chunk 2 changed since"):
        retake(job_of(story, model), RetakeRequest(1, alone=True))


def test_a_neighbour_that_was_lost_or_damaged_is_rendered_after_it(story, model):
    job = job_of(story, model)
    render_story(job)
    alone = retake(job, RetakeRequest(2, alone=True))
    file = project_folder(job.output) / "chunks" / "003" / "take-1.safetensors"
    whole = bytearray(file.read_bytes())
    file.unlink()
    assert render_story(alone) == [2, 3]
    again = retake(alone, RetakeRequest(2, alone=True))
    whole[-50] ^= 4
    file.write_bytes(whole)
    assert render_story(again) == [2, 3]


def test_two_chunks_alone_side_by_side_and_an_edit_after_them(story, model):
    render_story(job_of(story, model))
    render_story(retake(job_of(story, model), RetakeRequest(2, alone=True)))
    render_story(retake(job_of(story, model), RetakeRequest(3, alone=True)))
    before = latents(job_of(story, model))
    story.write_text(story.read_text().replace("The red boat rests.,", "The red boat rises.,"))
    assert render_story(job_of(story, model)) == [4]
    story.write_text(story.read_text().replace("The red boat rises.,", "The red boat rests.,"))
    assert render_story(job_of(story, model)) == [] and latents(job_of(story, model)) == before


def test_a_chunk_before_a_cut_does_not_see_the_next_shot(story, model):
    job = job_of(story, model)
    render_story(job)
    render_story(retake(job, RetakeRequest(3, alone=True)))
    folder = project_folder(job.output) / "chunks" / "003"
    alone = load_file(folder / "take-2.safetensors")["latents"]
    render_story(prepare(replace(job.request, takes={3: TakeChoice(2)})))
    assert (load_file(folder / "take-2.safetensors")["latents"] == alone).all()


def test_a_schedule_that_renders_chunks_together_renders_none_alone(story, model):
    story.write_text(story.read_text().replace("version: 1", "version: 1\nrecipe: {schedule: joint}"))
    render_story(job_of(story, model))
    with pytest.raises(UsageError, match="renders chunks together"):
        retake(job_of(story, model), RetakeRequest(2, alone=True))


def test_the_same_command_goes_on_with_the_take_that_was_begun(story, model):
    render_story(job_of(story, model))

    def stop(event):
        if event.step and event.step.finished and not event.step.resumed:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        render(retake(job_of(story, model), RetakeRequest(2)), stop)
    again = retake(job_of(story, model), RetakeRequest(2))
    assert again.plan.chunks[1].take == 2 and render_story(again) == [3, 4]
    assert retake(job_of(story, model), RetakeRequest(2)).plan.chunks[1].take == 3


def test_the_same_command_writes_the_film_of_a_take_that_was_finished(story, model, monkeypatch):
    """A render that is killed after its last block, before the film is whole, is no reason for yet another take."""
    render_story(job_of(story, model))

    def killed(*_):
        raise KeyboardInterrupt

    for request in (RetakeRequest(2, alone=True), RetakeRequest(2), RetakeRequest(2, to_end=True)):
        with monkeypatch.context() as patch:
            patch.setattr("blockvid_cli.render.mux_film", killed)
            with pytest.raises(KeyboardInterrupt):
                render(retake(job_of(story, model), request))
        begun = retake(job_of(story, model), request)
        assert begun.takes == job_of(story, model).takes and not film_is_current(begun)
        assert render_story(begun) == [] and film_is_current(job_of(story, model))
        assert retake(job_of(story, model), request).takes != begun.takes


def test_what_is_out_of_date_is_said_with_the_command_that_mends_it(story, model, blockvid):
    options = ("--steps", "2", "--model", str(model))
    assert blockvid("render", story, *options).code == 0
    diff = ("storyboard", "diff", story, "--model", model, "--set", "recipe.steps=2")
    assert "story.mp4 is up to date." in " ".join(blockvid(*diff).out.split())
    assert blockvid("render", story, *options, "--only", "2").code == 0
    mended = f"brings it up to date: blockvid render {story} --model {model} --steps 2\n"
    said = blockvid("takes", "choose", story, "2", "1").out
    assert "out of date (nothing would be rendered, only written)" in said and said.endswith(mended)
    story.write_text(story.read_text().replace("hops up and down", "rests"))
    said = blockvid("takes", "choose", story, "2", "2").out
    assert "out of date (chunks 2-4 would be rendered)" in said and said.endswith(mended)
    refused = blockvid("render", story, *options, "--only", "1")
    assert refused.code == 2 and "because chunks 2-3 changed" in refused.err
    assert refused.err.endswith(mended.removeprefix("brings it "))
    assert blockvid("render", story, *options).code == 0
    assert "story.mp4 is up to date." in blockvid("takes", "choose", story, "2", "2").out


def test_the_command_in_the_report_makes_the_same_take_again(story, model):
    """Without the number of the take it would make another one."""
    job = prepare(RenderRequest(story, model=str(model), takes={2: TakeChoice(3)}))
    for given, repeated in (
        ("--only 2", "--only 2 --take 3"),
        ("--chunk=2 --seed 4", "--chunk 2 --take 3 --seed 4"),
        ("--only 2 --take 3", "--only 2 --take 3"),
        ("--from-chunk 2", ""),
        ("--fresh", ""),
    ):
        expected = f"blockvid render a.yaml {repeated}".strip()
        assert repeat_command(job, ["render", "a.yaml", *given.split()]) == expected


def test_an_edit_of_cards_or_sound_makes_the_film_out_of_date(story, model):
    render_story(job_of(story, model))
    story.write_text(story.read_text() + "title: Another\n")
    job = job_of(story, model)
    assert {change.action for change in chunk_changes(job)} == {"keep"} and not film_is_current(job)
    assert render_story(job) == [] and film_is_current(job_of(story, model))


def test_a_take_set_aside_is_found_though_its_place_is_damaged(story, model):
    job = job_of(story, model)
    render_story(job)
    first = latents(job)
    story.write_text(story.read_text().replace("glides to the left", "rises"))
    render_story(job_of(story, model))
    (project_folder(job.output) / "chunks" / "002" / "take-1.safetensors").write_bytes(b"torn")
    story.write_text(story.read_text().replace("The red boat rises.", "The red boat glides to the left."))
    assert render_story(job_of(story, model)) == [] and latents(job_of(story, model)) == first


# Edits: the table in the design, told by `storyboard diff` and then done


AUDIO, TITLE = "version: 1\naudio: sound.wav\n", "version: 1\ntitle: Boats\n"
EDITS = {
    "title": (lambda text: text.replace("version: 1\n", TITLE), []),
    "removed at the end": (lambda text: text[: text.rindex("  - {")], []),
    "appended": (lambda text: text + "  - {caption: It rises., duration: 1s}\n", [5]),
    "caption": (lambda text: text.replace("hops up and down", "rises"), [3, 4]),
    "duration": (lambda text: text.replace("left., duration: 1s", "left., duration: 2s"), [3, 4]),
    "seed of a chunk": (lambda text: text.replace("left., ", "left., seed: 9, "), [2, 3, 4]),
    "cut": (lambda text: text.replace("down., ", "down., cut: true, "), [3, 4]),
    "seed": (lambda text: text.replace("seed: 3", "seed: 4"), [1, 2, 3, 4]),
    "style": (lambda text: text.replace("version: 1\n", "version: 1\nstyle: in oil\n"), [1, 2, 3, 4]),
    "recipe": (lambda text: text.replace("version: 1\n", "version: 1\nrecipe: {steps: 2}\n"), [1, 2, 3, 4]),
}


@pytest.mark.parametrize("kind", EDITS)
def test_an_edit_rerenders_what_the_table_says_and_the_diff_tells_it_before(story, model, kind):
    before = job_of(story, model)
    render_story(before)
    first = latents(before)
    edit, expected = EDITS[kind]
    text = edit(story.read_text())
    assert text != story.read_text()
    story.write_text(text)
    job = job_of(story, model)
    changes = chunk_changes(job)
    assert [change.chunk for change in changes if change.action == "render"] == expected
    assert all(change.reason for change in changes if change.action == "render")
    ended = [change.chunk for change in changes if change.action == "finish"]
    assert ended == {"removed at the end": [3], "duration": [2]}.get(kind, [])  # they have a block more now
    assert render_story(job) == sorted([*expected, *ended])
    now = latents(job)
    untouched = [number for number in range(1, len(now) + 1) if number not in (*expected, *ended)]
    assert untouched or len(expected) == len(now)
    assert all(now[number - 1] == first[number - 1] for number in untouched)
    assert {change.action for change in chunk_changes(job)} == {"keep"}


def test_the_diff_names_the_reason(story, model):
    render_story(job_of(story, model))
    story.write_text(story.read_text().replace("glides to the left", "rises").replace("seed: 3", "seed: 3"))
    changes = {change.chunk: change.reason for change in chunk_changes(job_of(story, model))}
    assert changes == {1: "", 2: "caption or style changed", 3: "follows chunk 2", 4: "follows chunk 2"}
    changes = {change.reason for change in chunk_changes(job_of(story, model, seed=5))}
    assert changes == {"seed changed", "seed, caption or style changed"}


def test_a_changed_kv_dtype_is_the_reason(story, model):
    render_story(job_of(story, model))
    changes = chunk_changes(job_of(story, model, runtime=RuntimeOptions(kv_dtype="int8")))
    assert {(change.action, change.reason) for change in changes} == {("render", "kv-dtype changed")}


def test_latents_that_were_lost_are_said_to_be_missing(story, model):
    job = job_of(story, model)
    render_story(job)
    (project_folder(job.output) / "chunks" / "002" / "take-1.safetensors").unlink()
    assert [change.reason for change in chunk_changes(job_of(story, model))] == ["", "not rendered yet", "", ""]


def test_an_edit_of_the_chunk_after_one_between_neighbours_is_noticed(story, model):
    render_story(job_of(story, model))
    render_story(retake(job_of(story, model), RetakeRequest(2, alone=True)))
    story.write_text(story.read_text().replace("hops up and down", "rises"))
    changes = {
        change.chunk: change.reason for change in chunk_changes(job_of(story, model)) if change.action == "render"
    }
    assert changes[2] == "its neighbours changed" and changes[3] == "caption or style changed"
    assert render_story(job_of(story, model)) == [2, 3, 4]


def test_a_film_never_rendered_is_all_new(story, model):
    assert {(change.action, change.reason) for change in chunk_changes(job_of(story, model))} == {("render", "new")}


def test_a_render_that_stopped_is_noted(story, model):
    job = job_of(story, model)
    events = []

    def stop(event):
        events.append(event)
        if event.step and event.step.finished and event.step.finished[0][0].number == 0:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        render(job, stop)
    assert [change.action for change in chunk_changes(job)] == ["finish", "render", "render", "render"]


def test_the_manifest_says_takes_and_keys(story, model):
    job = job_of(story, model)
    render_story(retake(job, RetakeRequest(2)) if render_story(job) else job)
    manifest = json.loads((project_folder(job.output) / "manifest.json").read_text())
    assert [chunk["take"] for chunk in manifest["chunks"]] == [1, 2, 1, 1]
    assert manifest["keys"] == list(job_of(story, model).keys.keys)
