"""Opens and reads regular files only, and makes plain values of YAML and JSON that others wrote.

A pipe, a device, a socket or an endless file never blocks a command, and no text, however it nests, takes long to read.
"""

from __future__ import annotations

import errno
import json
import os
import re
import stat
from collections.abc import Iterable
from contextlib import suppress
from math import inf, isfinite
from pathlib import Path
from typing import BinaryIO, ClassVar

import yaml

from blockvid_cli.errors import UsageError, shorten

PART = 1 << 20  # bytes read at once, so that a small file costs little memory whatever the limit is
KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
    stat.S_IFLNK: "a link",
}
MAX_ALIASES = 100  # of a YAML text
MAX_VALUES = 40_000  # values and names of fields
MAX_ENTRIES = 5400  # in one list of a YAML text
MAX_DEPTH = 24
MAX_JSON_DEPTH = 50  # a storyboard's values, and what a project says of them, have fewer levels
MAX_TEXT = 20_000  # characters of one value; the fields have their own, lower limits
MAX_NAME = 100  # characters of a field's name
MAX_NUMBER = 10**30
YAML_TAG = "tag:yaml.org,2002:"

# Numbers as YAML 1.2 and JSON write them. YAML 1.1's others (1:30 in base 60, 010 in base 8, 0x1F, 1_000) and its
# dates are text here.
INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]*)\Z")
FLOAT = re.compile(
    r"[-+]?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?\Z|[-+]?\.(?:inf|Inf|INF)\Z|\.(?:nan|NaN|NAN)\Z"
)
TRUTH = {"yes": True, "true": True, "on": True, "no": False, "false": False, "off": False}


class NotRegularFileError(OSError):
    """A path names a pipe, a device or a socket; ``strerror`` says which."""


class FileTooLargeError(OSError):
    """A file is larger than its reader allows; ``strerror`` says how much that is."""


def open_regular_file(path: Path, follow: bool = True) -> BinaryIO:
    """Opens a regular file for reading (bytes), without waiting for anybody; without ``follow``, no link to one.

    The path is looked at before it is opened, so that no device notices, and the open file once more, in case the
    path was replaced in between.

    Raises:
        NotRegularFileError: it is a pipe, a device or a socket; or, without ``follow``, a link.
        OSError: it is missing, a folder, may not be read, or has a name that no file can have.
    """
    flags = ("O_NONBLOCK", "O_BINARY") if follow else ("O_NONBLOCK", "O_BINARY", "O_NOFOLLOW")
    try:
        _check_kind(path, os.stat(path, follow_symlinks=follow).st_mode)
        descriptor = os.open(path, os.O_RDONLY | sum(getattr(os, flag, 0) for flag in flags))
    except ValueError as error:  # a zero character, or half a character
        raise OSError(errno.EINVAL, "a name that no file can have", str(path)) from error
    try:
        _check_kind(path, os.fstat(descriptor).st_mode)
    except OSError:
        os.close(descriptor)
        raise
    return os.fdopen(descriptor, "rb")


def read_regular_file(path: Path, limit: int, follow: bool = True) -> bytes:
    """Returns the bytes of a regular file of at most ``limit`` bytes; without ``follow``, not through a link.

    Raises:
        FileTooLargeError: it has more; no more than ``limit`` + 1 bytes are read, whatever its size is said to be.
        NotRegularFileError: it is a pipe, a device or a socket.
        OSError: it is missing, a folder, cannot be read, or has a name that no file can have.
    """
    content = bytearray()
    with open_regular_file(path, follow) as file:
        while part := file.read(min(limit + 1 - len(content), PART)):  # None: a file of the kernel's that would wait
            content += part
    if len(content) > limit:
        size = f"{limit / 1e6:g} MB" if limit >= 100_000 else f"{limit} bytes"
        raise FileTooLargeError(errno.EINVAL, f"larger than {size}", str(path))
    return bytes(content)


def check_own_folder(folder: Path) -> None:
    """Makes sure that a folder of ours, which may itself be reached through a link, holds no links.

    Whatever is written, appended to, locked, read or removed below it afterwards lies in it, and nothing there waits.

    Raises:
        UsageError: something below it is a link, a pipe, a device or a socket.
    """
    for parent, folders, files in os.walk(folder):
        for path in (Path(parent, name) for name in (*folders, *files)):
            with suppress(FileNotFoundError):  # another process works in it
                mode = path.lstat().st_mode
                if not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):
                    raise UsageError(
                        f"{path} is {KINDS.get(stat.S_IFMT(mode), 'no file')}; {folder} holds only folders and regular"
                        " files, so that nothing outside is read or changed. Remove it, or replace it with what it"
                        " stands for."
                    )


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


class LimitedLoader(yaml.SafeLoader):
    """Composes nodes with their marks; stops at a document that nests, or refers back, too much."""

    yaml_implicit_resolvers: ClassVar = {
        first: [pair for pair in pairs if pair[0].removeprefix(YAML_TAG) not in ("int", "float", "timestamp")]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    depth = 0
    aliases = 0
    values = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Counts values, aliases, levels and the entries of a list (``index``) on the way.

        Raises:
            yaml.MarkedYAMLError: there are too many of them.
        """
        self.aliases += self.check_event(yaml.AliasEvent)
        self.values += 1
        self.depth += 1
        for count, limit, what in (
            (self.aliases, MAX_ALIASES, "aliases"),
            (self.values, MAX_VALUES, "values"),
            (self.depth, MAX_DEPTH, "levels"),
            (index + 1 if isinstance(index, int) else 0, MAX_ENTRIES, "entries in one list"),
        ):
            if count > limit:
                raise yaml.MarkedYAMLError(
                    problem=f"more than {limit} {what}", problem_mark=self.peek_event().start_mark
                )
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


LimitedLoader.add_implicit_resolver(f"{YAML_TAG}int", INTEGER, list("-+0123456789"))
LimitedLoader.add_implicit_resolver(f"{YAML_TAG}float", FLOAT, list("-+.0123456789"))


def scalar_value(node: yaml.Node) -> object:
    """Returns a text, a number, a truth value or nothing.

    Raises:
        ValueError: it is anything else (an infinite number, a custom tag), or far too long.
    """
    name = node.tag.removeprefix(YAML_TAG)
    if not isinstance(node, yaml.ScalarNode) or name not in ("str", "value", "null", "bool", "int", "float"):
        raise ValueError(f"the tag '{shorten(node.tag)}' is not known here; remove it")
    text = node.value
    if name == "null":
        return None
    if len(text) > MAX_TEXT:
        raise ValueError(f"'{shorten(text)}' has {len(text)} characters, which no field may have; write less")
    if name in ("str", "value"):
        return _join_surrogates(text)
    if name == "bool" and text.lower() in TRUTH:
        return TRUTH[text.lower()]
    if name == "bool" or not (INTEGER if name == "int" else FLOAT).match(text):
        raise ValueError(f"'{shorten(text)}' cannot be read as a number or a truth value; write it plainly, like 12")
    endless = text[-1] in "fFnN"  # .inf and .nan
    number = inf if endless or len(text) > MAX_NAME else int(text) if name == "int" else float(text)
    if not -MAX_NUMBER < number < MAX_NUMBER:
        raise ValueError(f"{shorten(text)} is no number that means anything here; write a smaller one")
    return number


def _join_surrogates(text: str) -> str:
    """Joins the two halves in which JSON escapes some characters."""
    try:
        return text.encode("utf-16", "surrogatepass").decode("utf-16")
    except UnicodeDecodeError as error:
        raise ValueError("half a character stands in this text; remove the escape") from error


def read_plain_yaml(text: str) -> object:
    """Returns the values of one YAML document: texts, finite numbers, truth values, lists and mappings of these.

    Raises:
        ValueError: it is not YAML, or holds anything else; the sentence says what, and on which line.
    """
    try:
        node = LimitedLoader(text).get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f" on line {mark.line + 1}" if mark else ""
        raise ValueError(f"{shorten(error.problem or 'no YAML', 100)}{where}") from error
    except (yaml.YAMLError, OverflowError) as error:
        raise ValueError("it holds a character that is not text") from error
    return None if node is None else _plain(node, [], ())


def _plain(node: yaml.Node, seen: list[yaml.Node], path: tuple[str, ...]) -> object:
    """The value of the node at ``path``; ``seen`` are those that were read, so that references to references end."""
    seen.append(node)
    line = node.start_mark.line + 1
    if len(seen) > MAX_VALUES or len(path) > MAX_DEPTH:
        raise ValueError(f"it repeats itself too much on line {line}")
    if isinstance(node, yaml.SequenceNode) and node.tag == f"{YAML_TAG}seq":
        return [_plain(item, seen, (*path, str(number))) for number, item in enumerate(node.value)]
    if not isinstance(node, yaml.MappingNode) or node.tag != f"{YAML_TAG}map":
        try:
            return scalar_value(node)
        except ValueError as error:
            raise ValueError(f"{'.'.join(path)}: {error} (line {line})") from error
    values: dict[str, object] = {}
    for key, child in node.value:
        if not isinstance(key, yaml.ScalarNode) or key.value in values or len(key.value) > MAX_NAME:
            raise ValueError(f"a name that is no plain word, or stands there twice, on line {key.start_mark.line + 1}")
        values[key.value] = _plain(child, seen, (*path, key.value))
    return values


def read_plain_json(text: str | bytes) -> object:
    """Returns the values of one JSON text; numbers are finite.

    Raises:
        ValueError: it is not JSON, nests too deeply, or holds a number that is not finite or has thousands of digits.
    """
    try:
        values: object = json.loads(text, parse_constant=_finite, parse_float=_finite)
    except RecursionError as error:
        raise ValueError("it nests too deeply") from error
    level = [values]
    for _ in range(MAX_JSON_DEPTH):
        level = [inner for value in level for inner in _inner_values(value)]
        if not level:
            return values
    raise ValueError("it nests too deeply")


def _inner_values(value: object) -> Iterable[object]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def _finite(text: str) -> float:
    number = float(text)
    if not isfinite(number):
        raise ValueError(f"{shorten(text)} is no finite number")
    return number
