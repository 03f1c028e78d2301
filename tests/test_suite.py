"""A suite's folder, its split, what its results say together; and scores that other programs wrote."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from blockvid_cli.errors import UsageError
from blockvid_cli.evaluation.imports import merge_results, read_imports
from blockvid_cli.evaluation.suite import (
    Item,
    column_values,
    drift_changes,
    find_items,
    mean_scores,
    select_split,
    severity_rows,
    spearman,
    split,
)

WORDS = some.lists(some.text(min_size=1, max_size=8), unique=True, min_size=1, max_size=60)


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    return folder


def found(folder: Path) -> dict[str, tuple[str, str | None]]:
    def near(path):
        return path and path.relative_to(folder).as_posix()

    return {item.id: (near(item.video), near(item.storyboard)) for item in find_items(folder)}


def bench(folder: Path, films, version=1) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "bench.json").write_text(json.dumps({"version": version, "films": films}), encoding="utf-8")
    return folder


def result(film="a.mp4", vde=None, **values):
    return {
        "film": film,
        "metrics": {name: {"value": value, "reason": None, "higher": True} for name, value in values.items()},
        "vde": {"paper": {"subject": {"value": vde, "normalised": vde and vde / 45, "reason": None}}} if vde else {},
        "adherence": None,
    }


# folders


def test_films_and_storyboards_share_names(tmp_path):
    touch(
        tmp_path, "a.mp4", "a.yaml", "b.c.MKV", "b.c.srt", "d.webm", "e.yaml", ".f.mp4", "notes.txt", "a.blockvid/a.mp4"
    )
    assert found(tmp_path) == {"a": ("a.mp4", "a.yaml"), "b.c": ("b.c.MKV", "b.c.srt"), "d": ("d.webm", None)}


@pytest.mark.parametrize("texts", ["captions", "storyboards", "prompts", "Captions", "videos", "."])
@pytest.mark.parametrize("suffix", ["yaml", "yml", "json", "srt", "vtt", "txt"])
def test_they_may_lie_in_folders(tmp_path, texts, suffix):
    touch(tmp_path, "videos/a.mp4", f"{texts}/a.{suffix}")
    assert found(tmp_path) == {"a": ("videos/a.mp4", (Path(texts) / f"a.{suffix}").as_posix())}


def test_of_several_storyboards_the_fullest_is_taken_then_the_nearest(tmp_path):
    touch(
        tmp_path, "videos/a.mp4", "videos/a.srt", "captions/a.json", "a.yaml", "videos/b.mp4", "videos/b.json", "b.json"
    )
    assert found(tmp_path) == {"a": ("videos/a.mp4", "a.yaml"), "b": ("videos/b.mp4", "videos/b.json")}


def test_lv_bench_has_folders_in_its_folder(tmp_path):
    touch(tmp_path, "Video_datasets/GOT/a.mp4", "Video_datasets/GOT/a.json", "Video_datasets/Dance/a.mp4", "vde.py")
    touch(tmp_path, "Video_datasets/Dance/b.mp4", "captions/b.json", "vbench/c.mp4")
    assert found(tmp_path) == {
        "GOT/a": ("Video_datasets/GOT/a.mp4", "Video_datasets/GOT/a.json"),
        "Dance/a": ("Video_datasets/Dance/a.mp4", "Video_datasets/GOT/a.json"),
        "Dance/b": ("Video_datasets/Dance/b.mp4", "captions/b.json"),
    }
    touch(tmp_path, "captions/a.json")  # now none of the two is sure to be meant for Dance/a
    assert found(tmp_path)["Dance/a"] == ("Video_datasets/Dance/a.mp4", None)


def test_models_in_folders_share_storyboards(tmp_path):
    touch(tmp_path, "videos/ours/a.mp4", "videos/theirs/a.mp4", "storyboards/a.yaml")
    assert {item.storyboard for item in find_items(tmp_path)} == {tmp_path / "storyboards" / "a.yaml"}


def test_a_name_that_is_not_utf8_has_an_id(tmp_path):
    touch(tmp_path, os.fsdecode(b"a\xff.mp4"))
    assert [item.id for item in find_items(tmp_path)] == ["a?"]


def test_bench_json_tells_all(tmp_path):
    film = {"id": "a-blur-2", "video": "videos/x.mp4", "storyboard": "a.yaml", "story": "a", "drift": "blur"}
    film |= {"severity": 0.5, "level": 2, "unit": "px", "later": "unknown"}
    (item,) = find_items(bench(tmp_path, [film]))
    assert item == Item(
        id="a-blur-2",
        video=tmp_path / "videos" / "x.mp4",
        storyboard=tmp_path / "a.yaml",
        story="a",
        drift="blur",
        severity=0.5,
        level=2,
        unit="px",
    )
    assert item.kind == "blur"
    (clean,) = find_items(bench(tmp_path, [film | {"severity": 0, "storyboard": None}]))
    assert (clean.kind, clean.storyboard) == (None, None)


FILM = {"id": "a", "video": "a.mp4"}


@pytest.mark.parametrize(
    ("films", "said"),
    [
        ([], "films: List should have at least 1 item"),
        ("a.mp4", "films: Input should be a valid array"),
        ([{"id": "a"}], "films.0.video: Field required"),
        ([FILM, FILM], "are both called 'a'"),
        ([FILM | {"video": "../a.mp4"}], "'../a.mp4' lies outside"),
        ([FILM | {"storyboard": "/a.yaml"}], "'/a.yaml' lies outside"),
        ([FILM | {"drift": "blur"}], "'a' has a drift, but not how severe"),
        ([FILM | {"severity": -1}], "films.0.severity: Input should be greater"),
        ([FILM | {"severity": math.nan}], "films.0.severity: Input should be a finite number"),
    ],
)
def test_a_wrong_bench_json_is_a_sentence(tmp_path, films, said):
    with pytest.raises(UsageError, match="bench") as error:
        find_items(bench(tmp_path, films))
    assert said in str(error.value) and "\n" not in str(error.value)


def test_other_versions_and_other_things_are_refused(tmp_path):
    with pytest.raises(UsageError, match="version"):
        find_items(bench(tmp_path, [FILM], version=2))
    (tmp_path / "bench.json").write_text("{")
    with pytest.raises(UsageError, match="Invalid JSON"):
        find_items(tmp_path)


def test_a_folder_that_is_none_is_a_sentence(tmp_path):
    for folder in (touch(tmp_path / "empty", "a.yaml"), tmp_path / "absent", touch(tmp_path, "file") / "file"):
        with pytest.raises(UsageError, match="Expected: films"):
            find_items(folder)
    with pytest.raises(UsageError, match="both called 'a'"):
        find_items(touch(tmp_path, "a.mp4", "videos/a.mp4"))


# the split


@given(WORDS, some.integers(0, 3))
def test_a_split_is_a_fifth_and_knows_no_order(ids, seed):
    train, test = split(ids, seed)
    assert sorted(train + test) == sorted(ids) and len(test) == max(1, round(len(ids) / 5))
    assert [set(part) for part in split(ids[::-1], seed)] == [set(train), set(test)]


@given(WORDS)
def test_one_more_id_moves_at_most_one_other(ids):
    before, after = (set(split(some_ids)[1]) for some_ids in (ids[1:], ids))
    assert len((before ^ after) - {ids[0]}) <= 1


def test_a_thousand_are_800_and_200_for_ever():
    train, test = split([f"{number:04}" for number in range(1000)])
    assert (len(train), len(test)) == (800, 200)
    assert test[:5] == ["0002", "0004", "0015", "0019", "0021"]
    assert split([]) == ([], [])


def test_films_of_a_story_stay_together():
    items = [Item(id=f"{story}{film}", video="a.mp4", story=story) for story in "abcdefghij" for film in range(3)]
    parts = {which: select_split(items, which) for which in ("train", "test", "all")}
    assert [len(parts[which]) for which in parts] == [24, 6, 30]
    assert len({item.story for item in parts["test"]}) == 2
    with pytest.raises(UsageError, match="Did you mean 'test'"):
        select_split(items, "tset")


# means


def test_means_leave_out_what_has_no_value():
    results = [
        result(sharp=0.5, vde=9),
        result(sharp=None),
        result(sharp=0.7, vde=math.inf),
        {"film": "x", "error": "no"},
    ]
    told = mean_scores(results)
    assert (told["films"], told["errors"]) == (4, 1) and "drifts" not in told
    assert told["columns"]["sharp"] == {"mean": pytest.approx(0.6), "n": 2, "total": 4, "share": "2/4"}
    drift = {"mean": 9, "n": 1, "total": 4, "share": "1/4", "normalised": 0.2}
    assert told["columns"]["vde.paper.subject"] == drift


def test_means_of_nothing_are_nothing():
    assert mean_scores([]) == {"films": 0, "errors": 0, "columns": {}}
    assert mean_scores([result(sharp=None)])["columns"]["sharp"]["mean"] is None
    assert column_values({"film": "a", "error": "no"}) == {}


def test_means_by_kind_of_drift():
    items = [
        Item(id=name, video="a.mp4", drift=name, severity=n) for n, name in enumerate(["none", "blur", "cut", "blur"])
    ]
    told = mean_scores([result(sharp=value) for value in (1, 0.2, 0.9, 0.4)], items)["drifts"]
    assert {kind: part["columns"]["sharp"]["mean"] for kind, part in told.items()} == {
        "clean": 1,
        "blur": pytest.approx(0.3),
        "cut": 0.9,
    }
    adherent = result() | {"adherence": {"chunks": [], "value": 0.3}}
    assert mean_scores([adherent])["columns"]["adherence"]["mean"] == 0.3


# severities


def graded(values, vde=None, story="a", drift="blur"):
    """A clean film and ever worse ones, out of order, with their results."""
    vde = vde or [None] * len(values)
    rows = [
        (
            Item(
                id=f"{story}{n}", video="a.mp4", story=story, drift=drift if n else None, severity=n / 4 if n else None
            ),
            result(imaging_quality_builtin=value, vde=error),
        )
        for n, (value, error) in enumerate(zip(values, vde, strict=True))
    ]
    return [list(column) for column in zip(*rows[::-1], strict=True)]


def test_a_score_that_follows_the_drift_is_ordered():
    quality, drift = severity_rows(*graded([0.8, 0.7, 0.6, 0.4], [1, 2, 3, 9]))
    assert quality["column"] == "imaging_quality_builtin" and drift["column"] == "vde.paper.subject"
    assert quality["severities"] == [0, 0.25, 0.5, 0.75] and quality["values"] == [0.8, 0.7, 0.6, 0.4]
    assert (quality["ordered"], quality["rises"], quality["meant"]) == (True, False, True)
    assert quality["spearman"] == pytest.approx(-1) and quality["change"] == pytest.approx(-0.5)
    assert (drift["ordered"], drift["rises"], drift["meant"]) == (True, True, False)
    assert drift["spearman"] == pytest.approx(1)
    assert drift["change"] == pytest.approx((9 - 1) / 45)  # by weight, as the values are


@pytest.mark.parametrize(
    ("values", "ordered", "change"),
    [([0.8, 0.8, 0.4], False, -0.5), ([0.8, 0.4, 0.6], False, -0.25), ([0.8, None, 0.4], None, -0.5)],
)
def test_a_score_that_does_not_follow_is_not(values, ordered, change):
    (row,) = severity_rows(*graded(values))
    assert row["ordered"] is ordered and row["change"] == pytest.approx(change)


def test_what_cannot_be_compared_is_not():
    for values in ([None, 0.5, 0.4], [0.5, 0.5, None], [0.0, 0.5, 0.4]):
        assert severity_rows(*graded(values))[0]["change"] is None
    items, results = graded([0.8, 0.7, 0.6])
    (row,) = severity_rows(items[:2], results[:2])  # no clean film
    assert (row["severities"], row["change"], row["ordered"]) == ([0.25, 0.5], None, True)
    assert severity_rows(items[2:], results[2:]) == []


def test_a_measure_where_less_is_better_should_rise():
    items, results = graded([0.1, 0.2, 0.3])
    for each in results:
        each["metrics"]["imaging_quality_builtin"]["higher"] = False
    assert severity_rows(items, results)[0]["ordered"] is True


def test_an_error_leaves_a_hole_and_equal_severities_are_averaged():
    items, results = graded([0.8, 0.7, 0.6])
    assert severity_rows(items, [*results[:2], {"film": "a", "error": "no"}])[0]["values"] == [None, 0.7, 0.6]
    again = severity_rows([*items, items[0]], [*results, result(imaging_quality_builtin=0.4)])
    assert again[0]["values"] == [0.8, 0.7, pytest.approx(0.5)]


def test_changes_are_means_over_stories():
    groups = [graded([0.8, 0.6, 0.4]), graded([1, 0.5, 1], story="b"), graded([1, 0.4], story="b", drift="cut")]
    items, results = ([each for group in groups for each in group[part]] for part in (0, 1))
    table = drift_changes(severity_rows(items, results))
    blur, cut = (table[kind]["imaging_quality_builtin"] for kind in ("blur", "cut"))
    assert (blur["ordered"], blur["stories"], blur["meant"]) == (1, 2, True)
    assert blur["change"] == pytest.approx((-0.5 + 0) / 2) and blur["spearman"] == pytest.approx((-1 + 0) / 2)
    assert (cut["ordered"], cut["stories"], cut["meant"]) == (1, 1, False)
    assert json.loads(json.dumps(table)) == table


def test_rank_correlation():
    assert spearman([1, 2, 3, 4], [10, 20, 40, 30]) == pytest.approx(0.8)
    assert spearman([1, 2, 3], [5, 5, 9]) == pytest.approx(math.sqrt(0.75))
    assert spearman([1, 2], [3, 3]) is None and spearman([1], [2]) is None


@given(some.lists(some.floats(-9, 9), min_size=3, max_size=9, unique=True), some.integers(0, 99))
def test_rank_correlation_sees_order_alone(values, seed):
    other = np.random.default_rng(seed).permutation(len(values))
    rho = spearman(values, other)
    assert -1 - 1e-9 <= rho <= 1 + 1e-9
    assert spearman(np.exp(values) if len(set(np.exp(values))) == len(values) else values, other) == pytest.approx(rho)
    assert spearman([-value for value in values], other) == pytest.approx(-rho)


# what others wrote; the numbers of VBench-Long are recorded ones, from where tests/test_clips.py says

PIANO = "A classic photograph of an older man playing the piano. The man, with a -0"
SMOOTHNESS = {12: 0.9881837399534245, 9: 0.9902767292591894, 2: 0.9918073715330149, 0: 0.9904948185069968}
INSIDE = {12: 0.9901427270904664, 9: 0.9937835528004554, 0: 0.9944386837943908}
FUSED = {12: 0.9920429711582799, 9: 0.9938633840132745, 0: 0.9941909495102421}


def wrote(file: Path, content) -> Path:
    file.write_text(json.dumps(content), encoding="utf-8")
    return file


def vbench(folder: Path, name="run_eval_results.json", **dimensions) -> Path:
    """VBench's file, from what is said by dimension and path."""
    rows = {
        dimension: [{"video_path": path, "video_results": said} for path, said in films.items()]
        for dimension, films in dimensions.items()
    }
    return wrote(folder / name, {dimension: [0.5, some_rows] for dimension, some_rows in rows.items()})


def test_vbench_scores_become_results(tmp_path):
    film = {
        "subject_consistency": {"v/a.mp4": 0.9, "v/b.mp4": 0.8},
        "dynamic_degree": {"v/a.mp4": True, "v/b.mp4": False},
    }
    file = vbench(tmp_path, **film, imaging_quality={"v/a.mp4": 64.5, "C:\\v\\b.mp4": 0.5})
    read = read_imports([file])
    assert list(read) == ["a", "b"]
    assert read["a"]["settings"] == {"tier": "vbench", "imported": "run_eval_results.json"}
    assert read["a"]["metrics"]["subject_consistency"] == {
        "value": 0.9,
        "reason": None,
        "higher": True,
        "segments": None,
        "backend": "VBench, run_eval_results.json",
    }
    told = {film: {name: measure["value"] for name, measure in read[film]["metrics"].items()} for film in read}
    assert told["a"] == {"subject_consistency": 0.9, "dynamic_degree": 1, "imaging_quality": 0.645}
    assert told["b"] == {"subject_consistency": 0.8, "dynamic_degree": 0, "imaging_quality": 0.005}
    assert mean_scores(list(read.values()))["columns"]["dynamic_degree"]["mean"] == 0.5


def test_shares_are_not_divided_and_what_is_not_finite_is_said(tmp_path):
    quality = {"a.mp4": 0.61, "b.mp4": 0.7}
    read = read_imports([vbench(tmp_path, imaging_quality=quality, aesthetic_quality={"a.mp4": math.nan, "b.mp4": 1})])
    assert read["a"]["metrics"]["imaging_quality"]["value"] == 0.61
    assert read["a"]["metrics"]["aesthetic_quality"] | {"backend": ""} == {
        "value": None,
        "reason": "not_finite",
        "higher": True,
        "segments": None,
        "backend": "",
    }


def test_clips_of_vbench_long_come_in_order(tmp_path):
    clips = {f"/nfs/x/split_clip/{PIANO}/{PIANO}_{clip:03}.mp4": value for clip, value in SMOOTHNESS.items()}
    (film,) = read_imports([vbench(tmp_path, motion_smoothness=clips)]).values()
    assert film["film"] == PIANO and list(film["metrics"]) == ["motion_smoothness_long"]
    smooth = film["metrics"]["motion_smoothness_long"]
    assert smooth["segments"] == [SMOOTHNESS[clip] for clip in (0, 2, 9, 12)]
    assert smooth["value"] == pytest.approx(np.mean(list(SMOOTHNESS.values())))


def test_fused_consistency_keeps_what_is_inside_the_clips(tmp_path):
    rows = [
        {
            "video_path": f"/nfs/x/split_clip/{PIANO}/{PIANO}_{clip:03}.mp4/{PIANO}.mp4",
            "inclip_score": INSIDE[clip],
            "clip2clip_score": 0.9750996849366597,
            "mapped_clip2clip_score": 0.9939432152260935,
            "video_results": FUSED[clip],
        }
        for clip in FUSED
    ]
    (film,) = read_imports([wrote(tmp_path / "r.json", {"subject_consistency": [0.96, rows]})]).values()
    told = film["metrics"]["subject_consistency_long"]
    assert told["segments"] == [INSIDE[clip] for clip in (0, 9, 12)]
    assert told["value"] == pytest.approx(np.mean(list(FUSED.values())))


def test_scenes_flickering_and_means_of_vbench_long_are_understood(tmp_path):
    clips = {
        f"s/split_clip/a-Scene-{scene}/a-Scene-{scene}_{clip:03}.mp4": scene + clip / 10
        for scene, clip in [(1, 0), (0, 1)]
    }
    still = {"filtered_videos/filtered_clips/a_001.mp4": 0.5, "filtered_videos/filtered_clips/a_000.mp4": 0.75}
    file = vbench(tmp_path, aesthetic_quality=clips, temporal_flickering=still)
    content = json.loads(file.read_text())
    content["temporal_flickering"].append([{"video_path": "a.mp4", "video_results": 0.9}, {"long_video_cnt": 1}])
    (film,) = read_imports([wrote(file, content)]).values()
    assert film["film"] == "a"
    assert film["metrics"]["aesthetic_quality_long"]["segments"] == [0.1, 1]
    assert film["metrics"]["temporal_flickering_long"]["segments"] == [0.75, 0.5]


def test_drift_errors_of_lv_bench_become_the_reference_profile(tmp_path):
    wrote(tmp_path / "vde_clarity.json", {"v/a.mp4": "0.7551", "v/b.mp4": "inf"})
    wrote(tmp_path / "vde_subject.json", {"v/a.mp4": "0.0844"})
    vbench(tmp_path, motion_smoothness={"v/a.mp4": 0.9})
    read = read_imports([tmp_path])
    clarity = {
        "value": 0.7551,
        "reason": None,
        "normalised": 0.7551 / 45,
        "metric": "imaging_quality",
        "segments": None,
    }
    assert read["a"]["vde"]["reference"]["clarity"] == clarity
    assert read["b"]["vde"]["reference"]["clarity"] == clarity | {
        "value": None,
        "reason": "zero_reference",
        "normalised": None,
    }
    assert column_values(read["a"]) == {
        "motion_smoothness": 0.9,
        "vde.reference.clarity": 0.7551,
        "vde.reference.subject": 0.0844,
    }
    assert read["a"]["settings"]["imported"] == "run_eval_results.json, vde_clarity.json, vde_subject.json"


ROW = {"video_path": "a.mp4", "video_results": 0.9}


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("r.json", [], "Input should be an object"),
        ("r.json", {}, "no film is in this file"),
        ("r.json", {"d": 0.5}, "d: this should be a list of a mean and of films"),
        ("r.json", {"d": [0.5, []]}, "no film is in this file"),
        ("r.json", {"temporal_quality": [0.8, {"d": [0.9, [ROW]]}]}, "temporal_quality: Input should be a valid"),
        ("r.json", {"d": [0.5, [{"video_path": "a.mp4"}]]}, "d.0.video_results: Field required"),
        ("r.json", {"d": [0.5, [ROW | {"video_results": "good"}]]}, "d.0.video_results"),
        ("r.json", {"d": [0.5, [ROW, ROW | {"video_path": "b/a.mp4"}]]}, "speaks of 'a' twice"),
        ("vde_clarity.json", {"a.mp4": "None"}, "a.mp4: Input should be a valid number"),
        ("vde_clarity.json", {"x/a.mp4": "1", "y/a.mp4": "2"}, "speaks of 'a' twice"),
        ("vde_clarity.json", {}, "no film is in this file"),
        ("vde_brightness.json", {"a.mp4": "1"}, "which drift error is this"),
    ],
)
def test_files_that_are_something_else_are_a_sentence(tmp_path, name, content, said):
    with pytest.raises(UsageError, match=said) as error:
        read_imports([wrote(tmp_path / name, content)])
    assert str(error.value).startswith(str(tmp_path / name)) and "\n" not in str(error.value)


def test_broken_and_absent_files_are_a_sentence(tmp_path):
    for name, content in {"cut.json": b'{"d": [0.5, [{"vid', "deep.json": b"[" * 9000, "not.json": b"\xff\xfe"}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UsageError, match="Invalid JSON"):
            read_imports([tmp_path / name])
    with pytest.raises(UsageError, match="no such file"):
        read_imports([tmp_path / "absent.json"])
    with pytest.raises(UsageError, match="is in this folder"):
        read_imports([tmp_path])
    one, two = (vbench(tmp_path, name, d={"a.mp4": 1}) for name in ("one.json", "two.json"))
    with pytest.raises(UsageError, match="'d' of the film 'a' was in another file"):
        read_imports([one, two])


def test_imports_are_joined_by_the_films_stem(tmp_path):
    wrote(tmp_path / "vde_subject.json", {"elsewhere/a.mp4": "0.5", "elsewhere/c.mp4": "0.5"})
    vbench(tmp_path, sharp={"elsewhere/a.mov": 0.25})
    ours = [
        result("films/a.mp4", vde=9, sharp=0.5) | {"settings": {"tier": "builtin"}},
        {"film": "c.mp4", "error": "no"},
    ]
    before = json.dumps(ours)
    a, c = merge_results(ours, read_imports([tmp_path]))
    theirs = {"sharp_imported": 0.25, "vde.reference.subject": 0.5}
    assert column_values(a) == {"sharp": 0.5, "vde.paper.subject": 9} | theirs
    assert a["settings"] == {"tier": "builtin", "imported": "run_eval_results.json, vde_subject.json"}
    assert c == ours[1] and json.dumps(ours) == before
    assert [each["film"] for each in merge_results([], read_imports([tmp_path]))] == ["a", "c"]


@pytest.mark.parametrize("seed", range(6))
def test_rank_correlation_is_that_of_ranks(seed):
    """Equal values share the mean of their ranks; the correlation of ranks is Pearson's."""
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, 4 + seed, 12).astype(float), rng.normal(size=12).round(1)
    ranks = [(np.less.outer(x, x).sum(0) + np.less_equal.outer(x, x).sum(0)) / 2 for x in (a, b)]
    assert spearman(a, b) == pytest.approx(float(np.corrcoef(*ranks)[0, 1]), abs=1e-9)
    assert spearman(a, a) == pytest.approx(1) and spearman([1.0, 1.0], [1.0, 2.0]) is None
