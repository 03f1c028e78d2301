"""``blockvid render``: renders a storyboard into a film; several storyboards, or several seeds, into several films."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from blockvid_cli.commands import display, film, options, terminal
from blockvid_cli.errors import (
    STOP_WORDS,
    BlockvidError,
    Interrupted,
    UsageError,
    stop_exit_code,
    to_blockvid_error,
)
from blockvid_cli.storyboard.storyboard import read_storyboard

if TYPE_CHECKING:
    from blockvid_cli.job import RenderJob, RenderRequest

MAX_SEEDS = 1000  # in one command


def render(
    stories: options.Stories = None,
    output: options.Output = None,
    model: options.Model = None,
    seed: options.Seed = None,
    seeds: options.Seeds = None,
    steps: options.Steps = None,
    guidance_scale: options.GuidanceScale = None,
    size: options.Size = None,
    untrained_size: options.UntrainedSize = False,
    fps: options.Fps = None,
    kv_cache: options.KVCache = None,
    set_: options.Set = None,
    device: options.Device = "auto",
    precision: options.Precision = "auto",
    preset: options.Preset = "auto",
    offload: options.Offload = None,
    kv_storage: options.KVStorage = None,
    kv_dtype: options.KVDtype = None,
    retry: Annotated[bool, typer.Option(help="when memory runs out, continue with a lower preset")] = True,
    fresh: options.Fresh = False,
    chunk: options.Chunk = None,
    take: options.Take = None,
    from_chunk: options.FromChunk = None,
    only: options.Only = None,
    report: Annotated[bool, typer.Option(help="write a report beside the film: how it was made, how it drifts")] = True,
    metadata: Annotated[bool, typer.Option(help="store storyboard, recipe and seeds inside the film")] = True,
    allow_outside: options.AllowOutside = False,
    progress: options.Progress = display.ProgressForm.AUTO,
    quiet: options.Quiet = False,
    as_json: options.AsJson = False,
) -> None:
    """Render a storyboard into a film; after an interruption or an edit, only what is missing is rendered.

    Several storyboards, or several --seeds, are rendered one after another; if one fails, the others go on.

    Example: blockvid render storyboards/swan.yaml --seed 7 -o swan.mp4

    Example: blockvid render storyboards/swan.yaml storyboards/balloon.yaml --seeds 1..4
    """
    started, stories = time.perf_counter(), stories or [options.default_storyboard(Path.cwd(), "render {}")]
    several = _several_films(stories, seed, seeds, output)
    _check_retake_options(chunk, take, from_chunk, only, several, fresh)
    storyboard = None if several else read_storyboard(stories[0], set_ or (), allow_outside)  # before torch is loaded
    from blockvid_cli.job import RenderRequest, prepare
    from blockvid_cli.runtime.presets import RuntimeOptions

    runtime = RuntimeOptions(preset, precision, offload, kv_storage, kv_dtype)
    request = RenderRequest(storyboard=stories[0], output=output, model=model, seed=seed, size=size, fps=fps)
    request = replace(request, recipe=options.recipe_options(steps, guidance_scale, kv_cache), runtime=runtime)
    request = replace(request, overrides=tuple(set_ or ()), device=device, allow_outside=allow_outside)
    request = replace(request, retry=retry, fresh=fresh, metadata=metadata, untrained_size=untrained_size)
    form = display.ProgressForm.NONE if quiet else progress
    if several:
        return _render_several(_requests(request, stories, seeds), form, as_json)
    job = _with_retake(prepare(request, storyboard), chunk, take, from_chunk, only)
    return film.print_result(film.render_film(job, form, report, started), form, as_json)


def _check_retake_options(
    chunk: int | None, take: int | None, from_chunk: int | None, only: int | None, several: bool, fresh: bool
) -> None:
    """Refuses options that exclude each other.

    Raises:
        UsageError: --chunk, --from-chunk, --only, --take or --fresh do not go together.
    """
    values = {"--chunk": chunk, "--from-chunk": from_chunk, "--only": only}
    names = [name for name, value in values.items() if value is not None]
    if len(names) > 1:
        raise UsageError(f"{' and '.join(names)} do not go together; choose one.")
    if take is not None and (not names or names == ["--from-chunk"]):
        raise UsageError("--take: of which chunk? It goes with --chunk or --only.")
    if names and several:
        raise UsageError(f"{names[0]} is about one film; name one storyboard and one seed.")
    if names and fresh:
        raise UsageError(f"{names[0]} and --fresh do not go together: --fresh renders everything again.")


def _with_retake(
    job: RenderJob, chunk: int | None, take: int | None, from_chunk: int | None, only: int | None
) -> RenderJob:
    """Returns the job with the takes that the options ask for.

    Raises:
        UsageError: there is no such chunk, or its neighbours cannot stay.
    """
    number = chunk or from_chunk or only
    if number is None:
        return job
    from blockvid_cli.retake import RetakeRequest, retake

    return retake(job, RetakeRequest(number, take, alone=only is not None, to_end=from_chunk is not None))


def parse_seeds(text: str) -> list[int]:
    """Reads ``"1..4"``, ``"3,5,9"`` or ``"1..4,9"`` as seeds, each once, in this order.

    Raises:
        UsageError: it is none of these, or more than a thousand seeds.
    """
    seeds: dict[int, None] = {}
    for part in text.split(","):
        match = re.fullmatch(r"\s*([0-9]{1,18})(?:\s*\.\.\s*([0-9]{1,18}))?\s*", part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if last < first:
            raise UsageError(f"--seeds: give 1..4, or 3,5,9; not '{text}'.")
        if last - first >= MAX_SEEDS or len(seeds) >= MAX_SEEDS:
            raise UsageError(f"--seeds: at most {MAX_SEEDS} in one command; not '{text}'.")
        seeds |= dict.fromkeys(range(first, last + 1))
    return list(seeds)


def _several_films(stories: Sequence[Path], seed: int | None, seeds: str | None, output: Path | None) -> bool:
    """Whether a command line asks for several films.

    Raises:
        UsageError: its options do not go together.
    """
    if seeds is not None and seed is not None:
        raise UsageError("--seed and --seeds do not go together; give one of them.")
    several = len(stories) > 1 or seeds is not None
    if several and output is not None and output.suffix and not output.is_dir():
        raise UsageError(f"-o: these are several films; name a folder for them, not '{output.name}', or leave it out.")
    return several


def _requests(request: RenderRequest, stories: Sequence[Path], seeds: str | None) -> list[RenderRequest]:
    """One request per film; ``a.yaml`` with seed 3 becomes ``a-seed-3.mp4``, beside it or in the folder of ``-o``."""
    requests = []
    for story in stories:
        folder = request.output or story.parent
        if seeds is None:
            output = request.output and folder / f"{story.stem}.mp4"
            requests.append(replace(request, storyboard=story, output=output))
            continue
        for seed in parse_seeds(seeds):
            output = folder / f"{story.stem}-seed-{seed}.mp4"
            requests.append(replace(request, storyboard=story, seed=seed, output=output))
    return requests


@dataclass
class FilmRow:
    """One film of several, and how its render ended."""

    request: RenderRequest
    job: RenderJob | None = None
    outcome: film.RenderResult | None = None
    result: str = "not begun"
    exit_code: int = 0

    @property
    def path(self) -> Path:
        """The film; the storyboard, where it could not be read."""
        return self.job.output if self.job else self.request.output or self.request.storyboard

    @property
    def seed(self) -> int | None:
        """None where neither the command nor a readable storyboard names it."""
        return self.job.plan.seed if self.job else self.request.seed

    def values(self) -> dict[str, Any]:
        """Returns the row for programs."""
        values = {"storyboard": str(self.request.storyboard), "film": str(self.path), "seed": self.seed}
        rendered = self.outcome.values() if self.outcome else {}
        return {**values, **rendered, "result": self.result, "exit_code": self.exit_code}

    def cells(self) -> tuple[str, ...]:
        """Returns the row for people."""
        seconds = f"{self.outcome.seconds:.1f} s" if self.outcome else "-"
        return str(self.path), "-" if self.seed is None else str(self.seed), seconds, self.result


def _render_several(requests: Sequence[RenderRequest], form: display.ProgressForm, as_json: bool) -> None:
    """Checks all films, then renders one after another, and at the end says how each render ended.

    Raises:
        UsageError: two films would have one name.
        Interrupted: by Ctrl-C; everything finished is kept.
        typer.Exit: with the exit code of the first film that failed.
    """
    from blockvid_cli.job import prepare

    rows, printed = [FilmRow(request) for request in requests], set[str]()
    for row in rows:
        with _errors_noted(row, printed):
            row.job = prepare(row.request)
    ready = [(row, row.job) for row in rows if row.job]
    _check_distinct([job for _, job in ready])
    try:
        for number, (row, job) in enumerate(ready, 1):
            _announce(form, number, len(ready), job)
            with _errors_noted(row, printed):
                row.outcome, row.result = film.render_film(job, form), "done"
    finally:
        _print_summary(rows, as_json)
    code = next((row.exit_code for row in rows if row.exit_code), 0)
    if code:
        raise typer.Exit(code)


@contextmanager
def _errors_noted(row: FilmRow, printed: set[str]) -> Iterator[None]:
    """Notes an error in the row and prints its sentence once; Ctrl-C is noted and raised."""
    try:
        yield
    except (Interrupted, KeyboardInterrupt) as stop:
        row.exit_code = stop_exit_code(stop)
        row.result = STOP_WORDS[row.exit_code]
        raise
    except (BlockvidError, OSError, MemoryError, RuntimeError) as error:
        failure = to_blockvid_error(error)
        if failure is None:
            raise
        row.result, row.exit_code = f"failed: {failure}", failure.exit_code
        if str(failure) not in printed:
            terminal.error(str(failure))
        printed.add(str(failure))


def _check_distinct(jobs: Sequence[RenderJob]) -> None:
    """Two storyboards of one name in different folders would write one film into the folder of ``-o``."""
    by_output: dict[Path, RenderJob] = {}
    for job in jobs:
        other = by_output.setdefault(job.output.resolve(), job)
        if other is not job:
            stories = f"{other.request.storyboard} and {job.request.storyboard}"
            raise UsageError(f"{stories} would both become {job.output}.")


def _announce(form: display.ProgressForm, number: int, films: int, job: RenderJob) -> None:
    """Says on stderr which film is next."""
    if form is display.ProgressForm.JSON:
        event = {"event": "film", "film": str(job.output), "seed": job.plan.seed, "number": number, "films": films}
        terminal.note_json(event)
    elif form is not display.ProgressForm.NONE:
        terminal.note(f"film {number} of {films}: {job.output}")


def _print_summary(rows: Sequence[FilmRow], as_json: bool) -> None:
    """Prints to stdout how each render ended."""
    if as_json:
        terminal.write_json({"films": [row.values() for row in rows]})
    else:
        display.table(("film", "seed", "rendered in", "result"), [row.cells() for row in rows])
