"""``--set chunks.4.seed=7``: one field changed from the command line, chunks counted from 1."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from blockvid_cli.errors import StoryboardError, UsageError, shorten
from blockvid_cli.files import LimitedLoader, scalar_value
from blockvid_cli.storyboard.parse import Document, FieldPath, Problem, read_yaml
from blockvid_cli.storyboard.schema import fields_at, form_at, unknown_field
from blockvid_cli.storyboard.seconds import describe

Container = dict[Any, Any] | list[Any]  # of YAML's values


def apply_overrides(document: Document, overrides: Sequence[str]) -> None:
    """Sets each field in the document's data, in the order of the options, before anything is checked.

    Raises:
        UsageError: there is no such field, or it is no ``name=value``.
    """
    for override in overrides:
        name, sign, value = override.partition("=")
        if not sign or not name.strip():
            raise UsageError(f"--set {override}: this is no field and value; write it like chunks.4.seed=7")
        if not isinstance(document.data, dict):
            continue  # the document is no storyboard at all, which is reported when it is checked
        path = _set(document, document.data, name.strip().split("."), value.strip(), override)
        document.overrides[path] = override


def _set(document: Document, data: Container, names: list[str], value: str, override: str) -> FieldPath:
    """Puts ``value`` into the field that ``names`` lead to; returns its path."""
    path: FieldPath = ()
    container: Any = data  # a list by indices, or a mapping by names
    for depth, name in enumerate(names):
        key = _key(container, name, path, override)
        path = (*path, key)
        if depth == len(names) - 1:
            _drop_problems(document, path)
            container[key] = _value(value, path, document)
            break
        inner = container.get(key) if isinstance(container, dict) else container[key]
        form = form_at(path)
        if isinstance(inner, str) and (form or "recipe" in path):
            inner = {form.bare if form else "name": inner}
        elif inner is None and (form or "recipe" in path):
            inner = {}
        if not isinstance(inner, dict | list):
            raise UsageError(f"--set {override}: '{name}' holds no fields of its own; end the name there")
        container[key] = inner
        container = inner
    return path


def _key(container: Container, name: str, path: FieldPath, override: str) -> str | int:
    """One name on the path as a key of ``container``."""
    if isinstance(container, list):
        if not (name.isascii() and name.isdigit() and len(name) < 7 and 1 <= int(name) <= len(container)):
            what = "chunk" if path == ("chunks",) else "entry"
            raise UsageError(f"--set {override}: there is no {what} '{name}'; count from 1 to {len(container)}")
        return int(name) - 1
    known = fields_at(path)
    if known and name not in known:
        raise UsageError(f"--set {override}: {unknown_field(name, known)}")
    return name


def _value(value: str, path: FieldPath, document: Document) -> object:
    """The value as YAML reads it; only inside a recipe brackets are a list or a mapping, elsewhere they are text."""
    in_brackets = value[:1] + value[-1:] in ("[]", "{}")
    try:
        return read_collection(value) if in_brackets and "recipe" in path else _read_scalar(value)
    except ValueError as error:
        document.problems.append(Problem(path, f"{error} ({describe(value)})"))
        return None


def _drop_problems(document: Document, path: FieldPath) -> None:
    """What is wrong with a field in the file no longer counts once the field is replaced."""
    document.problems[:] = [problem for problem in document.problems if problem.field[: len(path)] != path]


def _read_scalar(text: str) -> object:
    """Returns what YAML makes of one word or number; a text in quotes is the text itself.

    Raises:
        ValueError: it looks like a number, and is none.
    """
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        return text[1:-1]
    loader = LimitedLoader("")
    tag = loader.resolve(yaml.ScalarNode, text, (True, False))
    return scalar_value(yaml.ScalarNode(tag, text))


def read_collection(text: str) -> object:
    """Returns a list or a mapping that is written on one line: ``[1, 2]`` or ``{name: window, sink: 3}``.

    Raises:
        ValueError: it is neither, or it holds something that no field may hold.
    """
    try:
        document = read_yaml(text, Path("--set"))
    except StoryboardError as error:
        raise ValueError(
            f"'{shorten(text)}' cannot be read as a list or a mapping; check brackets and colons"
        ) from error
    if document.problems:
        raise ValueError(document.problems[0].sentence)
    return document.data
