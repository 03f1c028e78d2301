"""A folder of films and storyboards as a benchmark: its items, its 80/20 split, means, and what drift does to scores.

    bench.json                films with known drift: {"version": 1, "films": [{"id", "video", "drift", ...}]}
    Video_datasets/**/a.mp4   LV-Bench (InterVBench); captions of the same name there, or in captions/
    a.mp4, a.yaml             any other; the films may be in videos/, the rest in storyboards/, captions/, prompts/

    items, one result per item  ->  mean_scores: means of what is finite, and of how many films
    clean, blurred a little, more, most  ->  severity_rows: does a score follow, story by story?
                                         ->  drift_changes: the same over all stories

A score is good at a drift if it follows it, and if it ignores the drifts that it is not about.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from blockvid_cli.errors import UsageError, lookup
from blockvid_cli.evaluation.imports import Result, read_form
from blockvid_cli.evaluation.tables import score_columns

FILMS = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi")
STORYBOARDS = (".yaml", ".yml", ".json", ".srt", ".vtt", ".txt")  # the first that exists is used
FILM_FOLDERS = ("videos", "films", "video_datasets")
STORYBOARD_FOLDERS = (*FILM_FOLDERS, "storyboards", "captions", "prompts")
EXPECTED = "films, with storyboards of the same names beside them or in storyboards/, or a bench.json"
CLEAN = (None, "", "none", "clean")
MIN_CLEAN_SCORE = 1e-8  # a smaller score of a clean film cannot be compared with
MEANT = {  # the columns, without backends' suffixes, that should detect a drift
    "blur": ("imaging_quality", "vde.reference.clarity", "vde.paper.clarity"),
    "hue": ("subject_consistency", "background_consistency", "vde.paper.subject"),
    "identity": ("subject_consistency", "vde.paper.subject", "adherence"),
    "freeze": ("vde.paper.motion_energy",),
    "jitter": ("motion_smoothness", "temporal_flickering", "vde.reference.motion", "vde.paper.motion"),
    "cut": ("subject_consistency", "background_consistency", "vde.reference.subject", "vde.reference.background"),
}


class Item(BaseModel):
    """A film of a suite. Films of one story differ in the ``drift`` that was added (None: none), and how much of it:
    the ``severity`` orders films of a kind (0: none); the ``level`` is that in the drift's own ``unit``.
    """

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)
    id: str
    video: Path
    storyboard: Path | None = None
    story: str | None = None
    drift: str | None = None
    severity: float | None = Field(default=None, ge=0)
    level: float | str | None = None
    unit: str | None = None

    @property
    def kind(self) -> str | None:
        """The kind of a visible drift; None for a clean film."""
        return self.drift if self.severity and self.drift not in CLEAN else None


class Bench(BaseModel):
    """What a bench.json holds; paths are relative to it."""

    version: Literal[1]
    films: list[Item] = Field(min_length=1)


def find_items(folder: Path) -> list[Item]:
    """Returns the films of a folder, each with its storyboard if it has one; those in bench.json need not exist yet.

    Raises:
        UsageError: the folder is none of the three kinds, or two of its films have one id.
    """
    folder = Path(folder)
    try:
        items = _listed_items(folder) if (folder / "bench.json").is_file() else _paired_items(folder)
    except OSError as error:
        raise UsageError(f"{folder}: this folder cannot be read ({error.strerror}). Expected: {EXPECTED}.") from error
    if not items:
        raise UsageError(f"{folder}: there is no film in this folder. Expected: {EXPECTED}.")
    by_id: dict[str, Item] = {}
    for item in items:
        if by_id.setdefault(item.id, item) is not item:
            raise UsageError(f"{folder}: '{by_id[item.id].video}' and '{item.video}' are both called '{item.id}'.")
    return items


def _listed_items(folder: Path) -> list[Item]:
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


def _paired_items(folder: Path) -> list[Item]:
    stories: dict[str, list[Path]] = {}
    ids_of_stem: dict[str, set[str]] = {}
    for story_id, file in _files(folder, STORYBOARD_FOLDERS, STORYBOARDS):
        stories.setdefault(story_id, []).append(file)
        ids_of_stem.setdefault(file.stem, set()).add(story_id)
    items = []
    for film_id, film in _files(folder, FILM_FOLDERS, FILMS):
        ids = {film_id} if film_id in stories else ids_of_stem.get(film.stem, set())
        files = stories[min(ids)] if len(ids) == 1 else []  # of several, none is sure to be meant
        order = {file: (STORYBOARDS.index(file.suffix.lower()), file.parent != film.parent) for file in files}
        items.append(Item(id=film_id, video=film, storyboard=min(files, key=order.__getitem__, default=None)))
    return items


def _files(folder: Path, subfolders: Sequence[str], suffixes: Sequence[str]) -> Iterator[tuple[str, Path]]:
    """Files of a folder, and of all folders in those called ``subfolders``, each with its id: its path, no suffix."""
    children = sorted(folder.iterdir())
    for root in [folder, *(child for child in children if child.name.lower() in subfolders and child.is_dir())]:
        for file in children if root is folder else sorted(root.rglob("*")):
            relative = file.relative_to(root)
            hidden = any(part.startswith(".") for part in relative.parts)
            if file.suffix.lower() in suffixes and not hidden and file.is_file():
                yield relative.with_suffix("").as_posix().encode(errors="replace").decode(), file


def split(ids: Sequence[str], seed: int = 0) -> tuple[list[str], list[str]]:
    """Train and test, 80 to 20, to the nearest id (at least one is in test): those whose hash with the seed is least.

    Their order does not matter, and one more id moves at most one other. LV-Bench has not said which 200 of its 1000
    films it tests with; these are other ones.
    """
    hashes = {each: hashlib.sha256(f"{seed}:{each}".encode()).digest() for each in ids}
    test = set(sorted(hashes, key=hashes.__getitem__)[: max(1, round(len(hashes) / 5))])
    return [each for each in ids if each not in test], [each for each in ids if each in test]


def select_split(items: Sequence[Item], name: str = "all", seed: int = 0) -> list[Item]:
    """Returns the items of ``train``, ``test`` or ``all``; a story's films stay together.

    Raises:
        UsageError: there is no such split.
    """
    stories = list(dict.fromkeys(item.story or item.id for item in items))
    train, test = split(stories, seed)
    selected = set(lookup("split", {"train": train, "test": test, "all": stories}, name))
    return [item for item in items if (item.story or item.id) in selected]


def column_values(result: Result, field: Literal["value", "normalised"] = "value") -> dict[str, float | None]:
    """A result's numbers by column: a metric's key, ``vde.paper.subject``, ``adherence``; None if not finite."""
    values = {column.key: getattr(cell, field) for column, cell in score_columns(result).items()}
    return {name: value if value is not None and math.isfinite(value) else None for name, value in values.items()}


def mean_scores(results: Sequence[Result], items: Sequence[Item] = ()) -> dict[str, Any]:
    """How many ``films`` and ``errors``, and by column the ``mean`` over the ``n`` of ``total`` films with a value.

    Drift errors have a mean ``normalised`` too. With the results' items, in the same order, the same by kind of drift.
    """
    columns: dict[str, dict[str, Any]] = {}
    values = [column_values(result) for result in results]
    normalised = [column_values(result, "normalised") for result in results]
    for column in dict.fromkeys(column for row in values for column in row):
        value, n = mean(row.get(column) for row in values)
        columns[column] = {"mean": value, "n": n, "total": len(results), "share": f"{n}/{len(results)}"}
        if column.startswith("vde."):
            columns[column]["normalised"] = mean(row.get(column) for row in normalised)[0]
    summary: dict[str, Any] = {
        "films": len(results),
        "errors": sum("error" in result for result in results),
        "columns": columns,
    }
    if any(item.kind for item in items):
        kinds: dict[str, list[Result]] = {}
        for item, result in zip(items, results, strict=True):
            kinds.setdefault(item.kind or "clean", []).append(result)
        summary["drifts"] = {kind: mean_scores(group) for kind, group in kinds.items()}
    return summary


def mean(values: Iterable[float | None]) -> tuple[float | None, int]:
    """The mean of the values that are not None, and their number; None where there are none."""
    known = [value for value in values if value is not None]
    return (math.fsum(known) / len(known) if known else None), len(known)


# ---- drift of known severity -----------------------------------------------------------------------------


def severity_rows(items: Sequence[Item], results: Sequence[Result]) -> list[dict[str, Any]]:
    """A row per story, kind of drift and column: ``severities``, rising from the clean film's 0, and their ``values``.

    Also whether the values are strictly ``ordered`` as they should be (drift errors rise, other scores fall), the rank
    correlation ``spearman``, and the ``change`` from clean to worst, as a share of the clean score; None where that is
    unknown. Of drift errors the normalised value is used: they are shares of their first segment's score already, so
    that their change is a difference.
    """
    lower = {name for result in results for name, it in result.get("metrics", {}).items() if it.get("higher") is False}
    columns = dict.fromkeys(column for result in results for column in column_values(result))
    rows = []
    for (story, drift), levels in _levels(items, results).items():
        scale = sorted(levels)
        for column in columns:
            field: Literal["value", "normalised"] = "normalised" if column.startswith("vde.") else "value"
            values = [
                mean(column_values(result, field).get(column) for result in levels[severity])[0] for severity in scale
            ]
            meant = any(f"{column}_".startswith(f"{name}_") for name in MEANT.get(drift, ()))
            rises = column.startswith("vde.") or column in lower
            row = {"story": story, "drift": drift, "column": column, "meant": meant, "rises": rises}
            row |= {"severities": scale, "values": values, **_order(scale, values, rises)}
            rows.append(row | {"change": _change(scale, values, absolute=field == "normalised")})
    return rows


def _levels(items: Sequence[Item], results: Sequence[Result]) -> dict[tuple[str, str], dict[float, list[Result]]]:
    """Results by story and kind of drift, by severity; a clean film is severity 0 of every kind."""
    pairs = list(zip(items, results, strict=True))
    levels: dict[tuple[str, str], dict[float, list[Result]]] = {}
    for story, kind in dict.fromkeys((item.story or "", item.kind) for item in items if item.kind):
        for item, result in pairs:
            if (item.story or "") == story and item.kind in (None, kind):
                severity = (item.severity or 0.0) if item.kind else 0.0
                levels.setdefault((story, kind), {}).setdefault(severity, []).append(result)
    return levels


def _order(scale: Sequence[float], values: Sequence[float | None], rises: bool) -> dict[str, Any]:
    known = [(severity, value) for severity, value in zip(scale, values, strict=True) if value is not None]
    steps = np.asarray(np.diff([value for _, value in known])) * (1 if rises else -1)
    return {
        "ordered": bool((steps > 0).all()) if len(known) == len(scale) > 1 else None,
        "spearman": spearman(*zip(*known, strict=True)) if known else None,
    }


def _change(scale: Sequence[float], values: Sequence[float | None], absolute: bool) -> float | None:
    """From the clean film to the worst, as a difference or as a share of the clean film's value."""
    clean, worst = values[0], values[-1]
    if scale[0] != 0 or scale[-1] == 0 or clean is None or worst is None:
        return None
    if absolute:
        return worst - clean
    return (worst - clean) / abs(clean) if abs(clean) >= MIN_CLEAN_SCORE else None


def spearman(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Rank correlation, -1 to 1; equal values share the mean of their ranks. None where all values are equal."""
    from scipy.stats import spearmanr

    return float(spearmanr(a, b).statistic) if len(set(a)) > 1 and len(set(b)) > 1 else None


def drift_changes(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, dict[str, Any]]]:
    """Rows over their stories, by kind of drift and column: means, and how many of the known ones are ``ordered``."""
    table: dict[str, dict[str, dict[str, Any]]] = {}
    for drift, column in dict.fromkeys((row["drift"], row["column"]) for row in rows):
        group = [row for row in rows if (row["drift"], row["column"]) == (drift, column)]
        ordered = [row["ordered"] for row in group if row["ordered"] is not None]
        change = {name: mean(row[name] for row in group)[0] for name in ("change", "spearman")}
        change |= {"ordered": sum(ordered), "stories": len(ordered), "meant": group[0]["meant"]}
        table.setdefault(drift, {})[column] = change
    return table
