"""What ``blockvid eval`` shows: scores of films side by side, of a suite, and of drift put there on purpose."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

Result = Mapping[str, Any]
MOST = 12  # films shown one by one; of a larger suite, what they say together
FIRST, WIDTH = 36, 18  # characters of a table's first column, and of a film's
REASONS = {
    "too_few_frames": "too few frames for a measure",
    "too_short": "the film is shorter than two segments",
    "unscored_segment": "a segment is too short to be scored",
    "zero_reference": "the first segment scores 0, so there is no relative drift",
    "not_finite": "a segment's score is no number",
    "no_weight": "these weights weigh nothing",
    "only_picture_books_without_clip": "captions: only picture-book films can be read without CLIP; --tier vbench",
    "no_chunk_in_the_film": "captions: the film ends before the first chunk does",
}


@contextmanager
def progress(films: int) -> Iterator[Callable[[int, float], None]]:
    """A bar over all films where a person looks on."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda number, done: None
        return
    columns = (TextColumn("scoring"), BarColumn(bar_width=None), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task, far = bar.add_task("", total=films), [0.0] * films

        def tell(number: int, done: float) -> None:
            far[number] = done
            bar.update(task, completed=sum(far))

        yield tell


def as_json(results: Sequence[Result], together: Mapping[str, Any]) -> None:
    """Everything."""
    print(json.dumps({"films": results, **together}, ensure_ascii=False))


def csv(results: Sequence[Result], together: Mapping[str, Any]) -> None:
    """A line a film."""
    from blockvid_cli.evaluation.columns import as_csv

    print(as_csv(results), end="")
    errors(results)


def markdown(results: Sequence[Result], together: Mapping[str, Any]) -> None:
    """Films side by side; of a suite with known drift, what each drift did instead."""
    from blockvid_cli.evaluation.columns import as_markdown, drifts_markdown

    good = [result for result in results if "error" not in result]
    print(drifts_markdown(together["drifts"]) if "drifts" in together else as_markdown(good, names_of(good)))
    errors(results)


def tables(results: Sequence[Result], together: Mapping[str, Any]) -> None:
    """Films side by side, the best marked; of a suite, or of many, their means and what each known drift did."""
    good = [result for result in results if "error" not in result]
    if good and (len(good) <= MOST or not together):
        _films(good)
    if "means" in together:
        _means(together["means"]["columns"])
    if "drifts" in together:
        _drifts(together["drifts"])
    _remarks(good)
    errors(results)


def _films(results: Sequence[Result]) -> None:
    """As many films beside each other as the terminal is wide; the best of all is marked."""
    from blockvid_cli.evaluation.columns import best_indices, score_columns, format_score, sparkline

    rows, names, console = [score_columns(result) for result in results], names_of(results), Console(highlight=False)
    columns = list(dict.fromkeys(column for row in rows for column in row))
    top = {column: best_indices([row.get(column) for row in rows], column.higher) for column in columns}
    across = max(1, (console.width - FIRST) // WIDTH)
    for start in range(0, len(rows), across):
        films = range(start, min(start + across, len(rows)))
        shown = _table("", *(names[film] for film in films))
        if len(rows) == 1:
            shown.add_column("over time", no_wrap=True)
        heading = ""
        for column in columns:
            if column.heading != heading:
                heading = column.heading
                shown.add_row(Text(heading, style="dim"))
            cells = [rows[film].get(column) for film in films]
            texts = [
                Text(
                    f"{cell or format_score(None)}{' *' if film in top[column] else '  '}",
                    style="bold" * (film in top[column]),
                )
                for film, cell in zip(films, cells, strict=True)
            ]
            course = [Text(sparkline(cell.segments)) for cell in cells if cell] if len(rows) == 1 else []
            shown.add_row(Text(f"  {column.title} {column.arrow}"), *texts, *course)
        console.print(shown)
    print(
        "VDE: drift away from the first segment; in brackets divided by the weights' sum"
        + " · * best" * (len(rows) > 1)
    )


def _means(columns: Mapping[str, Any]) -> None:
    from blockvid_cli.evaluation.columns import format_score

    shown = _table("mean over the films", "mean", "by weight", "films")
    for name, value in columns.items():
        weighed = format_score(value["normalised"]) if "normalised" in value else ""
        shown.add_row(_plain(name), format_score(value["mean"]), weighed, value["share"])
    Console(highlight=False).print(shown)


def _drifts(drifts: Mapping[str, Any]) -> None:
    """A row a score, a column a kind of drift: change from clean to worst, rank correlation, stories in order."""
    from blockvid_cli.evaluation.columns import drift_cell

    shown = _table("from clean to worst", *drifts)
    for name in dict.fromkeys(name for found in drifts.values() for name in found):
        cells = [
            Text(drift_cell(found[name]), style="bold" if found[name]["meant"] else "dim") for found in drifts.values()
        ]
        shown.add_row(_plain(name.removesuffix("_builtin")), *cells)
    Console(highlight=False).print(shown)
    print("What is added to a drift error by weight, or to another score as a share of it, from no drift to the most;")
    print("in brackets the stories whose severities are all in their known order; bold: meant to see it.")


def _table(first: str, *names: str) -> Table:
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    shown.add_column(first, no_wrap=True)
    for name in names:
        shown.add_column(Text(name), justify="right", overflow="fold")
    return shown


def _plain(name: str) -> str:
    return name.replace("_", " ").replace(".", " ")


def _remarks(results: Sequence[Result]) -> None:
    """Why a number is missing, and what is odd about a film."""
    console = Console(highlight=False)
    for result in results:
        parts = [result["measures"], *result["vde"].values(), {"adherence": result.get("adherence") or {}}]
        missing = {entry["reason"] for part in parts for entry in part.values() if entry.get("reason")}
        for remark in [*result["notes"], *(REASONS.get(reason, reason) for reason in sorted(missing))]:
            console.print(Text(f"{Path(result['film']).name}: {remark}", style="dim"))


def errors(results: Sequence[Result]) -> None:
    """The films that have no scores, to stderr."""
    for result in results:
        if "error" in result:
            print(f"blockvid: {result['error']}", file=sys.stderr)


def names_of(results: Sequence[Result]) -> list[str]:
    """What films are called in tables: their stems, with folder and suffix where two have the same."""
    paths = [Path(result["film"]) for result in results]
    stems = [path.stem for path in paths]
    return [path.stem if stems.count(path.stem) == 1 else f"{path.parent.name}/{path.name}" for path in paths]


FORMS = {"table": tables, "--json": as_json, "--csv": csv, "--markdown": markdown}
