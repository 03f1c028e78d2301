"""A folder of films and storyboards as a benchmark: what is in it, its 80/20 split, what its results say together.

bench.json                films with known drift: {"version": 1, "films": [{"id", "video", "drift", ...}]}
Video_datasets/**/a.mp4   LV-Bench (InterVBench); captions of the same name there, or in captions/
a.mp4, a.yaml             any other; the films may lie in videos/, the rest in storyboards/, captions/, prompts/

items, one result an item  ->  means of what is finite, and of how many films
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from blockvid_cli.errors import UsageError, lookup
from blockvid_cli.evaluation.columns import score_columns
from blockvid_cli.evaluation.imports import Result, read_form

FILMS = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi")
STORYBOARDS = (".yaml", ".yml", ".json", ".srt", ".vtt", ".txt")  # the first that is there tells the story
OF_FILMS = ("videos", "films", "video_datasets")
OF_STORYBOARDS = (*OF_FILMS, "storyboards", "captions", "prompts")
EXPECTED = "films, with storyboards of the same names beside them or in storyboards/, or a bench.json"
CLEAN = (None, "", "none", "clean")


class Item(BaseModel):
    """A film of a suite. Films of one story differ in the ``drift`` that was put in (None: none), and how much of it:
    the ``severity`` orders films of a kind (0: none); the ``level`` is that in the drift's own ``unit``.
    """

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)
    id: str
    video: Path
    storyboard: Path | None = None
    story: str | None = None
    drift: str | None = None
    severity: float | None = Field(None, ge=0)
    level: float | str | None = None
    unit: str | None = None

    @property
    def kind(self) -> str | None:
        """The kind of drift that can be seen; None for a clean film."""
        return self.drift if self.severity and self.drift not in CLEAN else None


class Bench(BaseModel):
    """What a bench.json holds; paths are relative to it."""

    version: Literal[1]
    films: list[Item] = Field(min_length=1)


def find_items(folder: Path) -> list[Item]:
    """The films of a folder, each with its storyboard if it has one; those that bench.json lists need not be there yet.

    Raises:
        UsageError: the folder is none of the three kinds, or two of its films have one id.
    """
    folder = Path(folder)
    try:
        items = _listed(folder) if (folder / "bench.json").is_file() else _paired(folder)
    except OSError as error:
        raise UsageError(f"{folder}: this folder cannot be read ({error.strerror}). Expected: {EXPECTED}.") from error
    if not items:
        raise UsageError(f"{folder}: there is no film in this folder. Expected: {EXPECTED}.")
    seen: dict[str, Item] = {}
    for item in items:
        if seen.setdefault(item.id, item) is not item:
            raise UsageError(f"{folder}: '{seen[item.id].video}' and '{item.video}' are both called '{item.id}'.")
    return items


def _listed(folder: Path) -> list[Item]:
    file, items = folder / "bench.json", []
    expected = '{"version": 1, "films": [{"id": "a", "video": "a.mp4"}, ...]}'
    for film in read_form(file, TypeAdapter(Bench), expected).films:
        if film.drift not in CLEAN and film.severity is None:
            raise UsageError(f"{file}: the film '{film.id}' has a drift, but not how severe it is; give its severity.")
        paths = {name: path for name in ("video", "storyboard") if (path := getattr(film, name))}
        for path in paths.values():
            if path.is_absolute() or ".." in path.parts:
                raise UsageError(f"{file}: '{path}' lies outside the suite's folder; paths are relative to bench.json.")
        items.append(film.model_copy(update={name: folder / path for name, path in paths.items()}))
    return items


def _paired(folder: Path) -> list[Item]:
    stories: dict[str, list[Path]] = {}
    names: dict[str, set[str]] = {}
    for known, file in _files(folder, OF_STORYBOARDS, STORYBOARDS):
        stories.setdefault(known, []).append(file)
        names.setdefault(file.stem, set()).add(known)
    items = []
    for known, film in _files(folder, OF_FILMS, FILMS):
        ids = {known} if known in stories else names.get(film.stem, set())
        found = stories[min(ids)] if len(ids) == 1 else []  # of several, none is sure to be meant
        order = {file: (STORYBOARDS.index(file.suffix.lower()), file.parent != film.parent) for file in found}
        items.append(Item(id=known, video=film, storyboard=min(found, key=order.__getitem__, default=None)))
    return items


def _files(folder: Path, inside: Sequence[str], suffixes: Sequence[str]) -> Iterator[tuple[str, Path]]:
    """Files of a folder, and of all folders in those called ``inside``, each with its id: its path without suffix."""
    children = sorted(folder.iterdir())
    for place in [folder, *(child for child in children if child.name.lower() in inside and child.is_dir())]:
        for file in children if place is folder else sorted(place.rglob("*")):
            known = file.relative_to(place)
            hidden = any(part.startswith(".") for part in known.parts)
            if file.suffix.lower() in suffixes and not hidden and file.is_file():
                yield known.with_suffix("").as_posix().encode(errors="replace").decode(), file


def split(ids: Sequence[str], seed: int = 0) -> tuple[list[str], list[str]]:
    """Train and test, 80 to 20, to the nearest id (at least one is in test): those whose hash with the seed is least.

    Their order does not matter, and one more id moves at most one other. LV-Bench has not said which 200 of its 1000
    films it tests with; these are other ones.
    """
    hashes = {known: hashlib.sha256(f"{seed}:{known}".encode()).digest() for known in ids}
    test = set(sorted(hashes, key=hashes.__getitem__)[: max(1, round(len(hashes) / 5))])
    return [known for known in ids if known not in test], [known for known in ids if known in test]


def select_split(items: Sequence[Item], which: str = "all", seed: int = 0) -> list[Item]:
    """The items of ``train``, ``test`` or ``all``; a story's films stay together.

    Raises:
        UsageError: there is no such split.
    """
    stories = list(dict.fromkeys(item.story or item.id for item in items))
    train, test = split(stories, seed)
    side = set(lookup("split", {"train": train, "test": test, "all": stories}, which))
    return [item for item in items if (item.story or item.id) in side]


def columns(result: Result, field: Literal["value", "normalised"] = "value") -> dict[str, float | None]:
    """What a result says, by column: a measure's key, ``vde.paper.subject``, ``adherence``; None if not finite."""
    found = {column.key: getattr(cell, field) for column, cell in score_columns(result).items()}
    return {name: value if value is not None and math.isfinite(value) else None for name, value in found.items()}


def mean_scores(results: Sequence[Result], items: Sequence[Item] = ()) -> dict[str, Any]:
    """How many ``films`` and ``errors``, and by column the ``mean`` over the ``n`` of ``total`` films with a value.

    Drift errors have a mean ``normalised`` too. With the results' items, in the same order, the same by kind of drift.
    """
    found = {"films": len(results), "errors": sum("error" in result for result in results), "columns": {}}
    valued = [columns(result) for result in results]
    normalised = [columns(result, "normalised") for result in results]
    for column in dict.fromkeys(column for values in valued for column in values):
        value, n = mean(values.get(column) for values in valued)
        found["columns"][column] = {"mean": value, "n": n, "total": len(results), "share": f"{n}/{len(results)}"}
        if column.startswith("vde."):
            found["columns"][column]["normalised"] = mean(values.get(column) for values in normalised)[0]
    if any(item.kind for item in items):
        kinds: dict[str, list[Result]] = {}
        for item, result in zip(items, results, strict=True):
            kinds.setdefault(item.kind or "clean", []).append(result)
        found["drifts"] = {kind: mean_scores(some) for kind, some in kinds.items()}
    return found


def mean(values: Iterable[float | None]) -> tuple[float | None, int]:
    """The mean of what is there, and of how many; None of nothing."""
    there = [value for value in values if value is not None]
    return (math.fsum(there) / len(there) if there else None), len(there)
