"""The fuzz's targets among the files of a project: manifest, chosen takes, history, latents, indexes, and scores."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from fractions import Fraction
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import save

from blockvid_cli.commands.history import _cells, _source, repeat_job
from blockvid_cli.evaluation.films import _read_cached
from blockvid_cli.evaluation.imports import read_imports
from blockvid_cli.evaluation.suite import find_items
from blockvid_cli.job import RenderJob, RenderRequest, _resume_runtime, prepare
from blockvid_cli.project.history import RenderRecord, append_record, read_history, save_storyboard_text
from blockvid_cli.project.identity import TakeChoice, changed_fields, read_take_choices, write_take_choices
from blockvid_cli.project.project import DecodedVideoCache, Project, read_manifest, stored_frames, takes_on_disk
from blockvid_cli.project.takes import Take, _digest, _metadata
from blockvid_cli.retake import chunk_changes
from blockvid_cli.storyboard.plan import make_plan
from blockvid_cli.video.spec import read_timeline
from tests.conftest import STORY
from tests.fuzzing import Target

FIXED = {"model": "storybook 0123456789ab", "size": [160, 96], "fps": 12.0}
IDENTITY = {
    "weights": "01ab",
    "model": {"family": "storybook", "patch": [1, 2, 2], "lora": None},
    "size": [160, 96],
    "fps": 12.0,
    "recipe": {"steps": [1.0, 0.5], "kv_cache": {"name": "window", "window": 6}, "guidance": {"scale": 1.0}},
    "prompt": "A red boat",
    "cut": False,
    "images": {"0": "ab"},
}
MANIFEST = {
    "title": "Two boats",
    "preset": "full",
    "device": "cpu",
    "runtime": {"preset": "auto", "precision": "auto", "kv_dtype": None},
    "numerics": [{"precision": "fp32", "kv_dtype": "native", "vae": "float32"}] * 2,
    "identities": [IDENTITY] * 2,
    "keys": ["ab" * 32, "cd" * 32],
    "bases": ["01" * 32, "23" * 32],
    "timeline": {"title": 24, "chunks": [48, 48], "end": 0},
    "version": 2,
    "fixed": FIXED,
}
TAKES = {"2": {"take": 3, "replaces": "ab" * 32, "context": "cd" * 32, "neighbours": "01"}, "3": {"take": 2}}
RECORD = RenderRecord(
    time="2026-01-31T20:15:00Z",
    film="story.mp4",
    storyboard="story.yaml",
    text="6f1c02d9a4b3e857.yaml",
    options={"seed": 7, "recipe": {"steps": 2}, "overrides": ["chunks.2.seed=9"], "takes": {"2": {"take": 2}}},
    model="storybook",
    weights="01ab",
    seed=7,
    size=(160, 96),
    fps=12.0,
    recipe={"steps": 2, "solver": "euler"},
    precision="fp32",
    kv_dtype="native",
    chunks=3,
    rendered=2,
    resumed=1,
    seconds=12.5,
    result="done",
)
FILM = {"id": "a", "video": "a.mp4", "drift": "blur", "severity": 0.5, "level": 2, "unit": "px"}
BENCH = {"version": 1, "films": [FILM]}
SCORES = {"film": "a.mp4", "metrics": {"a": {"mean": 0.5}}, "vde": {}}
VBENCH = {"subject_consistency": [0.9, [{"video_path": "a.mp4", "video_results": 0.9}]]}


@cache
def _job(folder: Path) -> RenderJob:
    """A film that was never rendered."""
    (folder / "story.yaml").write_text(STORY, encoding="utf-8")
    return prepare(RenderRequest(folder / "story.yaml"))


def _project(folder: Path) -> Path:
    project = folder / "story.blockvid"
    project.mkdir(exist_ok=True)
    return project


def manifest(content: bytes, folder: Path) -> None:
    """Compares a film with a manifest, then opens its project."""
    job, project = _job(folder), _project(folder)
    (project / "manifest.json").write_bytes(content)
    recorded = read_manifest(project)
    _resume_runtime(job.request, recorded, "cpu")
    read_timeline(recorded.timeline, Fraction(12))
    for identity in recorded.identities:
        changed_fields(identity, job.keys.identities[0])
    chunk_changes(replace(job, recorded=recorded))
    with Project.open(project, FIXED) as opened:
        opened.write_manifest({})
    assert read_manifest(project).fixed == FIXED


def takes(content: bytes, folder: Path) -> None:
    """Reads chosen takes, and plans a film with them."""
    job, project = _job(folder), _project(folder)
    (project / "takes.json").write_bytes(content)
    choices = read_take_choices(project)
    plan = make_plan(job.storyboard, job.card, seed=3, takes={chunk: choice.take for chunk, choice in choices.items()})
    assert replace(job, takes=choices, plan=plan).keys.keys
    write_take_choices(project, choices)
    assert read_take_choices(project) == {n: choice for n, choice in choices.items() if choice != TakeChoice()}


def history(content: bytes, folder: Path) -> None:
    """Lists renders, repeats them, and adds one."""
    job, project = _job(folder), _project(folder)
    (project / "history.jsonl").write_bytes(content)
    save_storyboard_text(project, STORY.encode(), ".yaml")
    for number, record in read_history(project).renders.items():
        assert _cells(number, record) and _source(project, record)
        json.dumps(asdict(record), allow_nan=False)
        if record != RECORD:
            repeat_job(record, job.storyboard.source, folder / "again.mp4")
    append_record(project, RECORD)
    assert RECORD in read_history(project).renders.values()


def take(content: bytes, folder: Path) -> None:
    """Resumes from the latents of a chunk, and replaces them."""
    project = _project(folder)
    path = project / "chunks" / "001" / "take-1.safetensors"
    for file in path.parent.glob("*"):
        file.unlink()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    assert stored_frames(project, 1).keys() >= set() and takes_on_disk(project, 1) == [1]
    with Project.open(project, FIXED, fresh=False) as opened:
        opened.load_take(1, "key")
        opened.save_take(1, torch.zeros(3, 4, 2, 2), "other", frames=3)
        assert len(opened.load_take(1, "other")) == 3


def frames(content: bytes, folder: Path) -> None:
    """Asks whether decoded frames are those of a film."""
    project = _project(folder)
    (project / "pictures.mp4").write_bytes(b"frames")
    (project / "pictures.json").write_bytes(content)
    DecodedVideoCache(project, ["ab", "cd"], _job(folder).plan, "01").is_valid()


def _scores(name: str, read: Callable[[Path], object]) -> Callable[[bytes, Path], None]:
    """A function that writes a file of that name, and reads it."""

    def write_and_read(content: bytes, folder: Path) -> None:
        (folder / name).write_bytes(content)
        read(folder / name)

    return write_and_read


def _latents(take: Take, frames: int) -> bytes:
    latents = torch.ones(frames, 4, 2, 2)
    return save({"latents": latents}, {**_metadata(take), "sha256": _digest(take, latents)})


def _text(*values: object) -> bytes:
    return b"\n".join(json.dumps(value).encode() for value in values) + b"\n"


STATE_TARGETS: dict[str, Target] = {
    "manifest": Target((json.dumps(MANIFEST, indent=2).encode(), _text(MANIFEST)), manifest),
    "takes": Target((json.dumps(TAKES, indent=2).encode(), _text(TAKES)), takes),
    "history": Target((_text(asdict(RECORD)), _text(asdict(RECORD), asdict(replace(RECORD, seed=8)))), history),
    "latents": Target((_latents(Take(1, 1, "key", 3), 3), _latents(Take(1, 1, "key", 6, (0, 1, 4)), 3)), take),
    "frames": Target((_text({"keys": ["ab", "cd"], "vae": "01", "frames": 60, "fps": 12, "sha256": "0"}),), frames),
    "suite": Target((_text(BENCH),), _scores("bench.json", lambda file: find_items(file.parent))),
    "vbench": Target((_text(VBENCH),), _scores("a_eval_results.json", lambda file: read_imports([file]))),
    "vde": Target((_text({"videos/a.mp4": "0.7551"}),), _scores("vde_clarity.json", lambda file: read_imports([file]))),
    "scores": Target((_text(SCORES),), _scores("s", _read_cached)),
}
