"""The project folder: nothing half-written is read, nothing damaged is used, nothing finished is lost."""

from __future__ import annotations

import errno
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from blockvid_cli.errors import BlockvidError, PartialError, UsageError
from blockvid_cli.project import atomic_files as disk
from blockvid_cli.project.project import Project, project_folder, read_manifest, set_aside_path, stored_frames
from blockvid_cli.project.takes import VERSION, Take, _digest, _metadata, write_take

FIXED = {"model": "storybook", "size": (160, 96), "fps": 12.0, "seed": 7}
DEV_FULL = Path("/dev/full")


def latents(frames: int = 3, seed: int = 0) -> torch.Tensor:
    return torch.randn(frames, 4, 3, 5, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "story.blockvid"


@pytest.fixture
def project(folder):
    with Project.open(folder, FIXED) as opened:
        yield opened


def load(project: Project, key: str, chunk: int = 1, take: int = 1) -> torch.Tensor | None:
    """The latents of a take, (F, C, H, W); None where there are none of this key."""
    frames = project.load_take(chunk, key, take)
    return torch.stack(list(frames.values())) if frames else None


def no_room(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


# ---- takes -----------------------------------------------------------------------------------------------


def test_a_take_comes_back_as_it_was(project):
    rendered = latents(6)
    project.save_take(5, rendered, "key", frames=6)
    assert project.take_path(5).relative_to(project.folder).as_posix() == "chunks/005/take-1.safetensors"
    assert torch.equal(load(project, "key", chunk=5), rendered)
    assert project.notes == []


def test_a_take_grows_block_by_block(project):
    rendered = latents(9)
    for frames in (3, 6, 9):
        project.save_take(1, rendered[:frames], "key", frames=9)
        assert torch.equal(load(project, "key"), rendered[:frames])
    assert [path.name for path in project.take_path(1).parent.iterdir()] == ["take-1.safetensors"]


def test_blocks_that_finish_in_any_order_come_back_by_index(project):
    rendered = latents(9)
    project.save_take(1, rendered[[0, 1, 2, 6, 7, 8]], "key", frames=9, indices=(0, 1, 2, 6, 7, 8))
    frames = project.load_take(1, "key")
    assert list(frames) == [0, 1, 2, 6, 7, 8] and all(torch.equal(frames[i], rendered[i]) for i in frames)
    project.save_take(1, rendered, "key", frames=9, indices=range(9))
    assert torch.equal(load(project, "key"), rendered)


@pytest.mark.parametrize("indices", [(0, 1), (0, 1, 9), (2, 1, 0), (1, 1, 2)])
def test_indices_that_do_not_fit_are_refused(project, indices):
    with pytest.raises(ValueError, match="cannot hold"):
        project.save_take(1, latents(3), "key", frames=9, indices=indices)


def test_a_project_of_an_older_version_is_rendered_again_and_keeps_its_takes(folder):
    with Project.open(folder, FIXED) as project:
        project.save_take(1, latents(), "old key", frames=3)
    manifest = json.loads((folder / "manifest.json").read_text())
    older = {"version": 1, "identity": manifest["fixed"], "keys": ["old key"]}
    (folder / "manifest.json").write_text(json.dumps(older))
    with Project.open(folder, FIXED) as project:
        assert "older version" in project.notes[0]
        project.save_take(1, latents(seed=5), "new key", frames=3)
        assert torch.equal(load(project, "old key"), latents())
    with pytest.raises(UsageError, match="size"):
        Project.open(folder, {**FIXED, "size": (32, 32)})


def test_low_precision_is_kept_exactly_as_float32(project):
    rendered = latents().to(torch.bfloat16)
    project.save_take(1, rendered, "key", frames=3)
    loaded = load(project, "key")
    assert loaded.dtype == torch.float32 and torch.equal(loaded, rendered.float())


def test_takes_of_a_chunk_do_not_touch_each_other(project):
    project.save_take(1, latents(seed=1), "one", frames=3, take=1)
    project.save_take(1, latents(seed=2), "two", frames=3, take=2)
    assert torch.equal(load(project, "one", take=1), latents(seed=1))
    assert torch.equal(load(project, "two", take=2), latents(seed=2))


def test_absent_or_of_another_key_is_none_without_a_word(project):
    project.save_take(1, latents(), "key", frames=3)
    assert load(project, "key", chunk=2) is None
    assert load(project, "another key") is None
    assert project.notes == []


def test_loaded_latents_outlive_their_file(project):
    project.save_take(1, latents(seed=1), "key", frames=3)
    loaded = load(project, "key")
    project.save_take(1, latents(seed=2), "key", frames=3)
    assert torch.equal(loaded, latents(seed=1))


def noticed(project: Project, path: Path) -> None:
    """The take is not used, and a sentence names the file."""
    project.notes.clear()
    assert load(project, "key") is None
    [note] = project.notes
    name = path.relative_to(project.folder).as_posix()
    assert note.startswith(f"{name} is damaged (") and note.endswith("): chunk 1 is rendered again.")
    assert "\n" not in note


@pytest.mark.parametrize("key", ["../../x", "", "a/b", "a\0b", "a" * 300])
def test_a_key_that_is_no_key_changes_nothing_outside(project, key):
    path = project.take_path(1)
    write_take(path, Take(1, 1, key, 3), latents())
    before = sorted(path.parents[3].rglob("*"))
    project.save_take(1, latents(seed=1), "key", frames=3)
    assert torch.equal(load(project, "key"), latents(seed=1))
    assert set(path.parents[3].rglob("*")) - {*before} <= {set_aside_path(path, "a" * 8)}


def test_latents_without_a_shape_are_damaged(project):
    path = project.take_path(1)
    path.parent.mkdir(parents=True)
    take = Take(1, 1, "key", 3)
    save_file({"latents": torch.tensor(1.0)}, path, {**_metadata(take), "sha256": _digest(take, torch.tensor(1.0))})
    assert stored_frames(project.folder, 1) == {}
    noticed(project, path)


def test_every_truncation_is_noticed(project):
    project.save_take(1, latents(), "key", frames=3)
    path = project.take_path(1)
    whole = path.read_bytes()
    for length in [*range(0, len(whole), 7), len(whole) - 1]:
        path.write_bytes(whole[:length])
        noticed(project, path)


def test_every_flipped_bit_is_noticed_or_harmless(project):
    project.save_take(1, latents(), "key", frames=3)
    path = project.take_path(1)
    whole = path.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    chance = random.Random(1)
    places = [*range(0, header, 3), *(chance.randrange(header, len(whole)) for _ in range(150))]
    unnoticed = 0
    for place in places:
        flipped = bytearray(whole)
        flipped[place] ^= 1 << chance.randrange(8)
        path.write_bytes(flipped)
        project.notes.clear()
        loaded = load(project, "key")
        if loaded is None:
            noticed(project, path)
        else:
            unnoticed += 1
            assert torch.equal(loaded, latents())
    assert unnoticed < len(places) / 20  # padding and spaces of the header, no more


def test_appended_bytes_are_noticed(project):
    project.save_take(1, latents(), "key", frames=3)
    path = project.take_path(1)
    path.write_bytes(path.read_bytes() + b"more")
    noticed(project, path)


@pytest.mark.parametrize(
    "wrong",
    [
        torch.zeros(3, 4, 5),
        torch.zeros(0, 4, 3, 5),
        torch.zeros(7, 4, 3, 5),
        torch.zeros(3, 4, 3, 5, dtype=torch.float64),
        torch.full((3, 4, 3, 5), float("nan")),
    ],
    ids=["dimensions", "empty", "too many frames", "type", "nan"],
)
def test_a_well_signed_file_with_wrong_content_is_noticed(project, wrong):
    take = Take(1, 1, "key", frames=6)
    path = project.take_path(1)
    path.parent.mkdir(parents=True)
    save_file({"latents": wrong}, path, metadata={**_metadata(take), "sha256": _digest(take, wrong)})
    noticed(project, path)


def test_a_take_of_another_chunk_is_noticed(project):
    project.save_take(2, latents(), "key", frames=3)
    path = project.take_path(1)
    path.parent.mkdir(parents=True)
    path.write_bytes(project.take_path(2).read_bytes())
    noticed(project, path)


def test_a_foreign_safetensors_file_is_noticed(project):
    path = project.take_path(1)
    path.parent.mkdir(parents=True)
    save_file({"weights": torch.zeros(2)}, path)
    noticed(project, path)


def test_a_folder_in_place_of_a_take_is_noticed(project):
    project.take_path(1).mkdir(parents=True)
    noticed(project, project.take_path(1))


def test_a_file_of_another_version_is_noticed(project, monkeypatch):
    monkeypatch.setattr("blockvid_cli.project.takes.VERSION", VERSION + 1)
    project.save_take(1, latents(), "key", frames=3)
    monkeypatch.undo()
    noticed(project, project.take_path(1))


def test_latents_that_are_not_finite_are_refused(project):
    with pytest.raises(BlockvidError, match="chunk 4"):
        project.save_take(4, torch.full((3, 4, 3, 5), float("inf")), "key", frames=3)
    assert not project.take_path(4).exists()


# ---- whole or not at all ---------------------------------------------------------------------------------


def test_a_kill_before_the_rename_leaves_the_old_take(project, monkeypatch):
    project.save_take(1, latents(3), "key", frames=6)

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        project.save_take(1, latents(6), "key", frames=6)
    assert torch.equal(load(project, "key"), latents(3))
    assert len(list(project.take_path(1).parent.iterdir())) == 1


def test_the_rename_comes_after_the_data_is_on_the_disk(project, monkeypatch):
    done = []
    sync, rename = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (done.append("sync"), sync(handle)))
    monkeypatch.setattr(os, "replace", lambda old, new: (done.append("rename"), rename(old, new)))
    project.save_take(1, latents(), "key", frames=3)
    assert done[:2] == ["sync", "rename"]


def test_what_a_killed_run_left_is_swept_on_opening(folder):
    with Project.open(folder, FIXED) as project:
        project.save_take(1, latents(), "key", frames=3)
        left = project.take_path(1).with_name(".take-1.safetensors.99.tmp")
        left.write_bytes(b"half")
    with Project.open(folder, FIXED) as project:
        assert not left.exists()
        assert load(project, "key") is not None


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_is_said_and_keeps_what_is_finished(project, monkeypatch, call, number):
    project.save_take(1, latents(3), "key", frames=6)

    def full(*_):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        patched.setattr(os, call, full)
        with pytest.raises(PartialError) as caught:
            project.save_take(1, latents(6), "key", frames=6)
    sentence = str(caught.value)
    assert caught.value.exit_code == 5
    assert str(project.take_path(1)) in sentence and "MiB free" in sentence and "the same command" in sentence
    assert [path.name for path in project.take_path(1).parent.iterdir()] == ["take-1.safetensors"]
    assert torch.equal(load(project, "key"), latents(3))


@pytest.mark.skipif(not DEV_FULL.exists(), reason="this system has no /dev/full")
def test_a_disk_that_is_really_full(project, monkeypatch):
    project.save_take(1, latents(3), "key", frames=6)
    path = project.take_path(1)
    monkeypatch.setattr(disk, "open", lambda *_: DEV_FULL.open("wb"), raising=False)
    with pytest.raises(PartialError, match="the disk is full"):
        project.save_take(1, latents(6), "key", frames=6)
    assert [entry.name for entry in path.parent.iterdir()] == ["take-1.safetensors"]
    assert torch.equal(load(project, "key"), latents(3))


def test_a_full_disk_while_the_manifest_is_written(project, monkeypatch):
    project.write_manifest({"seed": 1})
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", no_room)
        with pytest.raises(PartialError, match=r"manifest\.json"):
            project.write_manifest({"seed": 2})
    assert json.loads((project.folder / "manifest.json").read_text())["seed"] == 1


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_other_refusals_are_sentences_too(project, monkeypatch, number):
    def refused(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "replace", refused)
    with pytest.raises(BlockvidError, match=os.strerror(number)) as caught:
        project.save_take(1, latents(), "key", frames=3)
    assert not isinstance(caught.value, PartialError)


def test_a_file_where_the_folder_should_be(folder):
    folder.write_text("not a folder")
    with pytest.raises(BlockvidError, match=r"story\.blockvid cannot be written"):
        Project.open(folder, FIXED)


# ---- manifest and identity -------------------------------------------------------------------------------


def test_opening_again_keeps_manifest_and_takes(folder):
    with Project.open(folder, FIXED) as project:
        project.write_manifest({"storyboard": {"caption": "ein Löwe 🦁 \udc80"}})
        project.save_take(1, latents(), "key", frames=3)
    with Project.open(folder, {**FIXED, "fps": 12}) as project:
        manifest = json.loads((folder / "manifest.json").read_bytes())
        assert manifest["storyboard"] == {"caption": "ein Löwe 🦁 \udc80"}
        assert manifest["fixed"]["model"] == "storybook"
        assert load(project, "key") is not None
        assert project.notes == []


@pytest.mark.parametrize(
    ("field", "value", "shown"),
    [
        ("model", "wan", "storybook, not model wan"),
        ("size", (832, 480), "160x96, not size 832x480"),
        ("fps", 24, "12.0"),
    ],
)
def test_another_model_size_or_fps_is_refused(folder, field, value, shown):
    Project.open(folder, FIXED).close()
    with pytest.raises(UsageError) as caught:
        Project.open(folder, {**FIXED, field: value})
    for part in (field, shown, "-o other.mp4", "--fresh"):
        assert part in str(caught.value)


def test_another_seed_is_no_other_project(folder):
    Project.open(folder, FIXED).close()
    Project.open(folder, {**FIXED, "seed": 8}).close()


def test_a_refused_project_is_not_left_locked_nor_changed(folder):
    Project.open(folder, FIXED).close()
    before = (folder / "manifest.json").read_bytes()
    with pytest.raises(UsageError):
        Project.open(folder, {**FIXED, "fps": 24})
    assert (folder / "manifest.json").read_bytes() == before
    Project.open(folder, FIXED).close()


def test_fresh_forgets_the_chunks_of_this_project_only(folder):
    neighbour = folder.parent / "other.blockvid"
    for each in (folder, neighbour):
        with Project.open(each, FIXED) as project:
            project.save_take(1, latents(), "key", frames=3)
    (folder / "keep.txt").write_text("mine")
    with Project.open(folder, {**FIXED, "fps": 24}, fresh=True) as project:
        assert load(project, "key") is None
        assert read_manifest(folder).fixed["fps"] == 24
        [note] = project.notes
        assert note.startswith(f"1 take rendered before moved to {folder / 'chunks-1'};")
    assert (folder / "chunks-1/001/take-1.safetensors").is_file()
    Project.open(folder, FIXED, fresh=True).close()
    assert not (folder / "chunks-2").exists()  # there was nothing to move
    with Project.open(neighbour, FIXED) as project:
        assert load(project, "key") is not None
    assert (folder / "keep.txt").exists()


DAMAGED_MANIFESTS = [
    *(b"", b'{"fixed": {"mod', b"[]", b'{"fixed": 3}', b"\xff\xfe\x00", b"[" * 99999, b"7", b'{"fixed": {}}'),
    b'{"fixed": {"model": ' + b'{"a": ' * 60 + b"1" + b"}" * 62,
    b'{"fixed": {"model": "storybook", "fps": Infinity}}',
    b'{"fixed": {"model": "storybook", "fps": 1e999}}',
    b'{"fixed": {"model": "storybook"}, "preset": []}',
    b'{"fixed": {"model": "storybook"}, "numerics": [{"precision": 7}]}',
    b'{"fixed": {"model": "storybook"}, "keys": {"a": 1}, "identities": [[]]}',
]


@pytest.mark.parametrize("content", DAMAGED_MANIFESTS)
def test_a_damaged_manifest_is_noticed_and_the_takes_stay(folder, content):
    with Project.open(folder, FIXED) as project:
        project.save_take(1, latents(), "key", frames=3)
    (folder / "manifest.json").write_bytes(content)
    with Project.open(folder, FIXED) as project:
        [note] = project.notes
        assert "manifest.json is damaged" in note
        assert torch.equal(load(project, "key"), latents())
    with Project.open(folder, FIXED) as project:
        assert project.notes == []


# ---- lock ------------------------------------------------------------------------------------------------


def test_two_renders_of_one_project(folder):
    with Project.open(folder, FIXED), pytest.raises(UsageError, match="being rendered by another process"):
        Project.open(folder, FIXED, fresh=True)
    Project.open(folder, FIXED).close()


def test_a_killed_render_leaves_no_lock(folder):
    hold = (
        "import sys, time; from pathlib import Path; from blockvid_cli.project.project import Project\n"
        "project = Project.open(Path(sys.argv[1]), {'model': 'storybook', 'size': [160, 96], 'fps': 12.0})\n"
        "print('held', flush=True); time.sleep(60)"
    )
    folder.mkdir()
    command, root = [sys.executable, "-c", hold, str(folder)], Path(disk.__file__).parents[2]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=root) as other:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(UsageError):
            Project.open(folder, FIXED)
        other.kill()
    Project.open(folder, FIXED).close()


def test_a_lock_that_is_a_link_is_not_followed(folder, tmp_path):
    other = tmp_path / "mine.txt"
    other.write_text("mine")
    folder.mkdir()
    (folder / ".lock").symlink_to(other)
    with pytest.raises(UsageError, match=r"\.lock is a link"):
        Project.open(folder, FIXED)
    assert other.read_text() == "mine"


def test_nothing_behind_a_link_is_removed(folder, tmp_path):
    models = tmp_path / "models"
    models.mkdir()
    (models / "mine.safetensors").write_bytes(b"weights")
    folder.mkdir()
    (folder / ".memory").symlink_to(models)
    with pytest.raises(UsageError, match=r"\.memory is a link; .* Remove it"):
        Project.open(folder, FIXED)
    assert (models / "mine.safetensors").read_bytes() == b"weights"


def test_the_folder_lies_beside_the_film():
    assert project_folder(Path("films/story.yaml")) == Path("films/story.blockvid")
