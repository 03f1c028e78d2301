"""``blockvid eval``: how good films are, and how far they drift."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from blockvid_cli.commands import completion as complete
from blockvid_cli.commands import eval_output as scored
from blockvid_cli.commands import options
from blockvid_cli.errors import UsageError
from blockvid_cli.evaluation.spans import Bounds, Protocol
from blockvid_cli.evaluation.vde import Weights

if TYPE_CHECKING:
    from blockvid_cli.commands.eval_output import Result
    from blockvid_cli.evaluation.scores import EvalConfig
    from blockvid_cli.evaluation.suite import Item


Tier = Annotated[
    str,
    typer.Option(
        help="builtin: no download; vbench: the reference networks (extra 'eval')", autocompletion=complete.tiers
    ),
]
Captions = Annotated[
    Path | None,
    typer.Option(help="captions that the films are to follow", autocompletion=complete.storyboards),
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
    scored.FORMS[form](shown, _summary(items, results))
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
    from blockvid_cli.evaluation.suite import select_split, find_items

    items = select_split(find_items(suite), part) if suite else []
    asked = [*((film, None) for film in films), *((item.video, item.storyboard) for item in items)]
    if not asked:
        return [], []
    with scored.progress(len(asked)) as tell:
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
        plot(good, scored.names_of(good), path)
