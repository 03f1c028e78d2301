"""A film's scores as one row of numbers: what tables, CSV and Markdown show."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

SPARKS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class Column:
    """A number of a film's: its name, the heading it stands under, and which way is better."""

    key: str
    title: str
    heading: str
    higher: bool

    @property
    def arrow(self) -> str:
        """Which way is better."""
        return "↑" if self.higher else "↓"


@dataclass(frozen=True)
class Cell:
    """A film's number; of a drift error also the same by weight; and the segment scores behind it."""

    value: float | None
    normalised: float | None = None
    segments: Sequence[float | None] = ()

    def __str__(self) -> str:
        return format_score(self.value) + (f" ({format_score(self.normalised)})" if self.normalised is not None else "")


def score_columns(result: Mapping[str, Any]) -> dict[Column, Cell]:
    """Every number of a result: measures, drift errors of both profiles, adherence."""
    row: dict[Column, Cell] = {}
    for name, measure in result.get("measures", {}).items():
        row[Column(name, _words(name), "measures", measure["higher"])] = Cell(
            measure["value"], segments=measure.get("segments") or ()
        )
    for profile, errors in result.get("vde", {}).items():
        for name, error in errors.items():
            column = Column(f"vde.{profile}.{name}", _words(name), f"VDE, {profile} profile", False)
            row[column] = Cell(error["value"], error.get("normalised"), error.get("segments") or ())
    if result.get("adherence"):
        chunks = [chunk["value"] for chunk in result["adherence"]["chunks"]]
        row[Column("adherence", "adherence, by chunk", "captions", True)] = Cell(
            result["adherence"]["value"], segments=chunks
        )
    return row


def best_indices(cells: Sequence[Cell | None], higher: bool) -> set[int]:
    """The places of the best values; none where nothing is better than anything."""
    values = [cell.value if cell else None for cell in cells]
    known = [value for value in values if value is not None]
    if len(known) < 2 or min(known) == max(known):
        return set()
    top = max(known) if higher else min(known)
    return {place for place, value in enumerate(values) if value == top}


def sparkline(scores: Sequence[float | None]) -> str:
    """Segment scores as a line of small bars, from the least to the greatest; a gap where there is none."""
    known = [score for score in scores if score is not None]
    if not known:
        return ""
    low, reach = min(known), max(known) - min(known)
    return "".join(
        " " if score is None else SPARKS[round((score - low) / reach * 7) if reach else 3] for score in scores
    )


def as_csv(results: Sequence[Mapping[str, Any]]) -> str:
    """A line a film; a film that has no scores has its error."""
    rows = [_flat(result) for result in results]
    keys = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["film", "seconds", "frames", *keys, "error"])
    for result, row in zip(results, rows, strict=True):
        cells = ["" if row.get(key) is None else f"{row[key]:.6g}" for key in keys]
        seconds, frames = (result.get(name, "") for name in ("seconds", "frames"))
        writer.writerow([result["film"], seconds, frames, *cells, result.get("error", "")])
    return text.getvalue()


def _flat(result: Mapping[str, Any]) -> dict[str, float | None]:
    row: dict[str, float | None] = {}
    for column, cell in score_columns(result).items():
        row[column.key] = cell.value
        if column.key.startswith("vde."):
            row[f"{column.key}.normalised"] = cell.normalised
    return row


def as_markdown(results: Sequence[Mapping[str, Any]], names: Sequence[str]) -> str:
    """A column a film, a row a number; the best in bold."""
    rows = [score_columns(result) for result in results]
    lines = [f"| | {' | '.join(name.replace('|', chr(92) + '|') for name in names)} |", "|---|" + "---:|" * len(names)]
    heading = ""
    for column in dict.fromkeys(column for row in rows for column in row):
        if column.heading != heading:
            heading = column.heading
            lines.append(f"| *{heading}* |{' |' * len(names)}")
        cells = [row.get(column) for row in rows]
        top = best_indices(cells, column.higher)
        shown = [f"**{cell}**" if place in top else str(cell or format_score(None)) for place, cell in enumerate(cells)]
        lines.append(f"| {column.title} {column.arrow} | {' | '.join(shown)} |")
    return "\n".join(lines)


def format_score(value: float | None) -> str:
    """A number with four digits that count."""
    return "–" if value is None else f"{value:.4f}" if abs(value) < 10 else f"{value:.2f}"


def _words(name: str) -> str:
    return name.replace("_", " ")


def drift_cell(found: Mapping[str, Any]) -> str:
    """What a drift did to a score: the relative change, and of how many stories every severity is in its order."""
    change = "–" if found["change"] is None else f"{100 * found['change']:+.1f}%"
    return f"{change} ({found['ordered']}/{found['stories']})"


def drifts_markdown(drifts: Mapping[str, Mapping[str, Any]]) -> str:
    """A row a score, a column a kind of drift; bold where the score is meant to see it."""
    lines = [f"| from clean to worst | {' | '.join(drifts)} |", "|---|" + "---:|" * len(drifts)]
    for name in dict.fromkeys(name for found in drifts.values() for name in found):
        cells = [f"**{drift_cell(f[name])}**" if f[name]["meant"] else drift_cell(f[name]) for f in drifts.values()]
        lines.append(f"| {name.replace('_', ' ').replace('.', ' ')} | {' | '.join(cells)} |")
    return "\n".join(lines)
