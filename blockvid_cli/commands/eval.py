"""``blockvid eval``: how good films are, and how far they drift."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from blockvid_cli.commands import options
from blockvid_cli.errors import UsageError
from blockvid_cli.evaluation.spans import Bounds, Protocol
from blockvid_cli.evaluation.vde import Weights

if TYPE_CHECKING:
    from blockvid_cli.evaluation.scores import EvalConfig
    from blockvid_cli.evaluation.suite import Item


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

Tier = Annotated[
    str,
    typer.Option(
        help="builtin: no download; vbench: the reference networks (extra 'eval')", autocompletion=options.complete_tier
    ),
]
Captions = Annotated[
    Path | None,
    typer.Option(help="captions that the films are to follow", autocompletion=options.complete_storyboard),
]


class Part(StrEnum):
    """Which films of a suite."""

    ALL = "all"
    TRAIN = "train"
    TEST = "test"


def evaluate(
    films: Annotated[list[Path] | None, typer.Argument(help="films, in any format that ffmpeg reads")] = None,
    tier: Tier = "builtin",
    storyboard: Captions = None,
    suite: Annotated[Path | None, typer.Option(help="a folder of films and storyboards, such as LV-Bench")] = None,
    part: Annotated[Part, typer.Option(help="of a suite: all, or one side of its 80/20 split")] = Part.ALL,
    segments: Annotated[str, typer.Option(help="a number (10), a length (6s), or 'storyboard'")] = "10",
    weights: Annotated[Weights, typer.Option(help="of the segments in a drift error")] = Weights.LINEAR,
    bounds: Annotated[Bounds, typer.Option(help="when the frames do not divide evenly")] = Bounds.TRIM,
    protocol: Annotated[Protocol, typer.Option(help="whole films, or clips of 2 s as VBench-Long has it")] = (
        Protocol.WHOLE
    ),
    stride: Annotated[int | None, typer.Option(min=1, help="measure every n-th frame only")] = None,
    sample_fps: Annotated[float | None, typer.Option(min=0.1, help="measure about so many frames a second")] = None,
    use: Annotated[
        list[str] | None, typer.Option(help="MEASURE=BACKEND you installed: imaging_quality=pyiqa:musiq-spaq")
    ] = None,
    weights_dir: Annotated[Path | None, typer.Option(help="a folder with the vbench tier's checkpoints")] = None,
    pull: Annotated[bool, typer.Option("--pull", help="download the vbench tier's checkpoints first")] = False,
    import_vbench: Annotated[
        list[Path] | None, typer.Option(help="result files of VBench itself, shown beside the films")
    ] = None,
    device: options.Device = "auto",
    jobs: Annotated[int | None, typer.Option(min=1, help="films at once; one a core")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="score again what was scored before")] = False,
    plot: Annotated[Path | None, typer.Option(help="a PNG of every measure over time")] = None,
    as_json: options.AsJson = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="print a line a film")] = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="print a table for a page")] = False,
) -> None:
    """Score films: VBench's dimensions, and the five Video Drift Errors by which a long film leaves its beginning.

    Several films are compared, the best value marked. A film scored before is not scored again.

    Example: blockvid eval swan.mp4 balloon.mp4 --plot drift.png

    Example: blockvid eval swan.mp4 --storyboard swan.yaml --segments storyboard
    """
    form = _one_of({"--json": as_json, "--csv": as_csv, "--markdown": as_markdown}) or "table"
    _one_of({"--stride": bool(stride), "--sample-fps": bool(sample_fps)})
    if not films and not suite and not import_vbench:
        raise UsageError("no film is named; as in: blockvid eval film.mp4")
    from blockvid_cli.evaluation.scores import EvalConfig
    from blockvid_cli.evaluation.tiers import BackendConfig

    if pull:
        _pull(tier, weights_dir, protocol)
    asked = BackendConfig(tier, weights_dir, _device_for(tier, device), tuple(use or ()))
    settings = EvalConfig(asked, protocol, segments, weights, bounds, stride, sample_fps, storyboard)
    results, items = _gather(films or [], suite, part.value, settings, jobs, fresh)
    shown = _with_imports(results, import_vbench or [])
    if plot:
        _draw(shown, plot)
    FORMS[form](shown, _summary(items, results))
    if any("error" in result for result in shown):
        raise typer.Exit(1)


def _one_of(options: Mapping[str, bool]) -> str | None:
    """The option of several that is given.

    Raises:
        UsageError: more than one is.
    """
    given = [name for name, there in options.items() if there]
    if len(given) > 1:
        raise UsageError(f"{' and '.join(given)} do not go together; choose one.")
    return given[0] if given else None


def _device_for(tier: str, device: str) -> str:
    """Where networks run; the builtin tier has none, and needs no torch to know."""
    if tier == "builtin":
        return "cpu"
    from blockvid_cli.job import resolve_device

    return resolve_device(device)


def _pull(tier: str, weights_dir: Path | None, protocol: Protocol) -> None:
    """Brings the checkpoints that a tier lacks; it is said which, how large and under which licence."""
    if tier == "builtin":
        raise UsageError("--pull: the builtin tier has nothing to download; it goes with --tier vbench.")
    from blockvid_cli.evaluation.backends import checkpoints

    wanted = [c for c in checkpoints.CHECKPOINTS if c is not checkpoints.DINOV2 or protocol is Protocol.LONG]
    checkpoints.pull(wanted, lambda line: print(line, file=sys.stderr, flush=True), weights_dir)


def _gather(
    films: Sequence[Path], suite: Path | None, part: str, settings: EvalConfig, jobs: int | None, fresh: bool
) -> tuple[list[dict[str, Any]], list[Item]]:
    """Scores of films, then of a suite's by their own storyboards; and the suite's items."""
    from blockvid_cli.evaluation.films import score_films
    from blockvid_cli.evaluation.suite import find_items, select_split

    items = select_split(find_items(suite), part) if suite else []
    asked = [*((film, None) for film in films), *((item.video, item.storyboard) for item in items)]
    if not asked:
        return [], []
    with progress(len(asked)) as tell:
        return score_films(asked, settings, jobs, fresh, tell), items


def _with_imports(results: Sequence[Result], files: Sequence[Path]) -> list[Result]:
    """Results beside what other programs wrote about the same films."""
    if not files:
        return list(results)
    from blockvid_cli.evaluation.imports import merge_results, read_imports

    return merge_results(results, read_imports(files))


def _summary(items: Sequence[Item], results: Sequence[Result]) -> dict[str, Any]:
    """What a suite's results say together: means and, of films with known drift, what each drift did to each score."""
    if not items:
        return {}
    from blockvid_cli.evaluation.ranking import drift_changes, severity_rows
    from blockvid_cli.evaluation.suite import mean_scores

    results = results[-len(items) :]
    rows = severity_rows(items, results)
    return {"means": mean_scores(results, items)} | (
        {"drifts": drift_changes(rows), "severities": rows} if rows else {}
    )


def _draw(results: Sequence[Result], path: Path) -> None:
    """The plot of every measure over time."""
    from blockvid_cli.evaluation.plot import plot

    good = [result for result in results if result.get("seconds")]
    if good:
        plot(good, names_of(good), path)


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
    from blockvid_cli.evaluation.columns import best_indices, format_score, score_columns, sparkline

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
