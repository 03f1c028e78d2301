"""The storyboard's schema, its spans, and the plan: seconds to frames to blocks."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from typer.testing import CliRunner

from blockvid_cli.commands.storyboard import STARTER, app
from blockvid_cli.errors import StoryboardError, UsageError
from blockvid_cli.models.card import bundled_models, find_card, packaged_folder
from blockvid_cli.storyboard import plan as plan_module
from blockvid_cli.storyboard.exports import dump_storyboard
from blockvid_cli.storyboard.plan import Grid, chunk_seed, make_plan
from blockvid_cli.storyboard.schema import json_schema
from blockvid_cli.storyboard.seconds import exact_decimal, format_clock, parse_clock, parse_length, parse_span
from blockvid_cli.storyboard.storyboard import Chunk, Storyboard, read_storyboard

CARD = find_card("storybook").model_copy(update={"fps": 12.0, "block": 3})
EXAMPLES = sorted(packaged_folder("storyboards").glob("*.yaml"))


def written(folder: Path, text: str, name: str = "story.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def storyboard_of(lengths: list[Fraction], **fields: object) -> Storyboard:
    """A storyboard of chunks that last so many seconds."""
    chunks, now = [], Fraction(0)
    for number, length in enumerate(lengths, start=1):
        chunks.append(Chunk(f"Caption {number}", now, now + length, location=f"story.yaml:{number}"))
        now += length
    return Storyboard(tuple(chunks), Path("story.yaml"), **fields)


def planned(storyboard: Storyboard, **options: object) -> plan_module.Plan:
    return make_plan(storyboard, CARD, **{"seed": 1, **options})


# Times as a person types them


@pytest.mark.parametrize(
    "text",
    ["00:03-00:06", "00:03 - 00:06", "3s-6s", "3 – 6", "0:03—0:06", "00:00:03.0-6.000s", " 3s  -  00:06 "],
)
def test_a_span_may_be_typed_in_many_ways(text):
    assert parse_span(text) == (3, 6)


def test_clocks_are_read_exactly():
    assert parse_clock("1:02:03.5") == Fraction(7447, 2)
    assert parse_clock("0.1") == Fraction(1, 10)
    assert parse_clock("75s") == 75
    assert [format_clock(parse_clock(text)) for text in ("75s", "3.25", "2:00:01")] == [
        "01:15",
        "00:03.25",
        "2:00:01",
    ]


@pytest.mark.parametrize(
    "text", ["00:75", "1:60:00", "", "-3", "3 4", "1:2:3:4", "٣", "3 weeks", "3 s 2 min", "2 s 3 s", "1 min 30"]
)
def test_what_is_no_clock_is_refused(text):
    with pytest.raises(ValueError, match="is not a time"):
        parse_clock(text)


def test_lengths_are_seconds_or_frames():
    seconds = [parse_length(value).seconds(None) for value in ("4s", "4", 4, 2.5, "2.5 s", "1:30")]
    assert seconds == [4, 4, 4, Fraction(5, 2), Fraction(5, 2), 90]
    for frames in ("48f", "48 frames", "48 F"):
        assert parse_length(frames).seconds(Fraction("23.976")) == Fraction(48000, 23976)


def test_units_may_be_written_out():
    typed = ("4 seconds", "1 second", "4 sec", "4S", "2min", "2 minutes", "2m", "1 min 30 s", "1h 2min 3.5s", "500 ms")
    seconds = [parse_length(text).seconds(None) for text in typed]
    assert seconds == [4, 1, 4, 4, 120, 120, 120, 90, Fraction(7447, 2), Fraction(1, 2)]
    assert parse_span("3 seconds - 1 min") == (3, 60)


@given(some.integers(0, 10**12), some.integers(0, 12))
def test_decimals_are_written_out_exactly(number, places):
    assert Fraction(exact_decimal(Fraction(number, 10**places))) == Fraction(number, 10**places)
    assert exact_decimal(Fraction(number * 3 + 1, 3)) is None


# The storyboard


def test_every_field_is_read(tmp_path):
    (tmp_path / "sounds").mkdir()
    for name in ("sounds/wind.ogg", "first.png"):
        (tmp_path / name).write_bytes(b"")
    story = read_storyboard(
        written(
            tmp_path,
            """
version: 1
title: "Two  boats"
model: storybook
size: 160x96
fps: 23.976
seed: 9223372036854775807
style: ink drawing
negative: blurry
chunk: 2s
recipe: {steps: 4, kv_cache: {name: window, recent: 3}}
audio: {file: sounds/wind.ogg, start: 1.5, fade_in: 1, fade_out: 2, volume: 0.5}
chunks:
  - A red boat
  - {caption: "A blue\\n  boat", at: 2s-3.5s, seed: 0, cut: true, image: first.png, negative: ""}
  - {caption: Both, duration: 48f, recipe: {steps: 8}}
""",
        )
    )
    assert (story.title, story.model, story.size, story.fps) == ("Two boats", "storybook", (160, 96), 23.976)
    assert (story.seed, story.style, story.negative) == (2**63 - 1, "ink drawing", "blurry")
    assert story.recipe == {"steps": 4, "kv_cache": {"name": "window", "recent": 3}}
    assert story.audio.file == (tmp_path / "sounds/wind.ogg").resolve()
    assert (story.audio.start, story.audio.fade_in, story.audio.fade_out, story.audio.volume) == (
        1.5,
        1,
        2,
        0.5,
    )
    first, second, third = story.chunks
    assert (first.caption, first.start, first.end, first.seed, first.cut) == ("A red boat", 0, 2, None, False)
    assert (second.caption, second.end, second.seed, second.cut) == ("A blue boat", Fraction(7, 2), 0, True)
    assert (second.image, second.negative) == ((tmp_path / "first.png").resolve(), "")
    assert third.end - third.start == Fraction(48000, 23976)
    assert third.recipe == {"steps": 8}
    assert read_storyboard(written(tmp_path, dump_storyboard(story), "again.yaml")) == story


def test_nine_hundred_tenths_of_a_second_tile_exactly(tmp_path):
    spans = "".join(f"- {{caption: c, at: {n / 10:.1f}s-{(n + 1) / 10:.1f}s}}\n" for n in range(900))
    lengths = "chunk: 0.1\nchunks:\n" + "- c\n" * 900
    one = read_storyboard(written(tmp_path, "chunks:\n" + spans))
    other = read_storyboard(written(tmp_path, lengths, "other.yaml"))
    assert one == other
    assert one.seconds == 90


def test_the_location_of_a_recipe_is_its_line_or_its_option(tmp_path):
    with_recipe = written(tmp_path, "title: a\nrecipe: {steps: 4}\nchunks: [A swan]\n")
    without = written(tmp_path, "chunks: [A swan]\n", "plain.yaml")
    assert read_storyboard(without).recipe_location == ""
    assert read_storyboard(without, ["recipe.steps=4"]).recipe_location == "--set recipe.steps=4"
    assert read_storyboard(with_recipe).recipe_location == f"{with_recipe}:2"
    changed = read_storyboard(with_recipe, ["recipe.steps=4", "title=b"])
    assert changed.recipe_location == f"{with_recipe}:2 with --set recipe.steps=4"


def test_a_storyboard_may_be_json(tmp_path):
    text = '{\n\t"title": "\\ud83e\\udda2",\n\t"chunks": [\n\t\t{"caption": "A swan", "duration": 3}]}'
    story = read_storyboard(written(tmp_path, text, "story.json"))
    assert (story.title, story.seconds) == ("🦢", 3)


@pytest.mark.parametrize(
    ("audio", "start", "at"),
    [
        ("{file: wind.ogg, start: film}", 0, -2),
        ("{file: wind.ogg, start: film, at: 5}", 0, 3),
        ("{file: wind.ogg, start: story, at: 5}", 0, 5),
        ("{file: wind.ogg, start: 1 min}", 60, 0),
        ("{file: wind.ogg, at: -1s}", 0, -1),
    ],
)
def test_music_may_begin_with_the_title_card(tmp_path, audio, start, at):
    (tmp_path / "wind.ogg").write_bytes(b"")
    text = f"title_card: {{text: a, seconds: 2}}\naudio: {audio}\nchunk: 8s\nchunks: [A swan]\n"
    story = read_storyboard(written(tmp_path, text))
    assert (story.audio.start, story.audio.at) == (start, at)
    assert read_storyboard(written(tmp_path, dump_storyboard(story), "again.yaml")) == story


def test_files_elsewhere_must_be_allowed(tmp_path):
    (tmp_path / "inner").mkdir()
    (tmp_path / "wind.ogg").write_bytes(b"")
    path = written(tmp_path / "inner", "audio: ../wind.ogg\nchunks: [A swan]\n")
    with pytest.raises(StoryboardError, match=r"story.yaml:1: audio.file: .* outside .*--allow-outside"):
        read_storyboard(path)
    assert read_storyboard(path, allow_outside=True).audio.file == (tmp_path / "wind.ogg").resolve()


def test_a_link_out_of_the_folder_is_outside(tmp_path):
    (tmp_path / "inner").mkdir()
    (tmp_path / "wind.ogg").write_bytes(b"")
    (tmp_path / "inner" / "link.ogg").symlink_to(tmp_path / "wind.ogg")
    with pytest.raises(StoryboardError, match="outside"):
        read_storyboard(written(tmp_path / "inner", "audio: link.ogg\nchunks: [A swan]\n"))


def test_an_option_of_a_recipe_may_be_a_list_or_a_mapping(tmp_path):
    path = written(tmp_path, "recipe: {steps: [1.0, 0.5], kv_cache: window}\nchunks: [A swan]\n")
    assert read_storyboard(path).recipe == {"steps": [1.0, 0.5], "kv_cache": "window"}
    changes = [
        "recipe.steps=[1, 0.75]",
        "recipe.kv_cache={name: window, sink: 3}",
        "chunks.1.caption=[red] [boat]",
    ]
    story = read_storyboard(path, changes)
    assert story.recipe == {"steps": [1, 0.75], "kv_cache": {"name": "window", "sink": 3}}
    assert story.chunks[0].caption == "[red] [boat]"
    assert read_storyboard(path, ["chunks.1.recipe.steps=[1, 0.5, 0.25]"]).chunks[0].recipe == {"steps": [1, 0.5, 0.25]}


def test_overrides_come_before_the_checks(tmp_path):
    path = written(tmp_path, "seed: nonsense\nchunks:\n- A swan\n- caption: A boat\n")
    overrides = [
        "seed=5",
        "chunks.1.seed=7",
        "chunks.2.caption=A car: red",
        "recipe.kv_cache.top=3",
        "title='9'",
    ]
    overrides += ["recipe.solver=euler", "recipe.solver.steps=9"]
    story = read_storyboard(path, overrides)
    recipe = {"kv_cache": {"top": 3}, "solver": {"name": "euler", "steps": 9}}
    assert (story.seed, story.chunks[0].seed, story.chunks[0].caption) == (5, 7, "A swan")
    assert (story.chunks[1].caption, story.recipe, story.title) == ("A car: red", recipe, "9")


text_fields = some.text(some.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), max_size=150)
captions = text_fields.filter(lambda text: bool(text.strip()))
chunk_fields = some.fixed_dictionaries(
    {"caption": captions, "duration": some.sampled_from(["4s", "48f", "1.25", "7f", "0.1s"])},
    optional={"seed": some.integers(0, 2**63 - 1), "cut": some.booleans(), "negative": text_fields},
)
values = some.recursive(
    some.booleans() | some.integers(-(10**9), 10**9) | some.floats(-1e6, 1e6) | text_fields | some.none(),
    lambda inner: some.lists(inner, max_size=3) | some.dictionaries(text_fields, inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=60, deadline=None)
@given(
    some.lists(chunk_fields, min_size=1, max_size=4),
    some.sampled_from([24, 23.976, 0.5]),
    text_fields,
    some.dictionaries(text_fields, values, max_size=3),
)
def test_what_is_written_is_read_back(tmp_path_factory, chunks, fps, title, recipe):
    folder = tmp_path_factory.mktemp("round")
    if fps == 0.5:
        chunks = [{**chunk, "duration": "2f"} for chunk in chunks]
    fields = {"title": title, "fps": fps, "recipe": recipe, "chunks": chunks}
    story = read_storyboard(written(folder, json.dumps(fields), "story.json"))
    assert read_storyboard(written(folder, dump_storyboard(story))) == story


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_examples_are_planned_and_written_back(path, tmp_path):
    story = read_storyboard(path)
    plan = planned(story)
    assert plan.frames == round(story.seconds * 12)
    assert read_storyboard(written(tmp_path, dump_storyboard(story))) == story


def test_the_examples_are_as_long_as_they_say():
    lengths = {path.stem: (len(read_storyboard(path).chunks), read_storyboard(path).seconds) for path in EXAMPLES}
    assert lengths["swan"] == (15, 60)
    assert lengths["balloon"][1] == 45
    assert lengths["night-drive"][1] == 30


def test_every_caption_of_the_swan_says_who_where_and_when():
    for chunk in read_storyboard(packaged_folder("storyboards") / "swan.yaml").chunks:
        caption = chunk.caption.lower()
        assert "white swan" in caption
        assert "lake" in caption
        assert re.search("sunset|sun sets|evening light|dusk", caption)
        assert re.search("rest|still|left|right|rises|soars|hops|bounces", caption)


def test_story_and_card_bring_no_torch():
    rooms = "blockvid_cli.storyboard.plan, blockvid_cli.commands.storyboard"
    program = f"import sys, {rooms}; sys.exit('torch' in sys.modules)"
    root = Path(plan_module.__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", program], cwd=root, check=False).returncode == 0


# The plan


def test_the_drawing_in_the_plans_docstring():
    drawn = [line.split()[1:] for line in plan_module.__doc__.splitlines() if line.startswith("    ")]
    seconds, frames, latents, _ = drawn[:4]
    assert [int(word) for word in seconds if word.isdigit()][:4] == [0, 4, 8, 12]
    plan = planned(storyboard_of([Fraction(4)] * 4))
    assert [int(word) for word in frames if word.isdigit()][:4] == [c.first_frame for c in plan.chunks]
    assert "|0 1 2|3 4 5|6 7 8|9 10 11|12" in " ".join(latents)
    assert [(block.first, block.frames) for block in plan.blocks[:5]] == [
        (0, 3),
        (3, 3),
        (6, 3),
        (9, 3),
        (12, 3),
    ]
    assert [[block.number for block in chunk.blocks] for chunk in plan.chunks[:2]] == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
    ]


def test_the_drawing_of_the_borders():
    grid = Grid(time=4, block=3, fps=Fraction(12))
    assert [grid.frame(border) for border in range(4)] == [0, 9, 21, 33]
    assert [float(grid.frame(border) / grid.fps) for border in range(4)] == [0, 0.75, 1.75, 2.75]
    assert all(grid.position(grid.frame(border) / grid.fps) == border for border in range(1, 9))


def test_a_minute_in_fifteen_captions():
    plan = planned(storyboard_of([Fraction(4)] * 15))
    assert (len(plan.blocks), plan.frames, plan.size, plan.latent) == (61, 720, CARD.size, (32, 12, 20))
    assert [len(chunk.blocks) for chunk in plan.chunks] == [4] * 14 + [5]
    said = "chunk 2 begins at 3.75 s instead of 4.00 s (block border); 13 other chunks moved by no more than that"
    assert plan.notes[0] == said
    assert (plan.chunks[-1].first_frame, plan.chunks[-1].end_frame) == (669, 720)


def test_borders_on_block_borders_are_not_noted():
    assert planned(storyboard_of([Fraction(15, 4), Fraction(4)])).notes == ()


def test_a_short_chunk_is_given_a_block_by_its_neighbours():
    plan = planned(storyboard_of([Fraction(4), Fraction(1, 2), Fraction(4)]))
    assert [len(chunk.blocks) for chunk in plan.chunks] == [4, 1, 4]
    assert "chunk 2 begins at 3.75 s instead of 4.00 s (block border); 1 other chunk moved" in plan.notes[0]


def test_a_chunk_too_short_to_have_a_block_names_the_least_length():
    with pytest.raises(StoryboardError, match=r"story.yaml:\d: chunks\[\d\]: lasts 0.20 s.*at least 1.00 s"):
        planned(storyboard_of([Fraction(4)] + [Fraction(1, 5)] * 5 + [Fraction(4)]))


def test_more_chunks_than_blocks_is_an_error():
    with pytest.raises(StoryboardError, match=r"at least 1\.00 s"):
        planned(storyboard_of([Fraction(1, 10)] * 20))


def test_shots_seeds_and_words():
    story = storyboard_of([Fraction(4)] * 4, style="ink", negative="blur")
    changes = [{"cut": True}, {"seed": 5, "negative": ""}, {"cut": True}, {}]
    chunks = [
        Chunk(c.caption, c.start, c.end, location=c.location, **change)
        for c, change in zip(story.chunks, changes, strict=True)
    ]
    plan = planned(Storyboard(tuple(chunks), story.source, style="ink", negative="blur"), seed=3)
    assert [chunk.shot for chunk in plan.chunks] == [1, 1, 2, 2]
    assert [chunk.seed for chunk in plan.chunks] == [chunk_seed(3, 1), 5, chunk_seed(3, 3), chunk_seed(3, 4)]
    assert [chunk.negative_prompt for chunk in plan.chunks] == ["blur", "", "blur", "blur"]
    assert plan.chunks[0].caption == "Caption 1"
    assert plan.chunks[0].prompt == "ink, Caption 1"


def test_a_chunk_holds_its_prompt_once():
    chunk = planned(storyboard_of([Fraction(4)], style="ink", negative="blur")).chunks[0]
    assert {(block.prompt, block.negative_prompt) for block in chunk.blocks} == {("ink, Caption 1", "blur")}
    assert chunk.retrieval_text == "Caption 1" and not chunk.rewritten
    chunk = replace(chunk, prompt="A swan rests.", rewritten=True)
    assert {block.prompt for block in chunk.blocks} == {"A swan rests."} == {chunk.retrieval_text}
    assert {(block.chunk, block.shot, block.seed, block.take) for block in chunk.blocks} == {(1, 1, chunk.seed, 1)}


def test_a_chunks_seed_is_a_pure_function():
    seeds = {chunk_seed(film, chunk, take) for film in range(4) for chunk in range(1, 5) for take in range(1, 4)}
    assert len(seeds) == 48
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert chunk_seed(1, 2) == chunk_seed(1, 2, 1) == 5843222092968966630


def test_a_size_must_fit_the_model():
    with pytest.raises(UsageError, match=r"trained for 160x96, and cannot draw 165x97.*multiples of 16x16"):
        planned(storyboard_of([Fraction(4)]), size=(165, 97), untrained_size=True)
    with pytest.raises(UsageError, match=r"trained for 160x96, and draws 320x192 badly.*--untrained-size"):
        planned(storyboard_of([Fraction(4)]), size=(320, 192))
    story = storyboard_of([Fraction(4)])
    written = replace(story, untrained_size=True, size=(320, 192))
    for allowed in (planned(story, size=(320, 192), untrained_size=True), planned(written)):
        assert allowed.latent == (32, 24, 40)


def test_a_card_says_the_sizes_that_its_network_was_trained_for():
    assert find_card("wan2.1-t2v-14b").sizes_trained_for == ((832, 480), (480, 832), (1280, 720), (720, 1280))
    for name in bundled_models():
        card = find_card(name)
        assert card.size in card.sizes_trained_for
        for size in card.sizes_trained_for:
            assert make_plan(storyboard_of([Fraction(4)]), card, seed=1, size=size).size == size
        with pytest.raises(UsageError, match=f"'{name}' was trained for"):
            make_plan(storyboard_of([Fraction(4)]), card, seed=1, size=(1920, 1088))


@pytest.mark.parametrize("fps", [0, -1, 121, float("nan"), float("inf")])
def test_a_frame_rate_must_make_sense(fps):
    with pytest.raises(UsageError, match="frames a second"):
        planned(storyboard_of([Fraction(4)]), fps=fps)


lengths = some.lists(some.fractions(min_value=1, max_value=9, max_denominator=1000), min_size=1, max_size=40)


@settings(max_examples=150, deadline=None)
@given(lengths, some.integers(1, 5), some.sampled_from([1, 4, 8]), some.sampled_from([8, 12, 16, 23.976, 24, 30]))
def test_blocks_tile_the_film(lengths, block, time, fps):
    """With every chunk a block long or more, all have blocks, in order, and the film is as long as asked."""
    card = CARD.model_copy(update={"block": block, "latent": CARD.latent.model_copy(update={"time": time})})
    rate = Fraction(repr(float(fps)))
    lengths = [length * block * time / rate for length in lengths]
    story = storyboard_of(lengths)
    plan = make_plan(story, card, seed=0, fps=fps)
    assert all(chunk.blocks and chunk.first_frame < chunk.end_frame for chunk in plan.chunks)
    assert [each.number for each in plan.blocks] == list(range(len(plan.blocks)))
    assert [each.first for each in plan.blocks] == [block * number for number in range(len(plan.blocks))]
    assert plan.frames == round(sum(lengths) * rate)
    assert plan.chunks[0].first_frame == 0
    assert plan.chunks[-1].end_frame == plan.frames
    for before, after in zip(plan.chunks, plan.chunks[1:], strict=False):
        assert before.end_frame == after.first_frame
        assert abs(after.first_frame - after.start * float(rate)) <= block * time / 2 + 1e-6
    drawn = time * (block * len(plan.blocks) - 1) + 1
    assert drawn - block * time < plan.frames <= drawn


@settings(max_examples=150, deadline=None)
@given(
    some.lists(some.fractions(min_value=Fraction(1, 120), max_value=3, max_denominator=500), min_size=1, max_size=20)
)
def test_short_chunks_are_planned_or_refused(lengths):
    try:
        plan = planned(storyboard_of(lengths))
    except StoryboardError as error:
        assert "shorter than a block" in str(error)
        assert min(lengths) < 1
    else:
        assert all(chunk.blocks and chunk.first_frame < chunk.end_frame for chunk in plan.chunks)
        assert plan.frames == max(1, round(sum(lengths) * 12))


# The commands


def test_new_writes_a_storyboard_that_works(tmp_path):
    path = tmp_path / "mine.yaml"
    assert CliRunner().invoke(app, ["new", str(path)]).exit_code == 0
    assert path.read_text() == STARTER.format(name=path)
    assert planned(read_storyboard(path)).frames == 13 * 12
    path.write_text("mine")
    refused = CliRunner().invoke(app, ["new", str(path)])
    assert isinstance(refused.exception, UsageError)
    assert path.read_text() == "mine"
    assert CliRunner().invoke(app, ["new", str(path), "--force"]).exit_code == 0


def test_import_writes_a_storyboard(tmp_path):
    captions = written(tmp_path, "A swan\nA boat\n", "story.txt")
    said = CliRunner().invoke(app, ["import", str(captions), "--title", "yes", "--seconds", "2.5"])
    assert said.exit_code == 0
    story = read_storyboard(written(tmp_path, said.stdout))
    assert (story.title, story.seconds, len(story.chunks)) == ("yes", 5, 2)
    written_to = tmp_path / "out.yaml"
    assert CliRunner().invoke(app, ["import", str(captions), "-o", str(written_to)]).exit_code == 0
    assert read_storyboard(written_to).seconds == 8
    assert isinstance(CliRunner().invoke(app, ["import", str(written_to)]).exception, UsageError)


def test_check_prints_the_plan(tmp_path, monkeypatch):
    from blockvid_cli.rollout.kv_cache import semantic

    monkeypatch.setattr(semantic, "retrieved_chunks", lambda plan, cache: [(), (), (1,)])
    path = written(tmp_path, STARTER.format(name="mine.yaml"))
    said = CliRunner().invoke(app, ["check", str(path), "--set", "chunks.1.caption=[red] boat"])
    assert said.exit_code == 0
    assert "[red] boat" in said.stdout
    assert "156 frames, 13 s" in said.stdout
    plan = json.loads(CliRunner().invoke(app, ["check", str(path), "--json", "--fps", "24"]).stdout)
    assert (plan["fps"], plan["frames"], plan["shots"]) == (24, 312, 2)
    assert plan["chunks"][2]["retrieves"] == [1]
    assert sum(chunk["blocks"] for chunk in plan["chunks"]) == plan["blocks"]


def test_the_schema_names_every_field():
    schema = json.loads(CliRunner().invoke(app, ["schema"]).stdout)
    assert schema == json_schema()
    assert {"version", "title", "audio", "chunks", "recipe"} <= set(schema["properties"])
    assert {"caption", "at", "duration", "cut"} <= set(schema["$defs"]["ChunkForm"]["properties"])
    assert schema["required"] == ["chunks"]


@pytest.mark.parametrize("command", ["check", "import", "new", "schema"])
def test_help_ends_with_an_example(command):
    said = CliRunner().invoke(app, [command, "--help"])
    assert f"Example: blockvid storyboard {command}" in said.stdout
