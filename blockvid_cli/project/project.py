"""The project folder beside a storyboard: what is drawn already, and whether it still fits.

    story.yaml
    story.mp4
    story.blockvid/
        manifest.json                       everything needed to redraw the film
        chunks/005/take-1.safetensors       clean latents, of as many blocks as are finished
        chunks/005/take-1.3f9a0c4d.safetensors   what take 1 was before an edit
        pictures.mp4, pictures.json         the film's pictures, and what they were decoded from (``film.kept``)
        takes.json                          which takes are in the film, where not the first
        .lock                               held while a render runs

Rendering again is going on: a take is used if its key (``chain``) is the key the storyboard gives that chunk now. A
whole take that an edit replaces is set aside under its key, and is there again when the edit is undone.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from blockvid_cli.errors import UsageError
from blockvid_cli.project.atomic_files import remove_unfinished, write_whole, writing
from blockvid_cli.project.lock import FolderLock
from blockvid_cli.project.takes import Damaged, Take, read_facts, read_take, write_take

VERSION = 1
DRAFTS = "draft.blockvid"  # a project of its own, of films in fewer steps
SEAL = "pictures.json"  # what the kept pictures are; without it there are none
FIXED = ("model", "size", "fps")  # what a project cannot change once it is begun


def folder_beside(path: Path) -> Path:
    """The project folder of a storyboard or film: ``story.yaml`` -> ``story.blockvid``."""
    return path.with_suffix(".blockvid")


class Project:
    """An open project folder; a context manager, because it is locked while it is open."""

    def __init__(self, folder: Path, identity: dict[str, Any], lock: FolderLock) -> None:
        self.folder = folder
        self.identity = identity
        self.notes: list[str] = []  # what was found damaged, one sentence each
        self.manifest: dict[str, Any] = {}
        self._lock = lock

    @classmethod
    def open(cls, folder: Path, identity: Mapping[str, Any], fresh: bool = False) -> Project:
        """Opens the folder, made if need be; ``fresh`` throws away the chunks drawn in it.

        Args:
            identity: the model, size and fps, and what else names the film; plain JSON values.

        Raises:
            UsageError: the project has another model, size or fps, or another process renders in it.
            BlockvidError: the folder cannot be written to (``PartialError``: the disk is full).
        """
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        project = cls(folder, json.loads(json.dumps(identity)), FolderLock(folder))
        try:
            project._begin(fresh)
        except BaseException:
            project.close()
            raise
        return project

    def close(self) -> None:
        """Unlocks the folder; may be called twice."""
        self._lock.release()

    def __enter__(self) -> Project:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def write_manifest(self, content: Mapping[str, Any]) -> None:
        """Replaces the manifest: ``content`` (plain JSON values) beside the version and the identity."""
        self.manifest = {**content, "version": VERSION, "identity": self.identity}
        text = json.dumps(self.manifest, indent=2, ensure_ascii=False)
        write_whole(self.folder / "manifest.json", f"{text}\n".encode("utf-8", "backslashreplace"))

    def take_path(self, chunk: int, take: int = 1) -> Path:
        """Where the latents of a take lie, whether or not they exist."""
        return self.folder / "chunks" / f"{chunk:03d}" / f"take-{take}.safetensors"

    def save_take(self, chunk: int, latents: torch.Tensor, key: str, frames: int, take: int = 1) -> None:
        """Keeps a chunk's latents so far: (F, C, H, W), F of the ``frames`` the whole chunk will have.

        A whole take of another key is set aside first.

        Raises:
            BlockvidError: they are not finite, or cannot be written (``PartialError``: the disk is full).
        """
        path = self.take_path(chunk, take)
        with suppress(OSError, Damaged):
            there, held = read_facts(path)
            if held == there.frames and there.key != key:
                os.replace(path, aside(path, there.key))
        write_take(path, Take(chunk, take, key, frames), latents)

    def load_take(self, chunk: int, key: str, take: int = 1) -> torch.Tensor | None:
        """A chunk's latents so far, (F, C, H, W) float32; None if none were drawn from ``key``.

        A damaged file is None too, with a sentence in ``notes``.
        """
        path = self._file_of(chunk, key, take)
        try:
            found, latents = read_take(path)
            if (found.chunk, found.take) != (chunk, take):
                raise Damaged(f"it is take {found.take} of chunk {found.chunk}")
        except FileNotFoundError:
            return None
        except Damaged as damage:
            name = path.relative_to(self.folder).as_posix()
            self.notes.append(f"{name} is damaged ({damage}): chunk {chunk} is drawn again.")
            return None
        return latents if found.key == key else None

    def _file_of(self, chunk: int, key: str, take: int) -> Path:
        """Where a take lies: in its place, or set aside under its key."""
        path = self.take_path(chunk, take)
        before = aside(path, key)
        with suppress(OSError, Damaged):
            if read_facts(path)[0].key == key:
                return path
        return before if before.exists() else path

    def _begin(self, fresh: bool) -> None:
        """Cleans up, and makes sure that the folder holds this film and no other."""
        remove_unfinished(self.folder)
        if fresh:
            self._forget_chunks()
        self.manifest = {} if fresh else self._read_manifest()
        if self.manifest:
            self._check_identity(self.manifest["identity"])
        else:
            self.write_manifest({})

    def _forget_chunks(self) -> None:
        chunks = self.folder / "chunks"
        with writing(chunks):
            (self.folder / SEAL).unlink(missing_ok=True)
            shutil.rmtree(self.folder / DRAFTS, ignore_errors=True)
            if chunks.is_symlink():
                chunks.unlink()
            elif chunks.exists():
                shutil.rmtree(chunks)

    def _read_manifest(self) -> dict[str, Any]:
        """The manifest on disk; empty if there is none, or (with a note) none that can be read."""
        try:
            found = json.loads((self.folder / "manifest.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, RecursionError):
            found = None
        if isinstance(found, dict) and isinstance(found.get("identity"), dict):
            return found
        self.notes.append("manifest.json is damaged: it is written anew; the chunks drawn are still used.")
        return {}

    def _check_identity(self, found: Mapping[str, Any]) -> None:
        differing = [name for name in FIXED if found.get(name) != self.identity.get(name)]
        if not differing:
            return
        then, now = (
            ", ".join(f"{name} {_shown(identity.get(name))}" for name in differing)
            for identity in (found, self.identity)
        )
        raise UsageError(
            f"{self.folder} was begun with {then}, not {now}; a project keeps its {', '.join(FIXED)}. Give"
            " the film another name (-o other.mp4) for a new project, or --fresh to draw this one anew."
        )


def takes_in(folder: Path, chunk: int) -> list[int]:
    """The takes of a chunk that a project folder holds, in order."""
    names = (path.name.split(".")[0] for path in (folder / "chunks" / f"{chunk:03d}").glob("take-*.safetensors"))
    numbers = (name.removeprefix("take-") for name in names)
    return sorted({int(number) for number in numbers if number.isdecimal()})


def frames_of_takes(folder: Path, chunk: int) -> dict[str, int]:
    """How many latent frames there are of a chunk by key, in all of its takes, those set aside too."""
    found = {}
    for path in sorted((folder / "chunks" / f"{chunk:03d}").glob("take-*.safetensors")):
        with suppress(OSError, Damaged):
            take, frames = read_facts(path)
            found[take.key] = frames
    return found


def aside(path: Path, key: str) -> Path:
    """The name of a take that an edit replaced: ``take-1.safetensors`` -> ``take-1.3f9a0c4d.safetensors``."""
    return path.with_suffix(f".{key[:8]}.safetensors")


def _shown(value: object) -> str:
    """``[832, 480]`` -> ``832x480``; other values as they are."""
    return "x".join(str(part) for part in value) if isinstance(value, list) else str(value)
