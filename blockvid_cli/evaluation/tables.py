"""Scores as people read them: one row of numbers per film (tables, CSV, Markdown), and drift over time as a plot."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blockvid_cli.project.atomic_files import write_atomically
from blockvid_cli.video.overlays import matplotlib_data

BARS = "▁▂▃▄▅▆▇█"
PLOT_COLUMNS, PLOT_WIDTH, PLOT_HEIGHT = 3, 4.2, 2.1  # panels beside each other, inches of each


@dataclass(frozen=True)
class Column:
    """A number of a film: its key, its title, the heading above it, and whether higher is better."""

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
    """A film's number; for a drift error also divided by the weights' sum; and the segment scores behind it."""

    value: float | None
    normalised: float | None = None
    segments: Sequence[float | None] = ()

    def __str__(self) -> str:
        return format_score(self.value) + (f" ({format_score(self.normalised)})" if self.normalised is not None else "")


def score_columns(result: Mapping[str, Any]) -> dict[Column, Cell]:
    """Every number of a result: metrics, drift errors of both profiles, adherence."""
    row: dict[Column, Cell] = {}
    for name, metric in result.get("metrics", {}).items():
        row[Column(name, _words(name), "metrics", metric["higher"])] = Cell(
            metric["value"], segments=metric.get("segments") or ()
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
    """The indices of the best values; none where all are equal or only one is known."""
    values = [cell.value if cell else None for cell in cells]
    known = [value for value in values if value is not None]
    if len(known) < 2 or min(known) == max(known):
        return set()
    top = max(known) if higher else min(known)
    return {index for index, value in enumerate(values) if value == top}


def sparkline(scores: Sequence[float | None]) -> str:
    """Segment scores as a line of small bars, from the least to the greatest; a gap where one is missing."""
    known = [score for score in scores if score is not None]
    if not known:
        return ""
    low, reach = min(known), max(known) - min(known)
    return "".join(" " if score is None else BARS[round((score - low) / reach * 7) if reach else 3] for score in scores)


def as_csv(results: Sequence[Mapping[str, Any]]) -> str:
    """A line per film; a film without scores has its error."""
    rows = [_numbers(result) for result in results]
    keys = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["film", "seconds", "frames", *keys, "error"])
    for result, row in zip(results, rows, strict=True):
        cells = ["" if row.get(key) is None else f"{row[key]:.6g}" for key in keys]
        seconds, frames = (result.get(name, "") for name in ("seconds", "frames"))
        writer.writerow([result["film"], seconds, frames, *cells, result.get("error", "")])
    return text.getvalue()


def _numbers(result: Mapping[str, Any]) -> dict[str, float | None]:
    row: dict[str, float | None] = {}
    for column, cell in score_columns(result).items():
        row[column.key] = cell.value
        if column.key.startswith("vde."):
            row[f"{column.key}.normalised"] = cell.normalised
    return row


def as_markdown(results: Sequence[Mapping[str, Any]], names: Sequence[str]) -> str:
    """A column per film, a row per number; the best in bold."""
    rows = [score_columns(result) for result in results]
    lines = [f"| | {' | '.join(name.replace('|', chr(92) + '|') for name in names)} |", "|---|" + "---:|" * len(names)]
    heading = ""
    for column in dict.fromkeys(column for row in rows for column in row):
        if column.heading != heading:
            heading = column.heading
            lines.append(f"| *{heading}* |{' |' * len(names)}")
        cells = [row.get(column) for row in rows]
        top = best_indices(cells, column.higher)
        texts = [f"**{cell}**" if index in top else str(cell or format_score(None)) for index, cell in enumerate(cells)]
        lines.append(f"| {column.title} {column.arrow} | {' | '.join(texts)} |")
    return "\n".join(lines)


def format_score(value: float | None) -> str:
    """A number with four significant digits or so; a dash for None."""
    return "–" if value is None else f"{value:.4f}" if abs(value) < 10 else f"{value:.2f}"


def _words(name: str) -> str:
    return name.replace("_", " ")


def drift_cell(change: Mapping[str, Any]) -> str:
    """What a drift did to a score: the relative change, and in how many stories all severities are in order."""
    share = "–" if change["change"] is None else f"{100 * change['change']:+.1f}%"
    return f"{share} ({change['ordered']}/{change['stories']})"


def drifts_markdown(drifts: Mapping[str, Mapping[str, Any]]) -> str:
    """A row per score, a column per kind of drift; bold where the score should detect it."""
    lines = [f"| from clean to worst | {' | '.join(drifts)} |", "|---|" + "---:|" * len(drifts)]
    for name in dict.fromkeys(name for changes in drifts.values() for name in changes):
        cells = [
            f"**{drift_cell(changes[name])}**" if changes[name]["meant"] else drift_cell(changes[name])
            for changes in drifts.values()
        ]
        lines.append(f"| {name.replace('_', ' ').replace('.', ' ')} | {' | '.join(cells)} |")
    return "\n".join(lines)


def segment_curves(result: Mapping[str, Any]) -> dict[str, list[float | None]]:
    """The segment scores of every metric, and of those that only drift errors of the paper's profile use, by name."""
    scores = {name: metric["segments"] for name, metric in result["metrics"].items()}
    for errors in result["vde"].values():
        scores |= {error["metric"]: error["segments"] for error in errors.values() if error["metric"] not in scores}
    return scores


def plot(results: Sequence[Mapping[str, Any]], names: Sequence[str], path: Path) -> None:
    """Writes a PNG with a panel per metric and a line per film; segments are drawn at their middles, in seconds.

    Raises:
        BlockvidError: it cannot be written.
    """
    with chdir(matplotlib_data()):  # matplotlib reads a matplotlibrc in the working folder, whoever wrote it
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

    curves = [segment_curves(result) for result in results]
    metrics = list(dict.fromkeys(name for film in curves for name in film))
    rows = -(-len(metrics) // PLOT_COLUMNS)
    figure = Figure(figsize=(PLOT_COLUMNS * PLOT_WIDTH, rows * PLOT_HEIGHT + 0.5), layout="constrained")
    FigureCanvasAgg(figure)
    panels: list[Any] = list(figure.subplots(rows, PLOT_COLUMNS, squeeze=False).ravel())
    for panel, name in zip(panels, metrics, strict=False):
        for film, result in zip(curves, results, strict=True):
            scores = film.get(name) or []
            middles = [(index + 0.5) * result["seconds"] / len(scores) for index in range(len(scores))]
            panel.plot(middles, [float("nan") if s is None else s for s in scores], marker="o", markersize=3)
        panel.set_title(name.replace("_", " "), fontsize=9)
        panel.tick_params(labelsize=7)
        panel.ticklabel_format(useOffset=False)
        panel.grid(alpha=0.25)
        panel.margins(y=0.15)
    for panel in panels[len(metrics) :]:
        panel.set_visible(False)
    for panel in panels[max(0, len(metrics) - PLOT_COLUMNS) : len(metrics)]:
        panel.set_xlabel("seconds", fontsize=8)
    figure.legend(panels[0].get_lines(), names, loc="outside lower center", ncols=min(4, len(names)), fontsize=8)
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=110)
    write_atomically(path, png.getvalue())
