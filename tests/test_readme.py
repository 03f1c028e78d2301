"""The README: its code runs, its storyboard is one, its tables name what there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from blockvid_cli.rollout.recipe import CACHE_UPDATES, KV_CACHES, NOISES, SCHEDULES, SOLVERS, POSITIONS
from blockvid_cli.storyboard.storyboard import read_storyboard
from tests import small

README = Path(__file__).resolve().parent.parent / "README.md"


@pytest.fixture(scope="module")
def text() -> str:
    return README.read_text(encoding="utf-8")


def fenced(text: str, kind: str) -> str:
    return re.search(rf"```{kind}\n(.*?)```", text, re.DOTALL)[1]


def test_add_a_memory_is_a_complete_memory(text, monkeypatch):
    code, names = fenced(text, "python"), {}
    exec(compile(code, "README.md", "exec", dont_inherit=True), names)
    assert len(code.splitlines()) <= 22
    monkeypatch.setitem(KV_CACHES, "every-nth", names["EveryNth"])
    film = small.plan((2, 2, 2))
    drawn = small.film_latents(film, small.denoiser(), small.recipe(kv_cache={"name": "every-nth", "n": 2}))
    assert sorted(drawn) == [0, 1, 2, 3, 4, 5]
    whole = small.film_latents(film, small.denoiser(), small.recipe())
    assert (drawn[5] - whole[5]).abs().max() > 1e-4


def test_the_storyboard_on_the_page_is_one(text, tmp_path):
    file = tmp_path / "page.yaml"
    file.write_text(fenced(text, "yaml"))
    assert [float(chunk.end) for chunk in read_storyboard(file).chunks] == [4, 9, 13]


def test_the_table_of_parts_names_every_answer(text):
    for name in (*SCHEDULES, *KV_CACHES, *POSITIONS, *NOISES, *SOLVERS, *CACHE_UPDATES):
        assert f"`{name}`" in text, name


def test_the_files_it_names_are_there(text):
    for name in re.findall(r"`((?:blockvid_cli|models|storyboards)/[\w/.]+)`", text):
        if not name.endswith(".mp4"):
            assert (README.parent / name).exists(), name
