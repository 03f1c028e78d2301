"""Chunk identities: whatever changes a chunk's latents changes its key, and nothing else does."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path

import pytest
import torch
import yaml

from blockvid_cli.errors import UsageError
from blockvid_cli.job import REWRITERS, RenderRequest, prepare
from blockvid_cli.project.identity import (
    ChunkIdentity,
    TakeChoice,
    changed_fields,
    chunk_keys,
    context_hash,
    needed_chunks,
    neighbours_hash,
)
from blockvid_cli.render import stream_frames
from blockvid_cli.rollout import recipe as recipes
from blockvid_cli.runtime.presets import RuntimeOptions
from blockvid_cli.session import load
from blockvid_cli.storyboard.schema import ChunkForm, StoryboardForm

PLAIN = ChunkIdentity(
    weights="w", model={"block": 3}, text={"encoder": "minilm"}, size=(64, 32), fps=12.0,
    recipe={"solver": {"name": "euler"}, "kv_cache": {"name": "window", "window": 9}, "steps": [1.0, 0.5, 0.0]},
    guidance_rows=1, precision="fp32", kv_dtype="native", film_seed=3, seed=5, take=1, prompt="a", retrieval_text="a",
    negative_prompt="", cut=False, first_latent=0, blocks=None,
)  # fmt: skip
FILM = [replace(PLAIN, prompt=name, first_latent=6 * index) for index, name in enumerate("abcde")]
EARLIER = [range(1, number) for number in range(1, 6)]
ALL = [[other for other in range(1, 6) if other != number] for number in range(1, 6)]
CUTS = [False] * 5


def between(keys, chunk: int, take: int = 2) -> TakeChoice:
    """The choice of a chunk that is rendered between the neighbours of a film."""
    context = context_hash(chunk, keys.bases, keys.needs[chunk - 1], CUTS)
    return TakeChoice(take, keys.bases[chunk - 1], context, neighbours_hash(chunk, keys.keys, CUTS))


def edit(chunk: int, **changes: object) -> list[ChunkIdentity]:
    """The film with a chunk changed."""
    return [replace(identity, **changes) if n == chunk else identity for n, identity in enumerate(FILM, start=1)]


# Keys


def test_an_edit_changes_the_keys_of_the_chunks_that_need_it():
    keys, edited = chunk_keys(FILM, EARLIER).keys, chunk_keys(edit(3, prompt="x"), EARLIER).keys
    assert [old == new for old, new in zip(keys, edited, strict=True)] == [True, True, False, False, False]
    assert len(set(keys)) == 5
    together, edited = chunk_keys(FILM, ALL).keys, chunk_keys(edit(3, prompt="x"), ALL).keys
    assert not set(together) & set(edited) and len(set(together)) == 5


def test_removing_and_appending_at_the_end_change_nothing_before():
    keys = chunk_keys(FILM, EARLIER).keys
    assert chunk_keys(FILM[:3], EARLIER[:3]).keys == keys[:3]
    assert chunk_keys(FILM[:4], [[2, 3, 4], [1, 3, 4], [1, 2, 4], [1, 2, 3]]).keys != chunk_keys(FILM, ALL).keys[:4]


def test_what_is_needed_through_others_counts():
    """Chunk 1 needs 4, as the first of keyframes; whoever needs 1 needs 4 as well."""
    assert needed_chunks([[4], [1], [], []]) == [{4}, {1, 4}, set(), set()]
    assert needed_chunks([[], [1], [2], [3]]) == [set(), {1}, {1, 2}, {1, 2, 3}]
    assert needed_chunks([[2], [3], [1]]) == [{2, 3}, {1, 3}, {1, 2}]


def test_keys_are_the_same_in_every_process():
    reordered = replace(PLAIN, recipe=dict(reversed(PLAIN.recipe.items())))
    assert reordered.hash() == PLAIN.hash()
    code = (
        "import sys, json; from blockvid_cli.project.identity import ChunkIdentity\n"
        "print(ChunkIdentity(**json.loads(sys.argv[1])).hash(), 'torch' in sys.modules)"
    )
    command = [sys.executable, "-c", code, json.dumps(asdict(PLAIN))]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.split() == [PLAIN.hash(), "False"]


def test_every_field_changes_the_hash_and_has_a_label():
    for each in fields(ChunkIdentity):
        value = getattr(PLAIN, each.name)
        other = {"other": 1} if isinstance(value, Mapping) else (1, 1) if isinstance(value, tuple) else f"{value} other"
        changed = replace(PLAIN, **{each.name: other})
        assert changed.hash() != PLAIN.hash()
        reasons = changed_fields(asdict(PLAIN), changed)
        assert reasons and (each.name == "recipe" or reasons == [each.metadata["label"]])


def test_a_recipe_names_the_option_that_changed():
    other = {**PLAIN.recipe, "kv_cache": {"name": "window", "window": 12}, "solver": {"name": "unipc", "order": 2}}
    assert changed_fields(asdict(PLAIN), replace(PLAIN, recipe=other)) == ["solver", "kv_cache.window"]
    assert changed_fields(json.loads(json.dumps(asdict(PLAIN))), PLAIN) == []


# Chunks between neighbours


def test_a_chunk_between_neighbours_leaves_their_keys():
    plain = chunk_keys(FILM, EARLIER)
    film = edit(3, prompt="x")
    alone = chunk_keys(film, EARLIER, {3: between(plain, 3)})
    assert alone.bases == plain.bases and alone.infilled == {3}
    assert [a == b for a, b in zip(alone.keys, plain.keys, strict=True)] == [True, True, False, True, True]
    assert alone.identities[2].neighbours and chunk_keys(film, EARLIER).keys[3:] != plain.keys[3:]


@pytest.mark.parametrize(("chunk", "stays"), [(2, False), (4, False), (5, True)])
def test_an_edit_beside_a_chunk_between_neighbours_is_noticed(chunk, stays):
    plain = chunk_keys(FILM, EARLIER)
    choice = {3: between(plain, 3)}
    film = edit(3, prompt="x")
    alone = chunk_keys(film, EARLIER, choice)
    film[chunk - 1] = replace(film[chunk - 1], prompt="another")
    edited = chunk_keys(film, EARLIER, choice)
    assert (edited.infilled == {3}) == stays and (edited.keys[2] == alone.keys[2]) == stays
    assert not stays or edited.keys[3] == alone.keys[3]


def test_the_same_take_between_other_neighbours_is_another():
    plain = chunk_keys(FILM, EARLIER)
    film = edit(3, take=2)
    one = chunk_keys(film, EARLIER, {3: between(plain, 3)})
    film[3] = replace(film[3], take=2)
    two = chunk_keys(film, EARLIER, {3: between(plain, 3), 4: between(one, 4)})
    assert two.infilled == {3, 4} and two.keys[2] == one.keys[2]
    again = chunk_keys(film, EARLIER, {3: between(two, 3), 4: between(one, 4)})
    assert again.keys[2] != two.keys[2]


def test_what_is_as_it_was_is_not_between_neighbours():
    plain = chunk_keys(FILM, EARLIER)
    assert chunk_keys(FILM, EARLIER, {3: between(plain, 3, take=1)}) == plain


def test_chunks_that_need_later_ones_are_not_rendered_between_neighbours():
    plain = chunk_keys(FILM, ALL)
    assert not chunk_keys(edit(3, prompt="x"), ALL, {3: between(plain, 3)}).infilled


# Every option of a recipe, every field of a storyboard

BASE = {  # a film of 2 chunks of 4 blocks, so that every option has something to act on
    "schedule": "block",
    "kv_cache": {"name": "semantic", "recent": 1, "top": 1, "last_blocks": 1},
    "positions": "packed",
    "noise": "independent",
    "solver": "euler",
    "cache_update": "clean",
    "steps": 3,
    "shift": 2.0,
    "guidance": 1.0,
}
STORY = """\
seed: 3
chunks:
  - {caption: A red boat rests on the lake., duration: 3s}
  - {caption: The red boat glides to the left., duration: 3s}
  - {caption: A green tree., duration: 3s}
  - {caption: The red boat again., duration: 3s}
"""


def tables() -> dict[str, Mapping[str, type]]:
    """The tables of all parts of a recipe."""
    return {key: recipes.TABLES[key] for key in recipes.PARTS}


OF_OTHER_TAKES = {"take_shared"}  # options that decide nothing of a first take; they have a test of their own


def options() -> list[tuple[str, str, str]]:
    """(part, name, option) of every option there is; the option is empty for the part itself."""
    rows = []
    for part, table in tables().items():
        for name, maker in table.items():
            rows += [(part, name, option) for option in ("", *inspect.signature(maker).parameters)]
    return [row for row in rows if row[2] not in OF_OTHER_TAKES]


CONTEXT = {  # what else a part needs so that its options act on so small a film
    ("kv_cache", "window"): {"positions": "absolute"},
    ("schedule", "matrix"): {"kv_cache": "none", "steps": 4},
    ("schedule", "diagonal"): {"kv_cache": "full", "steps": 4},
    ("solver", "unipc"): {"steps": 5},
    ("cache_update", "last-step"): {"kv_cache": "full"},
}
VALUES = {  # where another value than the nearest shows in so small a film, or is allowed
    ("kv_cache", "window", "window"): 7,
    ("kv_cache", "window", "sink"): 0,
    ("kv_cache", "semantic", "probes"): 1,
    ("kv_cache", "semantic", "tau"): 0.3,
    ("kv_cache", "semantic", "last_blocks"): 2,
    ("schedule", "matrix", "window"): 2,
    ("verifier", "not-empty", "deviation"): 100.0,
}
OPTIONS = {("kv_cache", "semantic"): {"recent": 1, "top": 1}}  # of the part itself
REFUSED = {("cache_update", "last-step", "self_only")}  # there is no other value
NEEDS_MORE = {  # options that cannot show in the latents of this film, or at all
    ("kv_cache", "semantic", "sentence_model"),  # another model is not on this machine
    ("kv_cache", "semantic", "probes"),  # may select the same tokens
    ("verifier", "not-empty", "attempts"),  # no block is rejected
    ("verifier", "not-empty", ""),
    ("schedule", "infill", ""),  # at the end of a film nothing follows: the block schedule
}


def other_value(row: tuple[str, str, str], value: object) -> object:
    """Another value of an option."""
    if row in VALUES:
        return VALUES[row]
    if isinstance(value, bool):
        return not value
    return value + 1 if isinstance(value, int) else value / 2 if isinstance(value, float) else f"{value}-other"


@pytest.fixture
def film(tmp_path, model):
    """A function that prepares a film of three chunks of three blocks by a recipe, or a storyboard of its own."""

    def make(recipe: Mapping[str, object] | None = None, text: str = STORY, **options: object):
        file = tmp_path / "story.yaml"
        file.write_text(text)
        recipe = {**BASE, **(recipe or {})}
        return prepare(RenderRequest(file, model=str(model), recipe=recipe, **options))

    return make


@torch.inference_mode()
def latents(job) -> dict[int, torch.Tensor]:
    return {block.number: x for result in load(job).run() for block, x in result.finished}


def same_latents(one, other) -> bool:
    one, other = latents(one), latents(other)
    return one.keys() == other.keys() and all(torch.equal(one[number], other[number]) for number in one)


@pytest.mark.parametrize("row", options(), ids="-".join)
def test_every_option_of_a_recipe_is_in_the_identity(film, row):
    """Whatever changes the latents changes the identity; a part or option that is new is walked without being named."""
    part, name, option = row
    others, given = CONTEXT.get((part, name), {}), {"name": name, **OPTIONS.get((part, name), {})}
    before, after = film({**others, part: given}), None
    if option:
        default = inspect.signature(tables()[part][name]).parameters[option].default
        try:
            after = film({**others, part: {**given, option: other_value(row, given.get(option, default))}})
        except UsageError:
            assert row in REFUSED
            return
    else:
        after, before = before, film({**others, part: "none" if part in ("guidance", "verifier") else BASE[part]})
        if before.recipes == after.recipes:
            return
    changed = [changed_fields(asdict(a), b) for a, b in zip(before.keys.identities, after.keys.identities, strict=True)]
    assert all(any(label.startswith(f"{part}.{option}".rstrip(".")) for label in names) for names in changed)
    assert not set(before.keys.keys) & set(after.keys.keys)
    if row not in NEEDS_MORE:
        assert not same_latents(before, after)


@pytest.mark.parametrize("name", ["independent", "shared-base"])
def test_mixed_noise_is_in_the_identity_of_the_takes_that_have_it(film, name):
    """Neither the first take nor one inside a shot is rendered again for it; an old take of a shot's first chunk is."""
    text = STORY.replace("A green tree., duration: 3s", "A green tree., duration: 3s, cut: true")
    for take, changed in ((1, set()), (2, {1, 3})):
        takes = {number: TakeChoice(take) for number in (1, 2, 3, 4)}
        plain, mixed = (
            film({"noise": {"name": name, "take_shared": share}}, text, takes=takes).keys.identities
            for share in (0.0, 0.5)
        )
        assert {n for n, pair in enumerate(zip(plain, mixed, strict=True), 1) if pair[0] != pair[1]} == changed
    assert changed_fields(asdict(plain[0]), mixed[0]) == ["noise.take_shared"]


@pytest.mark.parametrize(("number", "value"), [("steps", 4), ("shift", 3.0), ("guidance", 2.0), ("steps", [1.0, 0.5])])
def test_numbers_of_a_recipe_are_in_the_identity(film, number, value):
    before, after = film(), film({number: value})
    assert not set(before.keys.keys) & set(after.keys.keys) and not same_latents(before, after)


def test_a_default_that_is_written_out_changes_nothing(film):
    written = film({"kv_cache": {**BASE["kv_cache"], "tau": 0.98}, "solver": {"name": "euler"}, "guidance": "none"})
    assert written.keys == film().keys


FIELDS = {  # field -> (text, replaced by), or None where only a project of its own can have another
    "version": ("seed: 3", "version: 1\nseed: 3"),
    "title": ("seed: 3", "title: Boats\nseed: 3"),
    "model": None,
    "size": ("seed: 3", "size: 32x32\nuntrained_size: true\nseed: 3"),
    "untrained_size": ("seed: 3", "untrained_size: true\nseed: 3"),
    "fps": ("seed: 3", "fps: 6\nseed: 3"),
    "seed": ("seed: 3", "seed: 4"),
    "style": ("seed: 3", "style: watercolour\nseed: 3"),
    "negative": ("seed: 3", "negative: blurred\nseed: 3"),
    "chunk": ("The red boat glides to the left., duration: 3s", "The red boat glides to the left."),
    "recipe": ("seed: 3", "recipe: {verifier: not-empty}\nseed: 3"),
    "audio": ("seed: 3", "audio: a.wav\nseed: 3"),
    "subtitles": ("seed: 3", "subtitles: none\nseed: 3"),
    "title_card": ("seed: 3", "title_card: Boats\nseed: 3"),
    "end_card": ("seed: 3", "end_card: The end\nseed: 3"),
    "font": ("seed: 3", "font: a.ttf\nseed: 3"),
    "chunks": ("  - {caption: The red boat again., duration: 3s}\n", ""),
}
CHUNK_FIELDS = {
    "caption": ("A green tree.", "A blue tree."),
    "at": ("A green tree., duration: 3s", "A green tree., at: 00:06-00:09"),
    "duration": ("glides to the left., duration: 3s", "glides to the left., duration: 2s"),
    "seed": ("A green tree.", "A green tree., seed: 9"),
    "cut": ("A green tree.", "A green tree., cut: true"),
    "image": ("A green tree.", "A green tree., image: a.png"),
    "end_image": ("A green tree.", "A green tree., end_image: a.png"),
    "negative": ("A green tree.", "A green tree., negative: blurred"),
    "recipe": ("A green tree.", "A green tree., recipe: {steps: 4}"),
    "audio": ("A green tree.", "A green tree., audio: a.wav"),
    "subtitle": ("A green tree.", "A green tree., subtitle: Green!"),
    "transition": ("A green tree.", "A green tree., cut: true, transition: fade"),
    "transition_seconds": ("A green tree.", "A green tree., cut: true, transition: fade, transition_seconds: 0.2"),
}
NOT_IN_LATENTS = {
    "version",
    "untrained_size",
    "title",
    "audio",
    "subtitles",
    "title_card",
    "end_card",
    "font",
    "chunks",
}
NOT_IN_CHUNK_LATENTS = {"at", "audio", "subtitle"}


def sources(folder) -> None:
    """The files that storyboards of these tests name."""
    from PIL import Image
    from scipy.io import wavfile

    Image.new("RGB", (64, 32), "red").save(folder / "a.png")
    wavfile.write(folder / "a.wav", 8000, torch.zeros(8000, dtype=torch.int16).numpy())
    from matplotlib import font_manager

    (folder / "a.ttf").write_bytes(Path(font_manager.findfont("DejaVu Sans")).read_bytes())


@pytest.fixture(scope="module")
def guided(model, tmp_path_factory):
    """The random model with a card that allows frame conditioning."""
    folder = tmp_path_factory.mktemp("guided") / "model"
    folder.mkdir()
    for file in model.iterdir():
        (folder / file.name).symlink_to(file)
    card = yaml.safe_load((model / "card.yaml").read_text())
    (folder / "card.yaml").unlink()
    (folder / "card.yaml").write_text(yaml.safe_dump({**card, "frame_conditioning": ["first", "last"]}))
    return folder


def test_every_field_of_a_storyboard_is_walked():
    assert set(FIELDS) == set(StoryboardForm.model_fields) and set(CHUNK_FIELDS) == set(ChunkForm.model_fields)


@pytest.mark.parametrize(
    ("field", "edit_", "changes"),
    [(name, edit_, name not in NOT_IN_LATENTS) for name, edit_ in FIELDS.items() if edit_]
    + [(f"chunk-{name}", edit_, name not in NOT_IN_CHUNK_LATENTS) for name, edit_ in CHUNK_FIELDS.items()],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_field_is_in_the_identity_where_it_decides_latents(tmp_path, guided, field, edit_, changes):
    """With guidance, so that negative prompts are read."""
    sources(tmp_path)

    def make(text: str):
        file = tmp_path / "story.yaml"
        file.write_text(text)
        return prepare(RenderRequest(file, model=str(guided), recipe={**BASE, "guidance": 2.0}))

    text = STORY.replace("A green tree.", "A green tree., cut: true") if "transition" in field else STORY
    assert edit_[0] in text
    before = make(text)
    after = make(STORY.replace(*edit_))
    common = len(after.keys.keys)
    if field.startswith("chunk-transition"):
        changes = False  # beside the cut that both have
    assert (before.keys.keys[:common] != after.keys.keys) == changes
    if not changes and field != "chunks":
        assert same_latents(before, after)


def test_a_negative_prompt_that_nothing_reads_is_in_no_identity(film):
    assert film().keys == film(text=STORY.replace("seed: 3", "negative: blurred\nseed: 3")).keys


@pytest.mark.parametrize(
    ("options", "changes"),
    [
        ({"precision": "bf16"}, ["precision"]),
        ({"kv_dtype": "int8"}, ["kv-dtype"]),
        ({"kv_storage": "disk"}, []),
        ({"offload": "model"}, []),
    ],
)
def test_numerics_are_in_the_identity_and_storage_is_not(film, options, changes):
    before, after = film(), film(runtime=RuntimeOptions(**options))
    assert changed_fields(asdict(before.keys.identities[0]), after.keys.identities[0]) == changes
    assert same_latents(before, after) == (not changes)


def test_what_a_rewriter_made_is_in_the_identity(film, model, monkeypatch):
    """The same captions with another rewriter are other prompts."""
    before = film()

    def rewrite(plan, card):
        return replace(plan, chunks=tuple(replace(chunk, prompt="A boat.", rewritten=True) for chunk in plan.chunks))

    monkeypatch.setitem(REWRITERS, "none", rewrite)
    after = film()
    assert changed_fields(asdict(before.keys.identities[0]), after.keys.identities[0]) == ["caption or style"]
    assert list(stream_frames(after))
