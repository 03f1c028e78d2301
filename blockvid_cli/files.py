"""Opens and reads regular files only: a pipe, a device, a socket or an endless file never blocks a command."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

PART = 1 << 20  # bytes read at once, so that a small file costs little memory whatever the limit is
KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


class NotRegularFileError(OSError):
    """A path names a pipe, a device or a socket; ``strerror`` says which."""


class FileTooLargeError(OSError):
    """A file is larger than its reader allows; ``strerror`` says how much that is."""


def open_regular_file(path: Path) -> BinaryIO:
    """Opens a regular file for reading (bytes), without waiting for anybody.

    The path is looked at before it is opened, so that no device notices, and the open file once more, in case the
    path was replaced in between.

    Raises:
        NotRegularFileError: it is a pipe, a device or a socket.
        OSError: it is missing, a folder, may not be read, or has a name that no file can have.
    """
    try:
        _check_kind(path, os.stat(path).st_mode)
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except ValueError as error:  # a zero character, or half a character
        raise OSError(errno.EINVAL, "a name that no file can have", str(path)) from error
    try:
        _check_kind(path, os.fstat(descriptor).st_mode)
    except OSError:
        os.close(descriptor)
        raise
    return os.fdopen(descriptor, "rb")


def read_regular_file(path: Path, limit: int) -> bytes:
    """Returns the bytes of a regular file of at most ``limit`` bytes.

    Raises:
        FileTooLargeError: it has more; no more than ``limit`` + 1 bytes are read, whatever its size is said to be.
        NotRegularFileError: it is a pipe, a device or a socket.
        OSError: it is missing, a folder, cannot be read, or has a name that no file can have.
    """
    content = bytearray()
    with open_regular_file(path) as file:
        while part := file.read(min(limit + 1 - len(content), PART)):  # None: a file of the kernel's that would wait
            content += part
    if len(content) > limit:
        size = f"{limit / 1e6:g} MB" if limit >= 100_000 else f"{limit} bytes"
        raise FileTooLargeError(errno.EINVAL, f"larger than {size}", str(path))
    return bytes(content)


def _check_kind(path: Path, mode: int) -> None:
    """Refuses what is no regular file.

    Raises:
        OSError: it is none.
    """
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        kind = KINDS.get(stat.S_IFMT(mode), "something else")
        raise NotRegularFileError(errno.EINVAL, f"{kind}, not a regular file", str(path))
