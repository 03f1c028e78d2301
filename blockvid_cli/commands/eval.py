"""``blockvid eval``: scores films, and measures how far they drift."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from blockvid_cli.commands import options, terminal
from blockvid_cli.errors import UsageError
from blockvid_cli.evaluation.segments import Bounds, Protocol, Weights

if TYPE_CHECKING:
    from blockvid_cli.evaluation.scores import EvalConfig
    from blockvid_cli.evaluation.suite import Item


Result = dict[str, Any]
MAX_FILMS = 12  # in one table; of a larger suite only its means are printed
FIRST_WIDTH, WIDTH = 36, 18  # characters of a table's first column, and of a film's
REASONS = {
    "too_few_frames": "too few frames for a metric",
    "too_short": "the film is shorter than two segments",
    "unscored_segment": "a segment is too short to be scored",
    "zero_reference": "the first segment scores 0, so there is no relative drift",
    "not_finite": "a segment's score is no number",
    "no_weight": "all weights are zero",
    "only_picture_books_without_clip": "captions: without CLIP only picture-book films are scored; use --tier vbench",
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
    typer.Option(help="the captions that the films should follow", autocompletion=options.complete_storyboard),
]
HowScored = Annotated[Protocol, typer.Option(help="whole films, or clips of 2 s like VBench-Long")]
TitleSeconds = Annotated[
    float | None,
    typer.Option(min=0, help="length of a title card, which is not scored; blockvid's own films say it themselves"),
]
EndSeconds = Annotated[
    float | None, typer.Option(min=0, help="length of an end card, which is not scored; see --title-seconds")
]
Backends = Annotated[list[str] | None, typer.Option(help="a backend you installed: imaging_quality=pyiqa:musiq-spaq")]
VBenchResults = Annotated[list[Path] | None, typer.Option(help="result files of VBench, shown beside the films")]


class Part(StrEnum):
    """Which films of a suite are scored."""

    ALL = "all"
    TRAIN = "train"
    TEST = "test"


def evaluate(
    films: Annotated[list[Path] | None, typer.Argument(help="films, in any format that ffmpeg reads")] = None,
    tier: Tier = "builtin",
    storyboard: Captions = None,
    suite: Annotated[Path | None, typer.Option(help="a folder of films and storyboards, such as LV-Bench")] = None,
    part: Annotated[Part, typer.Option(help="of a suite: all films, or one side of its 80/20 split")] = Part.ALL,
    segments: Annotated[str, typer.Option(help="segments of a film: 10, or a length (6s), or 'storyboard'")] = "10",
    weights: Annotated[Weights, typer.Option(help="weights of the segments in a drift error")] = Weights.LINEAR,
    bounds: Annotated[Bounds, typer.Option(help="what happens to frames that do not divide evenly")] = Bounds.TRIM,
    title_seconds: TitleSeconds = None,
    end_seconds: EndSeconds = None,
    protocol: HowScored = Protocol.WHOLE,
    stride: Annotated[int | None, typer.Option(min=1, help="use every n-th frame only")] = None,
    sample_fps: Annotated[float | None, typer.Option(min=0.1, help="use about so many frames per second")] = None,
    use: Backends = None,
    weights_dir: Annotated[Path | None, typer.Option(help="a folder with the vbench tier's checkpoints")] = None,
    pull: Annotated[bool, typer.Option("--pull", help="download the vbench tier's checkpoints first")] = False,
    import_vbench: VBenchResults = None,
    device: options.Device = "auto",
    jobs: Annotated[int | None, typer.Option(min=1, help="how many films at once; default: one per core")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="score films again that were scored before")] = False,
    plot: Annotated[Path | None, typer.Option(help="write a PNG of every metric over time")] = None,
    as_json: options.AsJson = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="print a line per film")] = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="print a Markdown table")] = False,
) -> None:
    """Score films with VBench's dimensions, and measure how far a long film drifts from its beginning.

    The five Video Drift Errors (VDE) compare the segments of a film with its first segment.

    Several films are compared, and the best values are marked. A film that was scored before is not scored again.

    Example: blockvid eval first.mp4 second.mp4 --plot drift.png

    Example: blockvid eval storyboards/swan.mp4 --storyboard storyboards/swan.yaml --segments storyboard
    """
    form = _exclusive({"--json": as_json, "--csv": as_csv, "--markdown": as_markdown}) or "table"
    _exclusive({"--stride": bool(stride), "--sample-fps": bool(sample_fps)})
    if not films and not suite and not import_vbench:
        raise UsageError("name a film, as in: blockvid eval film.mp4")
    if storyboard and not storyboard.exists():
        raise UsageError(f"--storyboard: {storyboard} is not there.")
    from blockvid_cli.evaluation.scores import EvalConfig
    from blockvid_cli.evaluation.tiers import BackendConfig

    if pull:
        _pull(tier, weights_dir, protocol)
    backends = BackendConfig(tier, weights_dir, _device_for(tier, device), tuple(use or ()))
    config = EvalConfig(
        backends, protocol, segments, weights, bounds, stride, sample_fps, storyboard, title_seconds, end_seconds
    )
    results, items = _score(films or [], suite, part.value, config, jobs, fresh)
    all_results = _with_imports(results, import_vbench or [])
    if plot:
        _write_plot(all_results, plot)
    PRINTERS[form](all_results, _summary(items, results))
    if failed := next((result["film"] for result in all_results if "error" in result), None):
        raise typer.Exit(1 if Path(failed).exists() else UsageError.exit_code)


def _exclusive(switches: Mapping[str, bool]) -> str | None:
    """Returns the one option that is on.

    Raises:
        UsageError: more than one is.
    """
    names = [name for name, on in switches.items() if on]
    if len(names) > 1:
        raise UsageError(f"{' and '.join(names)} do not go together; choose one.")
    return names[0] if names else None


def _device_for(tier: str, device: str) -> str:
    """Returns where networks run; the builtin tier has none, and does not need torch."""
    if tier == "builtin":
        return "cpu"
    from blockvid_cli.models.devices import resolve_device

    return resolve_device(device)


def _pull(tier: str, weights_dir: Path | None, protocol: Protocol) -> None:
    """Downloads the checkpoints that a tier lacks; prints their names, sizes and licences."""
    if tier == "builtin":
        raise UsageError("--pull: the builtin tier has nothing to download; it goes with --tier vbench.")
    from blockvid_cli.evaluation.backends import checkpoints

    needed = [c for c in checkpoints.CHECKPOINTS if c is not checkpoints.DINOV2 or protocol is Protocol.LONG]
    checkpoints.pull(needed, terminal.note, weights_dir)


def _score(
    films: Sequence[Path], suite: Path | None, part: str, config: EvalConfig, jobs: int | None, fresh: bool
) -> tuple[list[dict[str, Any]], list[Item]]:
    """Returns the scores of films, then those of a suite by its own storyboards; and the suite's items."""
    from blockvid_cli.evaluation.films import score_films
    from blockvid_cli.evaluation.suite import find_items, select_split

    items = select_split(find_items(suite), part) if suite else []
    targets = [*((film, None) for film in films), *((item.video, item.storyboard) for item in items)]
    if not targets:
        return [], []
    with _progress(len(targets)) as listener:
        return score_films(targets, config, jobs, fresh, listener), items


def _with_imports(results: Sequence[Result], files: Sequence[Path]) -> list[Result]:
    """Returns the results beside those of other programs for the same films."""
    if not files:
        return list(results)
    from blockvid_cli.evaluation.imports import merge_results, read_imports

    return merge_results(results, read_imports(files))


def _summary(items: Sequence[Item], results: Sequence[Result]) -> dict[str, Any]:
    """Returns the means of a suite and, for films with known drift, what each drift did to each score."""
    if not items:
        return {}
    from blockvid_cli.evaluation.suite import drift_changes, mean_scores, severity_rows

    results = results[-len(items) :]
    rows = severity_rows(items, results)
    return {"means": mean_scores(results, items)} | (
        {"drifts": drift_changes(rows), "severities": rows} if rows else {}
    )


def _write_plot(results: Sequence[Result], path: Path) -> None:
    """Writes a plot of every metric over time."""
    from blockvid_cli.evaluation.tables import plot

    good = [result for result in results if result.get("seconds")]
    if good:
        plot(good, _film_names(good), path)


@contextmanager
def _progress(films: int) -> Iterator[Callable[[int, float], None]]:
    """Yields a listener that moves one bar for all films, if stderr is a terminal."""
    console = terminal.console(stderr=True)
    if not console.is_terminal:
        yield lambda number, done: None
        return
    columns = (TextColumn("scoring"), BarColumn(bar_width=None), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task, fractions = bar.add_task("", total=films), [0.0] * films

        def update(number: int, done: float) -> None:
            fractions[number] = done
            bar.update(task, completed=sum(fractions))

        yield update


def _print_json(results: Sequence[Result], together: Mapping[str, Any]) -> None:
    """Prints all results."""
    terminal.write_json({"films": results, **together})


def _print_csv(results: Sequence[Result], together: Mapping[str, Any]) -> None:
    """Prints a line per film."""
    from blockvid_cli.evaluation.tables import as_csv

    terminal.write(as_csv(results), end="")
    _print_errors(results)


def _print_markdown(results: Sequence[Result], together: Mapping[str, Any]) -> None:
    """Prints films side by side; for a suite with known drift, what each drift did."""
    from blockvid_cli.evaluation.tables import as_markdown, drifts_markdown

    good = [result for result in results if "error" not in result]
    terminal.write(
        drifts_markdown(together["drifts"]) if "drifts" in together else as_markdown(good, _film_names(good))
    )
    _print_errors(results)


def _print_tables(results: Sequence[Result], together: Mapping[str, Any]) -> None:
    """Prints films side by side with the best values marked; for a suite its means and what each known drift did."""
    good = [result for result in results if "error" not in result]
    if good and (len(good) <= MAX_FILMS or not together):
        _print_films(good)
    if "means" in together:
        _print_means(together["means"]["columns"])
    if "drifts" in together:
        _print_drifts(together["drifts"])
    _print_notes(good)
    _print_errors(results)


def _print_films(results: Sequence[Result]) -> None:
    """Prints as many films beside each other as fit into the terminal; the best values are marked."""
    from blockvid_cli.evaluation.tables import best_indices, format_score, score_columns, sparkline

    rows, names, console = [score_columns(result) for result in results], _film_names(results), terminal.console()
    columns = list(dict.fromkeys(column for row in rows for column in row))
    top = {column: best_indices([row.get(column) for row in rows], column.higher) for column in columns}
    across = max(1, (console.width - FIRST_WIDTH) // WIDTH)
    for start in range(0, len(rows), across):
        films = range(start, min(start + across, len(rows)))
        grid = _table("", *(names[film] for film in films))
        if len(rows) == 1:
            grid.add_column("over time", no_wrap=True)
        heading = ""
        for column in columns:
            if column.heading != heading:
                heading = column.heading
                grid.add_row(Text(heading, style="dim"))
            cells = [rows[film].get(column) for film in films]
            texts = [
                Text(
                    f"{cell or format_score(None)}{' *' if film in top[column] else '  '}",
                    style="bold" * (film in top[column]),
                )
                for film, cell in zip(films, cells, strict=True)
            ]
            sparklines = [Text(sparkline(cell.segments)) for cell in cells if cell] if len(rows) == 1 else []
            grid.add_row(Text(f"  {column.title} {column.arrow}"), *texts, *sparklines)
        console.print(grid)
    terminal.write(
        "VDE: drift away from the first segment; in brackets divided by the weights' sum"
        + " · * best" * (len(rows) > 1)
    )


def _print_means(columns: Mapping[str, Any]) -> None:
    from blockvid_cli.evaluation.tables import format_score

    grid = _table("mean over the films", "mean", "weighted", "films")
    for name, value in columns.items():
        weighted = format_score(value["normalised"]) if "normalised" in value else ""
        grid.add_row(_plain(name), format_score(value["mean"]), weighted, value["share"])
    terminal.console().print(grid)


def _print_drifts(drifts: Mapping[str, Any]) -> None:
    """Prints a row per score and a column per drift: change from none to most, rank correlation, stories in order."""
    from blockvid_cli.evaluation.tables import drift_cell

    grid = _table("from clean to worst", *drifts)
    for name in dict.fromkeys(name for scores in drifts.values() for name in scores):
        cells = [
            Text(drift_cell(scores[name]), style="bold" if scores[name]["meant"] else "dim")
            for scores in drifts.values()
        ]
        grid.add_row(_plain(name.removesuffix("_builtin")), *cells)
    terminal.console().print(grid)
    terminal.write("Change from no drift to the most: its weighted value of a drift error, its share of another score;")
    terminal.write(
        "in brackets the stories whose severities are in their known order; bold: scores meant to see the drift."
    )


def _table(first: str, *names: str) -> Table:
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    grid.add_column(first, no_wrap=True)
    for name in names:
        grid.add_column(Text(name), justify="right", overflow="fold")
    return grid


def _plain(name: str) -> str:
    return name.replace("_", " ").replace(".", " ")


def _print_notes(results: Sequence[Result]) -> None:
    """Prints why a number is missing, and what is unusual about a film."""
    console = terminal.console()
    for result in results:
        parts = [result["metrics"], *result["vde"].values(), {"adherence": result.get("adherence") or {}}]
        missing = {entry["reason"] for part in parts for entry in part.values() if entry.get("reason")}
        for note in [*result["notes"], *(REASONS.get(reason, reason) for reason in sorted(missing))]:
            console.print(Text(f"{Path(result['film']).name}: {note}", style="dim"))


def _print_errors(results: Sequence[Result]) -> None:
    """Prints to stderr which films have no scores."""
    for result in results:
        if "error" in result:
            terminal.error(result["error"])


def _film_names(results: Sequence[Result]) -> list[str]:
    """Returns the films' names in tables: their stems, or folder and name where two have the same stem."""
    paths = [Path(result["film"]) for result in results]
    stems = [path.stem for path in paths]
    return [path.stem if stems.count(path.stem) == 1 else f"{path.parent.name}/{path.name}" for path in paths]


PRINTERS = {
    "table": _print_tables,
    "--json": _print_json,
    "--csv": _print_csv,
    "--markdown": _print_markdown,
}
