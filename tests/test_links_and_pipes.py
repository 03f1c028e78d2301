"""Links and pipes around a project: no command changes anything outside, waits for ever, or ends in a traceback."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from pathlib import Path

import pytest
import typer

from blockvid_cli.commands.app import app
from blockvid_cli.errors import UsageError
from blockvid_cli.files import check_own_folder
from tests.conftest import STORY
from tests.fuzzing import time_limit

CODES = {0, 1, 2, 3, 5}  # of a command that ended in a sentence or did its work
TEMPORARY = (  # names in a project that exist for moments only
    ".memory",
    ".memory/1-00000-00000.safetensors",
    "pictures.part.mp4",
    "draft.blockvid",
    "draft.blockvid/manifest.json",
    "preview",
    "takes.json",
    f".manifest.json.{os.getpid()}.tmp",
)
BESIDE = ("part.mp4", "whole.part.mp4", "part.srt", "mp4", "srt", "report.html")  # a film's name and these endings
KINDS = ("link", "dangling", "pipe")


def snapshot(folder: Path) -> dict[str, tuple[object, ...]]:
    """What ``ls -lR`` shows of a folder, and what its files hold."""
    shown = {}
    for path in sorted([folder, *folder.rglob("*")]):
        state = path.lstat()
        content = hashlib.sha256(path.read_bytes()).hexdigest() if stat.S_ISREG(state.st_mode) else ""
        shown[str(path)] = (state.st_mode, state.st_size, state.st_mtime_ns, state.st_nlink, content)
    return shown


def replace_by(kind: str, path: Path, outside: Path) -> None:
    """Puts a link to what is outside, a link to what may be made there, or a pipe, in the place of a path."""
    target = outside / "targets" / f"{len(list((outside / 'targets').iterdir()))}-{path.name}"
    if kind == "link" and path.exists():
        shutil.move(path, target)
    elif kind == "link" and (path.suffix in ("", ".blockvid")):
        target.mkdir()
        (target / "mine.safetensors").write_text("mine")
    elif kind == "link":
        target.write_text("mine")
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(path) if kind == "pipe" else path.symlink_to(os.path.relpath(target, path.parent))


@pytest.fixture(scope="module")
def rendered_once(model, tmp_path_factory) -> Path:
    """A maker's folder: a model, a storyboard, its film, and its project with all that can be in it."""
    from blockvid_cli.commands.display import ProgressForm
    from blockvid_cli.commands.film import render_film
    from blockvid_cli.job import RenderRequest, prepare
    from blockvid_cli.project.identity import write_take_choices
    from blockvid_cli.retake import RetakeRequest, retake

    folder = tmp_path_factory.mktemp("rendered")
    shutil.copytree(model, folder / "model")
    (folder / "story.yaml").write_text(f"model: model\n{STORY}")
    request = RenderRequest(folder / "story.yaml")
    render_film(prepare(request), ProgressForm.NONE)
    job = retake(prepare(request), RetakeRequest(2, alone=True))
    render_film(job, ProgressForm.NONE)
    write_take_choices(folder / "story.blockvid", job.takes)
    return folder


@pytest.fixture
def outside(tmp_path) -> Path:
    """A folder beside the maker's that nothing may change."""
    (tmp_path / "outside" / "targets").mkdir(parents=True)
    (tmp_path / "outside" / "precious.txt").write_text("mine")
    return tmp_path / "outside"


def test_nothing_in_a_project_may_be_a_link_or_a_pipe(rendered_once, outside, tmp_path):
    names = {path.relative_to(rendered_once / "story.blockvid") for path in rendered_once.glob("story.blockvid/**/*")}
    shown = {name.as_posix() for name in names}
    assert {"manifest.json", "history.jsonl", ".lock", "chunks/002/take-2.safetensors", "takes.json"} <= shown
    for number, (name, kind) in enumerate((name, kind) for name in {*shown, *TEMPORARY} for kind in KINDS):
        project = shutil.copytree(rendered_once / "story.blockvid", tmp_path / f"{number}.blockvid")
        check_own_folder(project)
        replace_by(kind, project / name, outside)
        with pytest.raises(UsageError, match=r"is a (link|pipe)"):
            check_own_folder(project)


@pytest.mark.parametrize("kind", KINDS)
def test_a_film_is_written_beside_links_and_pipes(rendered_once, outside, tmp_path, blockvid, kind):
    for ending in BESIDE:
        work = shutil.copytree(rendered_once, tmp_path / ending)
        replace_by(kind, work / f"story.{ending}", outside)
        before = snapshot(outside)
        with time_limit(cpu=60):
            done = blockvid("render", work / "story.yaml", "--quiet")
        assert done.code == 0, done.err
        assert snapshot(outside) == before
        assert (work / "story.mp4").is_file() and not (work / "story.mp4").is_symlink()


@pytest.fixture
def hostile(rendered_once, outside, tmp_path, monkeypatch) -> Path:
    """A folder with three storyboards: the project of good.yaml is whole, bad.yaml's is not, and new.yaml has none."""
    work = shutil.copytree(rendered_once, tmp_path / "work")
    for kind in ("good", "bad"):
        shutil.copy(work / "story.yaml", work / f"{kind}.yaml")
        shutil.copytree(work / "story.blockvid", work / f"{kind}.blockvid")
    shutil.move(work / "story.mp4", work / "good.mp4")
    shutil.move(work / "story.yaml", work / "new.yaml")
    shutil.rmtree(work / "story.blockvid")
    (work / "captions.srt").write_text("1\n00:00:00,000 --> 00:00:04,000\nA boat\n")
    for name in ("history.jsonl", "chunks", "manifest.json", ".lock", ".memory", "pictures.part.mp4", "draft.blockvid"):
        replace_by("link", work / "bad.blockvid" / name, outside)
    for name in ("bad", "good", "new"):
        for ending in ("part.mp4", "whole.part.mp4", "part.srt", "srt", "report.html"):
            replace_by("link", work / f"{name}.{ending}", outside)
    for name in ("pipe.yaml", "pipe.mp4", "pipe.json", "pipe.srt", "pipe.safetensors", "pipe.pt", "piped/card.yaml"):
        replace_by("pipe", work / name, outside)
    shutil.copytree(work / "model", work / "weightless")
    replace_by("pipe", work / "weightless" / "transformer.safetensors", outside)
    for name in ("link.mp4", "plot.png", "film.gif", "out.part", "run/vae", "films/videos", "films/bench.json"):
        replace_by("link", work / name, outside)
    for name in ("dangling.yaml", "good-1.yaml", "new.blockvid.tmp"):
        replace_by("dangling", work / name, outside)
    (work / "piped-bench").mkdir()
    replace_by("pipe", work / "piped-bench" / "bench.json", outside)
    for name in ("piped-set/train/metadata.jsonl", "half-set/dataset.yaml", "raw/pipe.mp4", "raw/metadata.jsonl"):
        replace_by("pipe", work / name, outside)
    for name in ("good-set", "half-set"):
        (work / name / "train" / "videos").mkdir(parents=True)
        (work / name / "train" / "metadata.jsonl").write_text(f"{ROW}\n")
        shutil.copy(work / "good.mp4", work / name / "train" / "videos" / "a.mp4")
    (work / "zero.yaml").symlink_to("/dev/zero")
    monkeypatch.chdir(work)
    return work


ROW = '{"file_name": "videos/a.mp4", "chunks": [{"start": 0, "end": 5, "caption": "A boat"}]}'
STORIES = ("good.yaml", "bad.yaml", "pipe.yaml", "zero.yaml")
COMMANDS: dict[str, list[str]] = {  # what is run in that folder; of every command at least one line
    "render": [
        *(*STORIES, "new.yaml --steps 2", "good.yaml -o link.mp4", "good.yaml --chunk 2 --only", "bad.yaml --fresh"),
    ],
    "preview": [f"{story} --chunk 2" for story in STORIES] + ["new.yaml --draft", "good.yaml --chunk 1 --gif", ""],
    "history": [*STORIES, ".", "bad.blockvid", "good.yaml --rerender 1", "bad.blockvid --rerender 1"],
    "doctor": [""],
    "eval": [
        *("good.mp4", "pipe.mp4", "bad.yaml", "good.mp4 --storyboard pipe.yaml", "--suite films"),
        *("--suite piped-bench", "good.mp4 --import-vbench pipe.json", "good.mp4 --plot plot.png"),
        "good.mp4 --tier vbench --weights-dir piped",
    ],
    "bench": ["--model weightless", "--model piped", "--model pipe.safetensors"],
    "takes list": [*STORIES],
    "takes choose": [f"{story} 2 1" for story in STORIES],
    "takes drop": [f"{story} 2 1" for story in STORIES],
    "storyboard check": [*STORIES],
    "storyboard diff": [*STORIES],
    "storyboard import": [
        *("captions.srt", "pipe.srt", "captions.srt -o dangling.yaml --force", "captions.srt -o plot.png"),
    ],
    "storyboard new": ["dangling.yaml", "dangling.yaml --force", "good.yaml"],
    "storyboard schema": [""],
    "models list": [""],
    "models show": ["model", "piped", "weightless", "pipe.safetensors"],
    "models pull": ["model --yes", "piped --yes"],
    "models path": ["model", "piped", "weightless"],
    "models verify": ["model", "piped", "weightless", "pipe.pt"],
    "models convert": [
        *("model/transformer.safetensors out.safetensors", "pipe.safetensors a.safetensors", "pipe.pt b.safetensors"),
        "model/vae.safetensors dangling.safetensors --force",
    ],
    "models rm": ["model --yes", "piped --yes"],
    "data demo": ["--bench films", "--bench piped-bench", "piped-set --videos 1"],
    "data import": ["raw -o new-set", "captions.srt -o new-set", "good-set -o films"],
    "data check": ["good-set", "good-set --fast", "piped-set", "half-set"],
    "data prepare": ["piped-set", "half-set", "good-set --dry-run --model model"],
    "data preview": ["good-set -o plot.png", "piped-set -o film.png"],
    "data export": ["good-set a -o dangling.yaml", "good-set a", "piped-set a"],
    "finetune": ["--data piped-set", "--data half-set", "--data good-set --run run"],
    "train storybook": ["--run run", "--run new-run --card piped", "--run new-run -o run"],
}
NOTHING_TO_DO = (
    "bench",
    "models pull",
    "models rm",
    "data demo",
    "data import",
    "finetune",
    "train storybook",
)  # there, or it takes long


def names(command: object, prefix: str = "") -> list[str]:
    """The commands of the command line, with their groups."""
    inner = getattr(command, "commands", None)
    return [name for key in inner for name in names(inner[key], f"{prefix} {key}")] if inner else [prefix.strip()]


def test_every_command_is_tried():
    assert set(names(typer.main.get_command(app))) == set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_changes_what_is_outside(hostile, outside, blockvid, command):
    before, codes = snapshot(outside), []
    for line in COMMANDS[command]:
        with time_limit(cpu=60, wall=240):
            done = blockvid(*command.split(), *line.split())
        assert done.code in CODES and "Traceback" not in done.err, (line, done)
        changed = {path for path, _ in set(snapshot(outside).items()) ^ set(before.items())}
        assert not changed, (line, changed)
        codes.append(done.code)
    assert 0 in codes or command in NOTHING_TO_DO, codes
