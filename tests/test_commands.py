"""Commands as a person runs them: help, results, events, exit codes; never a traceback."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from blockvid_cli.commands.app import app
from blockvid_cli.errors import MissingModelError
from blockvid_cli.models.card import bundled_models, find_card, packaged_folder, read_card
from blockvid_cli.models.hub import local_path
from blockvid_cli.storyboard import storyboard
from blockvid_cli.storyboard.parse import read_content
from blockvid_cli.storyboard.plan import make_plan
from blockvid_cli.storyboard.storyboard import read_storyboard

STORYBOARDS = sorted(packaged_folder("storyboards").glob("*.yaml"))


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "blockvid_cli", *arguments], capture_output=True, text=True)


def test_render_reports_events(story, model):
    done = run("render", str(story), "--model", str(model), "--json", "--progress", "json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["frames"] == 60 and result["seconds"] == 5.0 and result["seed"] == 3
    assert {"text", "load", "denoise", "decode", "mux"} <= set(result["phases"])
    events = [json.loads(line) for line in done.stderr.splitlines()]
    assert [e["phase"] for e in events[:2]] == ["text", "load"]
    last = events[-1]
    assert last["done"] == 1.0 and last["chunk"] == last["chunks"] == 3 and last["speed"] > 0 and last["eta"] == 0
    shares = [e["done"] for e in events if "done" in e]
    assert shares == sorted(shares) and len(shares) == 18


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["render", "missing.yaml"], 2, "missing.yaml"),
        (["render", "{story}", "--model", "storybok"], 3, "storybook"),
        (["render", "{story}", "--kv-cache", "{name: window, snk: 3}"], 2, "sink"),
        (["render", "{story}", "--kv-cache", "["], 2, "--kv-cache"),
        (["render", "{story}", "--kv-cache", "{" * 5000], 2, "--kv-cache"),
        (["render", "{story}", "--set", "chunks.9.seed=7"], 2, "chunks"),
        (["render", "{story}", "--steps", "0"], 2, "steps"),
        (["render", "{story}", "--memory", "full"], 2, "No such option: --memory"),
        (["render", "{story}", "--preset", "9gb"], 2, "Did you mean '8gb'?"),
        (
            ["render", "{story}", "--set", "recipe.memory=full"],
            2,
            "blockvid: --set recipe.memory=full: recipe: there is no",
        ),
        (["render", "{story}", "--set", "recipe.steps=[1, 2]"], 2, "recipe.steps"),
        (["storyboard", "check", "{story}", "--size", "100x100"], 2, "trained for 160x96"),
        (["storyboard", "check", "{story}", "--size", "320x192"], 2, "--untrained-size"),
        (["preview", "{story}", "--size", "1920x1088"], 2, "trained for 160x96"),
        (["render", "{story}", "--set", "size=320x192"], 2, "untrained_size: true"),
        (["bench", "--model", "nowhere"], 3, "nowhere"),
        (["bench", "--model", "nowhere", "--quality"], 3, "nowhere"),
        (["bench", "--films", "3"], 2, "--quality"),
        (["bench", "--quality", "--size", "320x192"], 2, "--size"),
        (["train", "storybook", "--card", "nowhere"], 3, "nowhere"),
        (["train", "storybook", "--objective", "teacher-forcin"], 2, "teacher-forcing"),
        (["rendr"], 2, "rendr"),
    ],
)
def test_mistakes_get_a_sentence_and_the_right_exit_code(story, arguments, code, said):
    done = run(*(a.format(story=story) if a == "{story}" else a for a in arguments))
    assert done.returncode == code and said in done.stderr and "Traceback" not in done.stderr + done.stdout


SCHEDULE = "{name: matrix, window: 2, lag: 1}"  # six steps need six blocks under way, the window holds two


@pytest.mark.parametrize(
    ("text", "location"),
    [
        (f"title: a\nrecipe:\n  steps: 6\n  schedule: {SCHEDULE}\nchunks: [A swan]", ":2"),
        (f"chunks:\n- A swan\n- caption: A hen\n  recipe: {{steps: 6, schedule: {SCHEDULE}}}", ":3"),
    ],
)
def test_a_recipe_that_does_not_work_is_refused_with_file_and_line(tmp_path, model, text, location):
    path = tmp_path / "story.yaml"
    path.write_text(text)
    done = run("render", str(path), "--model", str(model))
    assert done.returncode == 2 and done.stderr.startswith(f"blockvid: {path}{location}: ")
    assert "schedule" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize("command", [["storyboard", "check"], ["storyboard", "diff"], ["takes", "list"], ["render"]])
def test_a_storyboard_is_read_once(story, model, monkeypatch, command):
    paths = []
    monkeypatch.setattr(storyboard, "read_content", lambda path: paths.append(path) or read_content(path))
    if command[0] != "takes":
        command = [*command, "--model", str(model)]
    else:
        story.write_text(f"model: {model}\n{story.read_text()}")
        command = [*command, "--allow-outside"]
    assert CliRunner().invoke(app, [*command, str(story)]).exit_code == 0
    assert paths == [story]


def test_every_help_ends_with_an_example_that_names_a_real_command():
    runner = CliRunner()
    for command in ([], ["render"], ["bench"], ["storyboard"], ["storyboard", "check"], ["train", "storybook"]):
        done = runner.invoke(app, [*command, "--help"])
        assert done.exit_code == 0
        example = re.search(r"Example: blockvid (\w+)", done.output)
        assert example and example[1] in ("render", "bench", "storyboard", "train"), command


def test_check_says_as_what_free_captions_are_drawn(story):
    story.write_text(
        "version: 1\nchunks: [Two explorers hike along a golden ridge at dawn., They wait for the stars.]\n"
    )
    done = CliRunner().invoke(app, ["storyboard", "check", str(story)])
    assert done.exit_code == 0
    assert "-> A yellow person moves right in the desert at sunset." in " ".join(done.output.split())
    plan = json.loads(CliRunner().invoke(app, ["storyboard", "check", str(story), "--json"]).output)
    assert [chunk["prompt"] for chunk in plan["chunks"]][1] == "The person rests in the desert at night."


def test_quality_of_a_model_without_ground_truth_is_refused(model):
    done = run("bench", "--model", str(model), "--quality")
    assert done.returncode == 2 and "has no probe" in done.stderr and "Traceback" not in done.stderr


def test_version():
    assert re.fullmatch(r"blockvid \d+\.\d+\.\d+\n", CliRunner().invoke(app, ["--version"]).output)


def test_bench_measures_in_one_run(model):
    done = CliRunner().invoke(app, ["bench", "--model", str(model), "--seconds", "8", "--json"])
    assert done.exit_code == 0, done.output
    figures = json.loads(done.stdout)
    assert {"text", "denoise", "cache update", "decode", "mux"} <= set(figures["phases"])
    assert figures["blocks"] == 9 and figures["film_seconds"] == 8.0 and figures["peak_memory_mib"] > 50
    assert 0 < figures["denoiser_share"] < 1.5 and figures["denoiser_gflops"] > 0


def test_bench_counts_attention_by_hand():
    """4·B·H·T·S·D for the two products of a fused attention, on the CPU too."""
    from torch.utils.flop_counter import FlopCounterMode

    from blockvid_cli.evaluation.bench.speed import CPU_ATTENTION
    from blockvid_cli.models.wan.attention import attend

    query, key = torch.randn(1, 6, 2, 8), torch.randn(1, 10, 2, 8)
    with torch.inference_mode(), FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION) as counter:
        attend(query, key, key)
    assert counter.get_total_flops() == 4 * 1 * 2 * 6 * 10 * 8


@pytest.mark.parametrize("file", STORYBOARDS, ids=lambda file: file.stem)
def test_the_examples_are_storyboards_the_bundled_model_can_draw(file):
    board = read_storyboard(file)
    plan = make_plan(board, find_card("storybook"), seed=board.seed)
    assert plan.frames == round(float(board.seconds) * plan.fps)


def test_the_swan_is_a_minute_of_fifteen_captions():
    board = read_storyboard(packaged_folder("storyboards") / "swan.yaml")
    assert len(board.chunks) == 15 and board.seconds == 60


def test_bundled_cards_are_whole():
    assert "storybook" in bundled_models()
    card = find_card("storybook")
    assert all(local_path(card, part).is_file() for part in card.files)
    shipped_bytes = sum(local_path(card, part).stat().st_size for part in card.files)
    assert shipped_bytes < 40e6
    assert {"data", "steps", "compute", "seed"} <= set(card.provenance) and card.limits


@pytest.mark.parametrize(
    ("text", "said"), [("[", "YAML"), ("name: x\nsise: 3\n", "sise.*size"), ("just words", "mapping"), ("", "mapping")]
)
def test_a_wrong_card_gets_a_sentence(tmp_path, text, said):
    file = tmp_path / "card.yaml"
    file.write_text(text)
    with pytest.raises(MissingModelError, match=said):
        read_card(file)


def test_an_unknown_model_names_the_nearest(tmp_path: Path):
    with pytest.raises(MissingModelError, match="Did you mean 'storybook'"):
        find_card("story-book")
