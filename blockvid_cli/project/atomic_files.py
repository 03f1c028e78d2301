"""Files that exist whole or not at all, and clear errors where a disk refuses them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from blockvid_cli.errors import DISK_FULL, BlockvidError, PartialError

KV_CACHE_FOLDER = ".memory"  # of a KV cache on disk, in the project folder


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file under another name, forces it to the disk, then renames it: a reader sees old or new.

    Raises:
        PartialError: the disk is full.
        BlockvidError: the file cannot be written for another reason.
    """
    temporary = temporary_path(path)
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.unlink(missing_ok=True)  # of a killed process; or a link that somebody put there
            with open(temporary, "xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)


def temporary_path(path: Path) -> Path:
    """The name a file has while it is written."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def remove_temporary_files(folder: Path) -> None:
    """Removes what killed processes left below ``folder``, which holds no links; what cannot be removed stays."""
    tokens = folder / KV_CACHE_FOLDER
    for path in (*folder.rglob(".*.tmp"), *tokens.glob("*.safetensors")):
        with suppress(OSError):
            path.unlink()
    with suppress(OSError):  # it does not exist, or is not empty
        tokens.rmdir()


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turns an ``OSError`` on the way to ``path`` into a sentence.

    Raises:
        PartialError: the disk is full.
        BlockvidError: anything else, such as a folder that may not be written to.
    """
    try:
        yield
    except OSError as error:
        if error.errno in DISK_FULL:
            raise disk_full_error(path, DISK_FULL[error.errno]) from error
        raise BlockvidError(f"{path} cannot be written: {error.strerror or error}.") from error


def disk_full_error(path: Path, reason: str = "the disk is full") -> PartialError:
    """The error for a file that the disk has no room for."""
    return PartialError(
        f"{path} cannot be written: {reason} ({free_mebibytes(path):.0f} MiB free)."
        " Everything finished is kept; make room, and the same command goes on from there."
    )


def free_mebibytes(path: Path) -> float:
    """Free space on the disk of ``path``, in MiB; 0 where that is unknown."""
    parent = next((folder for folder in path.absolute().parents if folder.is_dir()), None)
    try:
        return shutil.disk_usage(parent).free / 2**20 if parent else 0.0
    except OSError:
        return 0.0


def _sync_folder(folder: Path) -> None:
    """Forces a rename to the disk; systems that cannot open a folder do without."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
