"""Renders are recorded however they end, and any one can be rendered again as it was."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file

from blockvid_cli import job
from blockvid_cli.commands.display import ProgressForm
from blockvid_cli.commands.film import render_film
from blockvid_cli.errors import OutOfMemoryError
from blockvid_cli.job import RenderRequest, prepare
from blockvid_cli.project.history import append_record, read_history, read_storyboard_text, save_storyboard_text
from tests.conftest import STORY


def takes(film: Path) -> list[str]:
    """The hash of each chunk's latents."""
    files = sorted(film.with_suffix(".blockvid").glob("chunks/*/take-1.safetensors"))
    return [hashlib.sha256(load_file(file)["latents"].numpy().tobytes()).hexdigest() for file in files]


def renders(film: Path):
    return read_history(film.with_suffix(".blockvid")).renders


@pytest.fixture(scope="module")
def rendered_once(model, tmp_path_factory) -> Path:
    """A folder with a story rendered with seed 5, other numbers of a recipe and a changed field."""
    folder = tmp_path_factory.mktemp("rendered")
    (folder / "story.yaml").write_text(STORY)
    recipe = {"steps": 2, "kv_cache": {"name": "window", "window": 6}}
    order = RenderRequest(
        folder / "story.yaml", model=str(model), seed=5, recipe=recipe, overrides=("chunks.2.seed=9",)
    )
    render_film(prepare(order), ProgressForm.NONE)
    return folder


@pytest.fixture
def rendered(rendered_once, tmp_path) -> Path:
    """That story, in a folder of its own."""
    return shutil.copytree(rendered_once, tmp_path, dirs_exist_ok=True) / "story.yaml"


def test_a_render_is_recorded_with_all_it_takes_to_render_it_again(rendered, model):
    (render,) = renders(rendered).values()
    assert (render.seed, render.size, render.fps, render.result) == (5, (64, 32), 12.0, "done")
    assert (render.film, render.storyboard, render.model) == ("story.mp4", "story.yaml", "random")
    assert render.options == {
        "model": str(model),
        "seed": 5,
        "recipe": {"steps": 2, "kv_cache": {"name": "window", "window": 6}},
        "overrides": ["chunks.2.seed=9"],
    }
    assert render.recipe["steps"] == 2 and render.recipe["solver"] == "euler"
    assert (render.chunks, render.rendered, render.resumed) == (3, 3, 0) and render.seconds > 0
    assert render.weights == hashlib.sha256((model / "transformer.safetensors").read_bytes()).hexdigest()
    assert (
        render.time.endswith("Z")
        and read_storyboard_text(rendered.with_suffix(".blockvid"), render) == rendered.read_bytes()
    )


def test_a_history_of_somebody_else_chooses_no_folder_and_allows_nothing(rendered, blockvid, tmp_path):
    elsewhere, file = (
        tmp_path.parent / f"{tmp_path.name}-elsewhere",
        rendered.with_suffix(".blockvid") / "history.jsonl",
    )
    elsewhere.mkdir()
    record = json.loads(file.read_bytes())
    record |= {"storyboard": f"../{elsewhere.name}/start.pth", "options": record["options"] | {"allow_outside": True}}
    file.write_text(json.dumps(record))
    assert blockvid("history", rendered.with_suffix(".mp4"), "--rerender", "1").code == 0
    assert not list(elsewhere.iterdir())
    assert (tmp_path / "story-1.yaml").is_file()
    rendered.write_text(f"{STORY}font: ../{elsewhere.name}/letters.ttf\n")
    file.write_text(json.dumps(record | {"text": save_storyboard_text(file.parent, rendered.read_bytes(), ".yaml")}))
    refused = blockvid("history", rendered.with_suffix(".mp4"), "--rerender", "1")
    assert refused.code == 2 and "--allow-outside" in refused.err


@pytest.mark.parametrize("path", ["a\0b", "\ud800", "a" * 5000])
def test_a_name_that_no_file_can_have_is_a_line_that_cannot_be_read(rendered, path):
    file = rendered.with_suffix(".blockvid") / "history.jsonl"
    file.write_text(json.dumps(json.loads(file.read_bytes()) | {"storyboard": path}))
    assert list(read_history(file.parent).renders) == []


def test_what_was_read_at_the_beginning_is_what_is_recorded(rendered, model, blockvid, monkeypatch):
    before, find = rendered.read_bytes(), job.find_model

    def edit_and_find(name: str):
        rendered.write_bytes(before.replace(b"hops up and down", b"dives into a lake"))
        return find(name)

    monkeypatch.setattr(job, "find_model", edit_and_find)
    assert blockvid("render", rendered, "--model", model, "--seed", "6").code == 0
    assert rendered.read_bytes() != before
    render = renders(rendered)[2]
    assert read_storyboard_text(rendered.with_suffix(".blockvid"), render) == before
    assert "dives into a lake" not in rendered.with_suffix(".report.html").read_text()


def test_a_storyboard_is_kept_once_and_an_edit_beside_it(rendered, model, blockvid):
    arguments = ("render", rendered, "--model", model, "--seed", "5", "--steps", "2")
    for _ in range(2):
        assert blockvid(*arguments).code == 0
    assert len(list(rendered.with_suffix(".blockvid").glob("history/*.yaml"))) == 1
    rendered.write_text(rendered.read_text().replace("hops up and down", "rests"))
    assert blockvid(*arguments).code == 0
    assert len(list(rendered.with_suffix(".blockvid").glob("history/*.yaml"))) == 2
    counts = [(render.rendered, render.resumed) for render in renders(rendered).values()]
    assert counts == [(3, 0), (3, 0), (0, 3), (1, 2)]


def test_any_render_is_rendered_again_after_all_was_changed(rendered, model, blockvid):
    before, text = takes(rendered.with_suffix(".mp4")), rendered.read_bytes()
    rendered.write_text("version: 1\nchunks: [Nothing as it was.]\n")
    assert blockvid("render", rendered, "--model", model, "--fresh").code == 0
    done = blockvid("history", rendered, "--rerender", "1", "--json")
    assert done.code == 0, done.err
    again = rendered.with_name("story-1.mp4")
    assert json.loads(done.out)["film"] == str(again) and "story-1.yaml: the storyboard of render 1" in done.err
    assert takes(again) == before and rendered.with_name("story-1.yaml").read_bytes() == text
    assert renders(again)[1].options == {**renders(rendered)[1].options, "untrained_size": True}
    assert rendered.read_text().endswith("[Nothing as it was.]\n")


def test_the_history_says_how_long_a_person_waited(tmp_path):
    """The same seconds as the command's last line: from its start, before anything was imported."""
    import time
    from types import SimpleNamespace

    from blockvid_cli.commands import film
    from blockvid_cli.timing import PhaseTimer

    recorded = []
    job = SimpleNamespace(output=tmp_path / "story.mp4")
    (tmp_path / "story.blockvid").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(film, "_append_record", lambda *values: recorded.append(values))
        timer = PhaseTimer(time.perf_counter() - 7)
        with pytest.raises(KeyboardInterrupt), film.recorded_in_history(job, print, timer) as counter:
            counter.film_is_written = True
            raise KeyboardInterrupt
    (_, _, seconds, _, result) = recorded[0]
    assert 7 <= seconds < 8 and result == "done"


def test_a_render_that_is_the_film_is_not_rendered_again(rendered, blockvid, tmp_path):
    """Only as long as neither the storyboard nor the film is another one."""
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    done = blockvid("history", rendered, "--rerender", "1")
    assert done.code == 0 and "story.mp4 is render 1 already; nothing is rendered" in done.out
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    rendered.with_suffix(".mp4").unlink()
    assert blockvid("history", rendered, "--rerender", "1").code == 0 and rendered.with_name("story-1.mp4").exists()


def test_the_list_has_one_line_a_render_with_options_as_they_are_typed(story, model, blockvid, monkeypatch):
    options = ("--model", model, "--steps", "2", "--set", "chunks.2.seed=9", "--kv-cache", "{name: window, window: 6}")
    assert blockvid("render", story, *options).code == 0
    assert blockvid("render", story, *options, "--only", "2").code == 0
    for columns, shown in ((60, "--"), (200, "--set chunks.2.seed=9")):
        monkeypatch.setenv("COLUMNS", str(columns))
        lines = blockvid("history", story).out.splitlines()
        rows = [line for line in lines if line.lstrip().startswith(("1 ", "2 "))]
        assert len(rows) == 2 and len(lines) <= 7 and max(map(len, lines[1:])) <= columns
        assert "1 of 3" in rows[1] and "done" in rows[1] and shown in rows[1]
    assert "--kv-cache {name: window, window: 6}" in rows[0] and "--steps 2" in rows[0]
    assert (
        blockvid("history", "-o", story.with_suffix(".mp4"), "--json").out == blockvid("history", story, "--json").out
    )


def test_a_rerender_overwrites_nothing_and_goes_on_where_one_broke_off(rendered, blockvid, tmp_path):
    own, text = rendered.with_name("story-1.yaml"), rendered.read_bytes()
    own.write_text("mine")
    rendered.with_name("story-1-2.yaml").write_bytes(text)  # of a render again that broke off
    rendered.write_bytes(text + b"# edited\n")
    assert blockvid("history", rendered, "--rerender", "1").code == 0
    assert own.read_text() == "mine" and rendered.with_name("story-1-2.mp4").exists()
    other = tmp_path / "other.mp4"
    assert blockvid("history", rendered, "--rerender", "1", "-o", other).code == 0 and other.exists()
    done = blockvid("history", rendered, "--rerender", "1", "-o", other)
    assert done.code == 2 and "other.mp4 is there already" in done.err
    assert len(list(tmp_path.glob("*.yaml"))) == 3


def test_what_options_have_come_to_mean_is_not_what_they_meant(rendered, model, blockvid, tmp_path):
    """The card's default of today does not draw the film of yesterday."""
    before = takes(rendered.with_suffix(".mp4"))
    moved = Path(shutil.copytree(model, tmp_path / "model"))
    card = moved / "card.yaml"
    card.write_text(card.read_text().replace("solver: euler", "solver: unipc").replace("64x32", "32x32"))
    file = rendered.with_suffix(".blockvid") / "history.jsonl"
    file.write_text(file.read_text().replace(str(model), str(moved)))
    rendered.with_suffix(".mp4").unlink()
    assert blockvid("history", rendered, "--rerender", "1").code == 0
    assert takes(rendered.with_name("story-1.mp4")) == before


def test_failed_and_interrupted_renders_are_recorded(story, model, blockvid, monkeypatch):
    real = "blockvid_cli.models.wan.denoiser.WanDenoiser.__call__"
    for error, code, said in (
        (OutOfMemoryError("not enough memory to denoise."), 4, "failed: not enough memory to denoise."),
        (KeyboardInterrupt(), 130, "interrupted"),
        (ZeroDivisionError(), None, "failed: it broke off"),
    ):

        def broken(*_, error=error, **__):
            raise error

        with monkeypatch.context() as patch:
            patch.setattr(real, broken)
            if code is None:
                with pytest.raises(ZeroDivisionError):
                    blockvid("render", story, "--model", model)
            else:
                assert blockvid("render", story, "--model", model).code == code
        last = list(renders(story).values())[-1]
        assert last.result == said and last.rendered == 0 and not last.done
    monkeypatch.setenv("COLUMNS", "200")
    done = blockvid("history", story)
    assert done.code == 0 and "interrupted" in done.out and "failed: not enough memory to denoise." in done.out


def test_what_is_refused_is_no_render(story, model, blockvid):
    assert blockvid("render", story, "--model", model).code == 0
    assert blockvid("render", story, "--model", model, "--size", "32x32", "--untrained-size").code == 2
    assert len(renders(story)) == 1


def test_a_line_that_was_torn_is_passed_over_and_keeps_its_number(rendered, blockvid):
    file = rendered.with_suffix(".blockvid") / "history.jsonl"
    whole = file.read_bytes()
    file.write_bytes(whole + whole[:50])
    done = blockvid("history", rendered, "--json")
    assert [row["number"] for row in json.loads(done.out)] == [1]
    assert "line 2 cannot be read; render 2 is left out" in done.err
    append_record(file.parent, renders(rendered)[1])
    assert list(renders(rendered)) == [1, 3] and file.read_bytes().count(b"\n") == 3
    assert [json.loads(line)["seed"] for line in file.read_bytes().splitlines()[::2]] == [5, 5]


@pytest.mark.parametrize("line", [b"[]", b"{}", b"\xff", b'{"seed": 1}', b"7", b"[" * 5000])
def test_any_line_may_stand_in_a_history(rendered, line):
    folder = rendered.with_suffix(".blockvid")
    (folder / "history.jsonl").write_bytes(line + b"\n" + (folder / "history.jsonl").read_bytes())
    history = read_history(folder)
    assert list(history.renders) == [2] and len(history.notes) == 1


def test_a_history_is_asked_for_by_storyboard_film_project_or_folder(rendered, model, blockvid, tmp_path):
    assert blockvid("render", rendered, "--model", model, "--seeds", "1,2").code == 0
    assert blockvid("render", rendered, "--model", model, "-o", tmp_path / "z.mp4").code == 0

    def films(place) -> list[str]:
        done = blockvid("history", place, "--json")
        assert done.code == 0, done.err
        return [row["film"] for row in json.loads(done.out)]

    all_films = ["story.mp4", "story-seed-1.mp4", "story-seed-2.mp4", "z.mp4"]
    assert films(rendered) == all_films and films(tmp_path) == [*all_films[1:3], "story.mp4", "z.mp4"]
    assert films(tmp_path / "story-seed-2.mp4") == ["story-seed-2.mp4"] == films(tmp_path / "story-seed-2.blockvid")
    shown = blockvid("history", tmp_path / "story.mp4").out
    assert "--steps" in shown and "3 of 3" in shown and "done" in shown


def test_rerendering_one_of_many_asks_which(story, model, blockvid, tmp_path):
    assert blockvid("render", story, "--model", model, "--seeds", "1,2").code == 0
    done = blockvid("history", story, "--rerender", "1")
    assert done.code == 2 and "story-seed-1.mp4, story-seed-2.mp4" in done.err
    story.write_text(story.read_text() + "# edited\n")
    assert blockvid("history", tmp_path / "story-seed-2.mp4", "--rerender", "1").code == 0
    assert takes(tmp_path / "story-seed-2-1.mp4") == takes(tmp_path / "story-seed-2.mp4")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["empty"], "no film was rendered in"),
        (["nothing.yaml"], "there is no project of nothing.yaml"),
        (["{story}", "--rerender", "7"], "there is no render 7"),
        (["{story}", "-o", "x.mp4"], "there is no project of x.mp4"),
    ],
)
def test_mistakes_get_a_sentence(rendered, blockvid, arguments, said, monkeypatch):
    (rendered.parent / "empty").mkdir()
    monkeypatch.chdir(rendered.parent)
    done = blockvid("history", *(rendered if a == "{story}" else a for a in arguments))
    assert done.code == 2 and said in " ".join(done.err.split())


def test_a_storyboard_that_was_changed_in_the_history_is_not_passed_off_as_the_one_of_then(rendered, blockvid):
    (kept,) = rendered.with_suffix(".blockvid").glob("history/*.yaml")
    kept.write_text("version: 1\nchunks: [Another.]\n")
    assert "was changed since" in blockvid("history", rendered, "--rerender", "1").err
    kept.unlink()
    assert "is lost" in blockvid("history", rendered, "--rerender", "1").err


def test_options_that_are_not_known_any_more_are_named(rendered, blockvid):
    file = rendered.with_suffix(".blockvid") / "history.jsonl"
    file.write_text(file.read_text().replace('"overrides"', '"sharpness": 3, "overrides"'))
    done = blockvid("history", rendered, "--rerender", "1")
    assert done.code == 2 and "does not know now: sharpness" in done.err


def test_other_weights_are_told(rendered, blockvid):
    file = rendered.with_suffix(".blockvid") / "history.jsonl"
    weights = renders(rendered)[1].weights
    file.write_text(file.read_text().replace(weights, "0" * 64))
    done = blockvid("history", rendered, "--rerender", "1")
    assert done.code == 0 and "weights of 'random' have changed" in done.err


def test_a_history_that_cannot_be_written_costs_no_film(story, model, blockvid):
    (story.with_suffix(".blockvid") / "history.jsonl").mkdir(parents=True)
    done = blockvid("render", story, "--model", model)
    assert done.code == 0 and "missing in the history" in done.err and story.with_suffix(".mp4").exists()


def test_captions_are_kept_as_what_they_are(tmp_path, model, blockvid):
    source = tmp_path / "talk.srt"
    source.write_text("1\n00:00:00,000 --> 00:00:02,000\nA red boat.\n")
    assert blockvid("render", source, "--model", model).code == 0
    text = source.read_bytes()
    source.write_bytes(text + b"\n")
    done = blockvid("history", source, "--rerender", "1", "--json")
    assert done.code == 0 and Path(json.loads(done.out)["film"]).name == "talk-film-1-film.mp4"
    assert (tmp_path / "talk-film-1.srt").read_bytes() == text


def test_text_is_kept_under_its_hash(tmp_path):
    names = {save_storyboard_text(tmp_path, text, ".yaml") for text in (b"a", b"b", b"a")}
    assert len(names) == 2 == len(list((tmp_path / "history").iterdir()))


def test_moving_a_folder_keeps_its_history(rendered, model, blockvid, tmp_path):
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for path in (rendered, rendered.with_suffix(".blockvid")):
        shutil.move(path, moved / path.name)
    assert blockvid("history", moved / "story.yaml", "--rerender", "1").code == 0
    assert (moved / "story-1.mp4").exists() and not (tmp_path / "story-1.yaml").exists()
    assert prepare(RenderRequest(moved / "story-1.yaml", model=str(model))).plan.frames == 60
