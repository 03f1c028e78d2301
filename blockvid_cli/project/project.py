"""The project folder beside a storyboard: what is rendered already, and whether it still fits.

    story.yaml
    story.mp4
    story.blockvid/
        manifest.json                       everything needed to render the film again, and every chunk's identity
        chunks/005/take-1.safetensors       clean latents, of as many blocks as are finished
        chunks/005/take-1.3f9a0c4d.safetensors   what take 1 was before an edit
        chunks-1/                           what chunks/ was before the first --fresh
        pictures.mp4, pictures.json         the film's frames, and what they were decoded from
        takes.json                          which takes are in the film, where not the first
        .lock                               held while a render runs

Rendering again resumes: a take is used if its key (``identity``) is the key that the storyboard gives that chunk now. A
whole take that an edit replaces is set aside under its key, and is used again when the edit is undone.

The folder itself may be reached through a link; below it there are none, or the project is refused.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict

from blockvid_cli.errors import UsageError, plural, shorten
from blockvid_cli.files import check_own_folder, read_plain_json, read_regular_file
from blockvid_cli.models.hub import sha256
from blockvid_cli.project.atomic_files import disk_errors, remove_temporary_files, write_atomically
from blockvid_cli.project.identity import MAX_TAKE
from blockvid_cli.project.takes import DamagedTakeError, Take, read_take, read_take_header, write_take
from blockvid_cli.storyboard.plan import Plan

VERSION = 2
MAX_STATE_BYTES = 64_000_000  # of a manifest; that of the longest film has half as many
DRAFT_FOLDER = "draft.blockvid"  # a project of its own, of films in fewer steps
DECODED_VIDEO_FILE = "pictures.json"  # says what the cached frames are; without it there are none
MANIFEST = "manifest.json"
FIXED_FIELDS = ("model", "size", "fps")  # what a project cannot change once it is begun


def project_folder(path: Path) -> Path:
    """The project folder of a storyboard or film: ``story.yaml`` -> ``story.blockvid``."""
    return path.with_suffix(".blockvid")


@dataclass(frozen=True)
class Numerics:
    """What of a preset decides a chunk's latents."""

    precision: str  # of the transformer
    kv_dtype: str  # of cached tokens
    vae: str  # its dtype, and whether it works in tiles: for images that a chunk begins or ends with


class Manifest(BaseModel):
    """What the next render needs to know of the last one, of all that the manifest says; empty where there was none."""

    model_config = ConfigDict(frozen=True)

    version: int = 0
    fixed: dict[str, object] = {}
    identity: dict[str, object] = {}  # what version 1 called ``fixed``
    preset: str = ""
    device: str = ""
    runtime: dict[str, object] = {}
    numerics: tuple[Numerics, ...] = ()  # one a chunk, like those that follow
    identities: tuple[dict[str, object], ...] = ()
    keys: tuple[str, ...] = ()
    bases: tuple[str, ...] = ()
    film: str = ""  # the job's ``film_key``
    timeline: object = None  # frames of cards and chunks; ``video.spec.read_timeline`` checks it


def read_manifest(folder: Path) -> Manifest:
    """The manifest of the last render; an empty one where there is none, or none that can be read."""
    with suppress(OSError, ValueError):  # not JSON, too deep, not UTF-8, other values than a manifest's
        content = read_regular_file(folder / MANIFEST, MAX_STATE_BYTES, follow=False)
        return Manifest.model_validate(read_plain_json(content))
    return Manifest()


class Project:
    """An open project folder; a context manager, because it is locked while it is open."""

    def __init__(self, folder: Path, fixed: dict[str, Any], lock: FileLock) -> None:
        self.folder = folder
        self.fixed = fixed
        self.notes: list[str] = []  # what is damaged, one sentence each
        self._lock = lock

    @classmethod
    def open(cls, folder: Path, fixed: Mapping[str, Any], fresh: bool = False) -> Project:
        """Opens the folder, made if need be; ``fresh`` moves the chunks rendered in it out of the way.

        Args:
            fixed: the model, size and fps, which a project keeps; plain JSON values.

        Raises:
            UsageError: the project has another model, size or fps, another process renders in it, or it holds links.
            BlockvidError: the folder cannot be written to (``PartialError``: the disk is full).
        """
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        check_own_folder(folder)
        project = cls(folder, json.loads(json.dumps(fixed)), _locked(folder))
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
        """Replaces the manifest: ``content`` (plain JSON values) beside the version and what is fixed."""
        text = json.dumps({**content, "version": VERSION, "fixed": self.fixed}, indent=2, ensure_ascii=False)
        write_atomically(self.folder / MANIFEST, f"{text}\n".encode("utf-8", "backslashreplace"))

    def take_path(self, chunk: int, take: int = 1) -> Path:
        """Where the latents of a take lie, whether or not they exist."""
        return self.folder / "chunks" / f"{chunk:03d}" / f"take-{take}.safetensors"

    def save_take(
        self, chunk: int, latents: torch.Tensor, key: str, frames: int, take: int = 1, indices: Sequence[int] = ()
    ) -> None:
        """Saves a chunk's latents so far: (F, C, H, W), F of the ``frames`` the whole chunk will have.

        ``indices`` are their numbers in the chunk, where they are not the first ones. A whole take of another key is
        set aside first.

        Raises:
            BlockvidError: they are not finite, or cannot be written (``PartialError``: the disk is full).
        """
        path = self.take_path(chunk, take)
        with suppress(OSError, DamagedTakeError):
            stored, count = read_take_header(path)
            if count == stored.frames and stored.key != key:
                os.replace(path, set_aside_path(path, stored.key))
        numbers = () if list(indices) == list(range(len(latents))) else tuple(indices)
        write_take(path, Take(chunk, take, key, frames, numbers), latents)

    def load_take(self, chunk: int, key: str, take: int = 1) -> dict[int, torch.Tensor]:
        """A chunk's latents so far, (C, H, W) float32 by latent frame of the chunk; empty if none have this key.

        A damaged file is as none, with a sentence in ``notes``.
        """
        path = self._file_of(chunk, key, take)
        try:
            stored, latents = read_take(path)
            if (stored.chunk, stored.take) != (chunk, take):
                raise DamagedTakeError(f"it is take {stored.take} of chunk {stored.chunk}")
        except FileNotFoundError:
            return {}
        except DamagedTakeError as damage:
            name = path.relative_to(self.folder).as_posix()
            self.notes.append(f"{name} is damaged ({damage}): chunk {chunk} is rendered again.")
            return {}
        if stored.key != key:
            return {}
        return dict(zip(stored.indices or range(len(latents)), latents, strict=True))

    def _file_of(self, chunk: int, key: str, take: int) -> Path:
        """The file of a take: its own, or the one set aside under its key."""
        path = self.take_path(chunk, take)
        older = set_aside_path(path, key)
        with suppress(OSError, DamagedTakeError):
            if read_take_header(path)[0].key == key:
                return path
        return older if older.exists() else path

    def _begin(self, fresh: bool) -> None:
        """Cleans up, and makes sure that the folder holds this film and no other."""
        remove_temporary_files(self.folder)
        if fresh:
            self._set_chunks_aside()
        fixed = {} if fresh else self._recorded_fixed()
        if fixed:
            self._check_fixed(fixed)
        else:
            self.write_manifest({})

    def _set_chunks_aside(self) -> None:
        """Moves all rendered takes to a folder of their own, with a note, so that nothing is lost."""
        chunks = self.folder / "chunks"
        with disk_errors(chunks):
            (self.folder / DECODED_VIDEO_FILE).unlink(missing_ok=True)
            shutil.rmtree(self.folder / DRAFT_FOLDER, ignore_errors=True)
            if takes := sum(1 for _ in chunks.glob("*/take-*.safetensors")):
                aside = next(path for n in count(1) if not os.path.lexists(path := self.folder / f"chunks-{n}"))
                os.replace(chunks, aside)
                self.notes.append(
                    f"{plural(takes, 'take')} rendered before moved to {aside}; remove that folder when you do not"
                    " need them."
                )

    def _recorded_fixed(self) -> Mapping[str, object]:
        """What the manifest on disk says is fixed; empty if there is none, or (with a note) none that can be read."""
        manifest = read_manifest(self.folder)
        if manifest.version == 1 and manifest.identity:
            self.notes.append("this project is of an older version: its chunks are rendered again, the old set aside.")
            return manifest.identity
        if not manifest.fixed and (self.folder / MANIFEST).exists():
            self.notes.append("manifest.json is damaged: it is written anew; the rendered chunks are still used.")
        return manifest.fixed

    def _check_fixed(self, recorded: Mapping[str, object]) -> None:
        differing = [name for name in FIXED_FIELDS if recorded.get(name) != self.fixed.get(name)]
        if not differing:
            return
        before, now = (
            ", ".join(f"{name} {_format(fixed.get(name))}" for name in differing) for fixed in (recorded, self.fixed)
        )
        raise UsageError(
            f"{self.folder} was begun with {before}, not {now}; a project keeps its {', '.join(FIXED_FIELDS)}. Give"
            " the film another name (-o other.mp4) for a new project, or --fresh to render this one anew."
        )


class DecodedVideoCache:
    """The frames of a film, decoded by a VAE of this hash from the latents of these cache keys.

    While no chunk changes, a film is muxed again without decoding.
    """

    def __init__(self, folder: Path, keys: Sequence[str], plan: Plan, vae: str) -> None:
        self.video, self._file = folder / "pictures.mp4", folder / DECODED_VIDEO_FILE
        self._source = {"keys": list(keys), "vae": vae, "frames": plan.frames, "fps": plan.fps}

    def is_valid(self) -> bool:
        """Whether the frames are there, decoded from just these latents, and undamaged."""
        try:
            recorded = read_plain_json(read_regular_file(self._file, MAX_STATE_BYTES, follow=False))
            return recorded == {**self._source, "sha256": sha256(self.video)}
        except (OSError, ValueError):
            return False

    def commit(self) -> None:
        """Records what the frames were decoded from, once the video is whole.

        Raises:
            BlockvidError: it cannot be written (``PartialError``: the disk is full).
        """
        write_atomically(self._file, json.dumps({**self._source, "sha256": sha256(self.video)}).encode())


def _locked(folder: Path) -> FileLock:
    """The folder's lock, taken; a process that ends, however it ends, releases it.

    Raises:
        UsageError: another process holds it.
        BlockvidError: the folder cannot be written to.
    """
    lock = FileLock(folder / ".lock", timeout=0, thread_local=False)
    with disk_errors(folder / ".lock"):
        try:
            lock.acquire()
        except Timeout as error:
            raise UsageError(
                f"{folder} is being rendered by another process; wait for it, or give this film another"
                " name (-o other.mp4)."
            ) from error
    return lock


def takes_on_disk(folder: Path, chunk: int) -> list[int]:
    """The takes of a chunk that a project folder holds, in order."""
    names = (path.name.split(".")[0] for path in (folder / "chunks" / f"{chunk:03d}").glob("take-*.safetensors"))
    numbers = (name.removeprefix("take-") for name in names)
    return sorted({int(number) for number in numbers if number.isdecimal() and 1 <= int(number) <= MAX_TAKE})


def stored_frames(folder: Path, chunk: int) -> dict[str, int]:
    """How many latent frames of a chunk are stored by key, in all of its takes, those set aside too."""
    frames: dict[str, int] = {}
    for path in sorted((folder / "chunks" / f"{chunk:03d}").glob("take-*.safetensors")):
        with suppress(OSError, DamagedTakeError):
            take, count = read_take_header(path)
            frames[take.key] = count
    return frames


def set_aside_path(path: Path, key: str) -> Path:
    """The name of a take that an edit replaced: ``take-1.safetensors`` -> ``take-1.3f9a0c4d.safetensors``."""
    return path.with_suffix(f".{key[:8]}.safetensors")


def _format(value: object) -> str:
    """``[832, 480]`` -> ``832x480``; other values as they are, if they are short."""
    return shorten("x".join(str(part) for part in value) if isinstance(value, list) else str(value), 100)
