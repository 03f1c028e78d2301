"""The README: its code runs, its storyboard is valid, its tables name everything there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from blockvid_cli.rollout.recipe import CACHE_UPDATES, KV_CACHES, NOISES, POSITIONS, SCHEDULES, SOLVERS, VERIFIERS
from blockvid_cli.runtime.presets import PRESETS
from blockvid_cli.storyboard.schema import keys_table
from blockvid_cli.storyboard.storyboard import read_storyboard
from tests import small

README = Path(__file__).resolve().parent.parent / "README.md"


@pytest.fixture(scope="module")
def text() -> str:
    return README.read_text(encoding="utf-8")


def fenced(text: str, kind: str) -> str:
    """The first code block of a kind."""
    block = re.search(rf"```{kind}\n(.*?)```", text, re.DOTALL)
    assert block, kind
    return block[1]


def behind(text: str, marker: str) -> str:
    """The page from a marker on."""
    return text.partition(f"<!-- {marker} -->")[2]


def test_add_a_kv_cache_is_a_complete_cache(text, monkeypatch):
    code, names = fenced(behind(text, "kv-cache"), "python"), {}
    exec(compile(code, "README.md", "exec", dont_inherit=True), names)
    assert len(code.splitlines()) <= 22
    monkeypatch.setitem(KV_CACHES, "every-nth", names["EveryNth"])
    film = small.plan((2, 2, 2))
    latents = small.film_latents(film, small.denoiser(), small.recipe(kv_cache={"name": "every-nth", "n": 2}))
    assert sorted(latents) == [0, 1, 2, 3, 4, 5]
    whole = small.film_latents(film, small.denoiser(), small.recipe())
    assert (latents[5] - whole[5]).abs().max() > 1e-4


def test_the_python_example_renders_a_film(text, tmp_path, monkeypatch, capsys):
    (tmp_path / "storyboards").mkdir()
    (tmp_path / "storyboards" / "swan.yaml").write_text(
        "chunks:\n- {caption: A swan rests on the lake., duration: 1}\n- It glides away.\n", encoding="utf-8"
    )
    monkeypatch.chdir(tmp_path)
    code = fenced(behind(text, "python"), "python")
    exec(compile(code, "README.md", "exec", dont_inherit=True), {})
    assert (tmp_path / "swan.mp4").stat().st_size > 1000
    assert "swan.mp4 5.0 seconds" in capsys.readouterr().out


def test_the_table_of_keys_is_the_schemas(text):
    """``blockvid storyboard schema --markdown`` prints the table as it has to be."""
    assert behind(text, "keys").partition("<!-- /keys -->")[0].strip() == keys_table().strip()


def test_the_storyboard_on_the_page_is_valid(text, tmp_path):
    file = tmp_path / "page.yaml"
    file.write_text(fenced(text, "yaml"))
    assert [float(chunk.end) for chunk in read_storyboard(file).chunks] == [4, 9, 13]


def test_the_tables_name_every_part_and_preset(text):
    tables = (SCHEDULES, KV_CACHES, POSITIONS, NOISES, SOLVERS, CACHE_UPDATES, VERIFIERS, PRESETS)
    for name in (name for table in tables for name in table):
        assert f"`{name}`" in text, name


def test_the_files_it_names_exist(text):
    for name in re.findall(r"[`(]((?:blockvid_cli|models|storyboards|tests)/[\w/.-]+)[`)]", text):
        if not name.endswith(".mp4"):
            assert (README.parent / name).exists(), name


def test_the_page_opens_with_a_moving_picture_below_two_megabytes(text):
    first = re.search(r"!\[[^]]*\]\((.*?)\)", text)
    assert first
    assert first[1].endswith((".gif", ".webp"))
    assert text.index(first[0]) < 600
    assert (README.parent / first[1]).stat().st_size < 2_000_000
