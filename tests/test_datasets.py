"""Dataset folders: reading, importing, checking, caching, windows, and a whole small post-training."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from blockvid_cli.datasets.cache import LatentCache, PromptCache, video_format
from blockvid_cli.datasets.checking import check_dataset
from blockvid_cli.datasets.demo import write_demo
from blockvid_cli.datasets.films import WindowedFilms, window
from blockvid_cli.datasets.folder import (
    DatasetSettings,
    VideoRow,
    read_dataset,
    write_dataset,
)
from blockvid_cli.datasets.importing import import_folder
from blockvid_cli.datasets.preparation import estimate, prepare_dataset, rewrite
from blockvid_cli.errors import BlockvidError, UsageError
from blockvid_cli.models.find import find_model
from blockvid_cli.models.loading import load_vae
from blockvid_cli.training.finetune import FinetuneRequest, finetune, prepare
from blockvid_cli.video.mux import write_film
from blockvid_cli.video.reader import frames_at

CARD = find_model("storybook")


def clip(file: Path, seconds: float = 2.0, fps: float = 12, size: tuple[int, int] = (160, 96)) -> Path:
    """A film that becomes brighter."""
    count = round(seconds * fps)
    file.parent.mkdir(parents=True, exist_ok=True)
    frames = (np.full((size[1], size[0], 3), 250 * n // count, np.uint8) for n in range(count))
    write_film(frames, file, fps=fps, size=size, frames_total=count)
    file.with_suffix(".srt").unlink(missing_ok=True)
    return file


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data") / "demo"
    write_demo(root, videos=2, held_out=1, seconds=6, notify=lambda text: None)
    prepare_dataset(read_dataset(root), CARD, "cpu", lambda what, done, total: None)
    return root


def span(start: float, end: float) -> list[dict[str, object]]:
    return [{"start": start, "end": end, "caption": "x"}]


def row(**changes: object) -> VideoRow:
    return VideoRow.model_validate({"file_name": "videos/a.mp4", "caption": "a cat", **changes})


def test_a_dataset_reads_back_as_it_was_written(tmp_path):
    rows = [row(duration=2.0), row(file_name="videos/b.mp4", chunks=[{"start": 0, "end": 1.5, "caption": "a dog"}])]
    settings = DatasetSettings(title="cats", size=(160, 96), fps=12)
    write_dataset(tmp_path / "d", settings, {"train": rows, "eval": rows[:1]})
    read = read_dataset(tmp_path / "d")
    assert read.settings == settings and list(read.train) == rows and list(read.held_out) == rows[:1]
    assert read.train.find("b") == rows[1]
    with (tmp_path / "d/train/metadata.jsonl").open("a") as file:
        file.write("\n\n" + json.dumps({"file_name": "c.mp4", "caption": "x", "extra": [1]}) + "\n")
    assert [r.name for r in read_dataset(tmp_path / "d").train] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"file_name": "../a.mp4", "caption": "x"}', "row 1: file_name: a video lies below"),
        ('{"file_name": "/a.mp4", "caption": "x"}', "file_name"),
        ('{"file_name": "a.mp4"}', "a video needs a caption"),
        ('{"caption": "x"}', "file_name: Field required"),
        ('{"file_name": "a.mp4", "caption": "x", "duration": -1}', "duration"),
        ('{"file_name": "a.mp4", "caption": "x", "duration": 1e999}', "no finite number"),
        ('{"file_name": "a.mp4", "chunks": [{"start": 0, "caption": "x"}]}', "chunks.1.end"),
        ('{"file_name": "a.mp4", "chunks": [{"start": 0, "end": 1, "caption": ""}]}', "blank"),
        ("nonsense", "no JSON object"),
        ("[" * 500 + "]" * 500, "nests too deeply"),
    ],
)
def test_a_wrong_row_is_one_sentence_with_its_number(tmp_path, line, words):
    (tmp_path / "train").mkdir()
    (tmp_path / "train/metadata.jsonl").write_text(line + "\n")
    with pytest.raises(UsageError, match=r"metadata.jsonl: row 1:") as error:
        list(read_dataset(tmp_path).train)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_a_folder_that_is_no_dataset_says_which_command_makes_one(tmp_path):
    with pytest.raises(UsageError, match="blockvid data demo"):
        read_dataset(tmp_path / "absent")
    with pytest.raises(UsageError, match="blockvid data import"):
        read_dataset(tmp_path)
    (tmp_path / "train").mkdir()
    (tmp_path / "train/metadata.jsonl").write_text('{"file_name": "a.mp4", "caption": "x"}\n')
    (tmp_path / "dataset.yaml").write_text("colour: red\n")
    with pytest.raises(UsageError, match=r"dataset.yaml: colour"):
        read_dataset(tmp_path)


def test_frames_come_at_a_constant_rate_and_cover_the_size(tmp_path):
    film = clip(tmp_path / "a.mp4", seconds=2, fps=24, size=(64, 32))
    frames = list(frames_at(film, 12, (32, 32)))
    assert len(frames) == 24 and frames[0].shape == (32, 32, 3)
    assert frames[23].mean() > frames[12].mean() > frames[1].mean()
    assert len(list(frames_at(film, 48, (32, 32)))) == 96


def test_latents_are_those_of_the_vae_and_a_replaced_video_is_encoded_again(tmp_path):
    root, vae = tmp_path / "d", load_vae(CARD, "cpu")
    clip(root / "train/videos/a.mp4", seconds=4)
    write_dataset(root, DatasetSettings(), {"train": [row(duration=4.0)]})
    dataset = read_dataset(root)
    cache = LatentCache(root, CARD, video_format(dataset.settings, CARD))
    assert cache.missing(dataset.train) == [0]
    with pytest.raises(BlockvidError, match="blockvid data prepare"):
        cache.read(dataset.train, dataset.train[0])
    cache.fill(dataset.train, vae, lambda done, total: None)
    assert cache.missing(dataset.train) == []
    latents = cache.read(dataset.train, dataset.train[0])
    frames = np.stack(list(frames_at(root / "train/videos/a.mp4", 12, (160, 96))))[:45]
    whole = vae.encode(torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255)
    assert latents.shape == whole.shape == (12, 32, 12, 20)
    assert torch.allclose(latents.float(), whole, atol=1e-2)
    assert cache.frames(dataset.train, dataset.train[0]) == 12
    clip(root / "train/videos/a.mp4", seconds=3)
    assert cache.missing(dataset.train) == [0]


def test_a_prepared_demo_has_windows_of_one_layout(demo):
    dataset = read_dataset(demo)
    form = video_format(dataset.settings, CARD)
    latents, prompts = LatentCache(demo, CARD, form), PromptCache(demo, CARD)
    assert estimate(dataset, CARD).videos == 0
    films = WindowedFilms(dataset.train, CARD, latents, prompts, rewrite, chunks=2, size=1, seed=3)
    assert films.steps == 2
    batch = films.batch(5)
    again = films.batch(5)
    assert torch.equal(batch.latents, again.latents) and batch.plans == again.plans
    assert len(batch.plan.chunks) == 2 and batch.latents.shape[1] == 3 * len(batch.plan.blocks)
    embedding = batch.prompts(batch.plan.blocks[:1])
    assert embedding.shape == (1, CARD.text.tokens, 384) and embedding.abs().sum() > 0
    whole = WindowedFilms(dataset.train, CARD, latents, prompts, rewrite, chunks=50)
    assert {len(plan.chunks) for _, plan in whole.films} >= {len(whole.batch(step).plan.chunks) for step in range(2)}


def test_every_rank_gets_other_films_and_all_of_an_epoch_are_seen(demo):
    dataset = read_dataset(demo)
    latents, prompts = LatentCache(demo, CARD, video_format(dataset.settings, CARD)), PromptCache(demo, CARD)
    ranks = [
        WindowedFilms(dataset.train, CARD, latents, prompts, rewrite, chunks=1, rank=rank, ranks=2) for rank in (0, 1)
    ]
    assert ranks[0].steps == ranks[1].steps
    seen = {film for step in range(ranks[0].steps) for films in ranks for film in films._epoch(0)[step]}
    assert {film for film, _ in seen} == {0, 1}


def test_a_window_is_a_film_of_its_own(demo):
    dataset = read_dataset(demo)
    latents, prompts = LatentCache(demo, CARD, video_format(dataset.settings, CARD)), PromptCache(demo, CARD)
    plan = WindowedFilms(dataset.train, CARD, latents, prompts, rewrite).films[0][1]
    part = window(plan, 1, 1)
    assert part.blocks[0].number == 0 and part.chunks[0].number == 1 and part.chunks[0].shot == 1
    assert part.chunks[0].prompt == plan.chunks[1].prompt
    assert window(plan, 0, len(plan.chunks)).blocks == plan.blocks


def test_captions_beside_clips_are_imported(tmp_path):
    raw = tmp_path / "raw"
    clip(raw / "a.mp4").with_suffix(".txt").write_text("a cat walks\n")
    clip(raw / "b.mp4").with_suffix(".txt").write_text("a cat (0s - 1s)\na dog (1s - 2s)\n")
    clip(raw / "c.mp4").with_suffix(".srt").write_text("1\n00:00:00,000 --> 00:00:02,000\na fox\n")
    clip(raw / "d.mp4")
    count, left_out = import_folder(raw, tmp_path / "d", 0.0, lambda text: None, DatasetSettings())
    assert count == 3 and len(left_out) == 1 and "d.mp4" in left_out[0]
    rows = list(read_dataset(tmp_path / "d").train)
    assert [[span.caption for span in r.chunks] for r in rows] == [["a cat walks"], ["a cat", "a dog"], ["a fox"]]
    assert rows[0].chunks[0].end == pytest.approx(2.0)
    assert not [p for p in check_dataset(read_dataset(tmp_path / "d"), CARD) if p.fatal]


def test_shots_of_a_story_become_one_video_with_cuts(tmp_path):
    raw = tmp_path / "raw"
    for number in (1, 2):
        clip(raw / f"video/s1/00000{number}.mp4", seconds=number)
        (raw / "caption/s1").mkdir(parents=True, exist_ok=True)
        (raw / f"caption/s1/00000{number}.json").write_text(json.dumps({"caption": f"shot {number}"}))
    count, _ = import_folder(raw, tmp_path / "d", 0.0, lambda text: None, DatasetSettings())
    (only,) = read_dataset(tmp_path / "d").train
    assert count == 1 and [(s.start, s.end, s.caption, s.cut) for s in only.chunks] == [
        (0.0, 1.0, "shot 1", False),
        (1.0, 3.0, "shot 2", True),
    ]


def test_tables_are_imported_and_paths_outside_are_left_out(tmp_path):
    raw = tmp_path / "raw"
    clip(raw / "a.mp4")
    clip(tmp_path / "outside.mp4")
    (raw / "metadata.csv").write_text("video,prompt\na.mp4,a cat\n../outside.mp4,a thief\n")
    count, left_out = import_folder(raw, tmp_path / "d", 0.0, lambda text: None, DatasetSettings())
    assert count == 1 and "row 2 names no video below" in left_out[0]


@pytest.mark.parametrize(
    ("change", "kind", "fatal"),
    [
        ({"chunks": [*span(0, 1), *span(0.5, 2)]}, "overlap", True),
        ({"chunks": [*span(0, 1), *span(1.5, 2)]}, "gap", True),
        ({"chunks": [{"start": 1, "end": 2, "caption": "x"}]}, "gap", True),
        ({"chunks": [{"start": 0, "end": 9, "caption": "x"}]}, "beyond", False),
        ({"chunks": [{"start": 1, "end": 1, "caption": "x"}]}, "order", True),
        ({"chunks": [{"start": 0, "end": 2, "caption": "x " * 400}]}, "long-caption", False),
        ({"duration": 9.0}, "duration", False),
        ({"file_name": "videos/none.mp4", "duration": 1.0}, "missing", True),
        ({"file_name": "videos/text.mp4", "duration": 1.0}, "undecodable", True),
        ({"file_name": "videos/short.mp4", "duration": 0.3}, "short", True),
        ({"file_name": "videos/copy.mp4", "duration": 2.0}, "duplicate", False),
    ],
)
def test_each_kind_of_problem_is_found(tmp_path, change, kind, fatal):
    from blockvid_cli.models.loading import load_text_encoder

    videos = tmp_path / "train/videos"
    clip(videos / "a.mp4")
    clip(videos / "short.mp4", seconds=0.3)
    (videos / "copy.mp4").write_bytes((videos / "a.mp4").read_bytes())
    (videos / "text.mp4").write_text("no film")
    write_dataset(tmp_path, DatasetSettings(), {"train": [row(duration=2.0), row(**change)]})
    problems = list(check_dataset(read_dataset(tmp_path), CARD, load_text_encoder(CARD)))
    assert (kind, fatal) in {(p.kind, p.fatal) for p in problems}
    assert all(p.sentence.endswith((".", "?")) and "\n" not in p.sentence for p in problems)


def test_a_dataset_that_is_not_prepared_names_the_command(tmp_path):
    write_demo(tmp_path / "d", videos=1, held_out=0, seconds=2, notify=lambda text: None)
    with pytest.raises(UsageError, match="blockvid data prepare"):
        prepare(FinetuneRequest(tmp_path / "d", run=tmp_path / "run"))


def test_a_small_post_training_writes_a_model_that_can_be_found(demo, tmp_path):
    changes = {"steps": 2, "chunks": 2}
    request = FinetuneRequest(demo, run=tmp_path / "run", changes=changes, device="cpu")
    folder = finetune(prepare(request))
    card = find_model(str(folder))
    stages = yaml.safe_load((folder / "card.yaml").read_text())["provenance"]["stages"]
    assert [stage["steps"] for stage in stages] == [2, 2]
    assert card.text == CARD.text and card.recipe == CARD.recipe
    with pytest.raises(UsageError, match="--resume"):
        prepare(request)
    assert prepare(replace(request, resume=True))
    with pytest.raises(UsageError, match="other seed"):
        prepare(replace(request, resume=True, seed=1))
