"""One render at a time in a project folder."""

from __future__ import annotations

from pathlib import Path
from typing import IO

from blockvid_cli.errors import UsageError
from blockvid_cli.project.atomic_files import writing

try:
    import fcntl
except ImportError:  # systems without fcntl go without the lock
    fcntl = None


class FolderLock:
    """Held from construction to ``release``, or until the process ends however it ends."""

    def __init__(self, folder: Path) -> None:
        """Takes the lock.

        Raises:
            UsageError: another process holds it.
            BlockvidError: the folder cannot be written to.
        """
        path = folder / ".lock"
        with writing(path):
            self._file: IO[bytes] = open(path, "ab")  # noqa: SIM115 (open for as long as the lock is held)
        if fcntl is None:
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._file.close()
            raise UsageError(
                f"{folder} is being rendered by another process; wait for it, or give this film another"
                " name (-o other.mp4)."
            ) from error
        except OSError:
            pass  # a file system without locks

    def release(self) -> None:
        """Lets the next one in; may be called twice."""
        self._file.close()
