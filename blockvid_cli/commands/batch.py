"""Many films in one go: every storyboard with every seed; what fails does not stop the rest."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from blockvid_cli.commands import display as show
from blockvid_cli.commands import film
from blockvid_cli.errors import BlockvidError, Interrupted, UsageError, from_os_error

if TYPE_CHECKING:
    from blockvid_cli.job import RenderJob, RenderRequest

MOST = 1000  # seeds in one go


def seeds_of(text: str) -> list[int]:
    """``"1..4"``, ``"3,5,9"`` or ``"1..4,9"`` as seeds, each once, in the order given.

    Raises:
        UsageError: it is none of these, or more than a thousand seeds.
    """
    seeds: dict[int, None] = {}
    for part in text.split(","):
        match = re.fullmatch(r"\s*([0-9]{1,18})(?:\s*\.\.\s*([0-9]{1,18}))?\s*", part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if last < first:
            raise UsageError(f"--seeds: give 1..4, or 3,5,9; not '{text}'.")
        if last - first >= MOST or len(seeds) >= MOST:
            raise UsageError(f"--seeds: at most {MOST} in one go; not '{text}'.")
        seeds |= dict.fromkeys(range(first, last + 1))
    return list(seeds)


def asked(stories: Sequence[Path], seed: int | None, seeds: str | None, output: Path | None) -> bool:
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


def orders(order: RenderRequest, stories: Sequence[Path], seeds: str | None) -> list[RenderRequest]:
    """An order a film; ``a.yaml`` with seed 3 becomes ``a-seed-3.mp4``, beside it or in the folder of ``-o``."""
    found, folder = [], order.output
    for story in stories:
        home = folder or story.parent
        if seeds is None:
            found.append(replace(order, storyboard=story, output=folder and home / f"{story.stem}.mp4"))
            continue
        for seed in seeds_of(seeds):
            found.append(replace(order, storyboard=story, seed=seed, output=home / f"{story.stem}-seed-{seed}.mp4"))
    return found


@dataclass
class Row:
    """What came of one film."""

    order: RenderRequest
    job: RenderJob | None = None
    drawn: film.Drawn | None = None
    result: str = "not begun"
    code: int = 0

    @property
    def path(self) -> Path:
        """The film; the storyboard, where it could not be read."""
        return self.job.output if self.job else self.order.output or self.order.storyboard

    @property
    def seed(self) -> int | None:
        """None where neither the order nor a storyboard that can be read says it."""
        return self.job.plan.seed if self.job else self.order.seed

    def values(self) -> dict[str, Any]:
        """For programs."""
        known = {"storyboard": str(self.order.storyboard), "film": str(self.path), "seed": self.seed}
        return {**known, **(self.drawn.values() if self.drawn else {}), "result": self.result, "exit_code": self.code}

    def cells(self) -> tuple[str, ...]:
        """For people."""
        took = f"{self.drawn.spent:.1f} s" if self.drawn else "-"
        return str(self.path), "-" if self.seed is None else str(self.seed), took, self.result


def draw_all(wanted: Sequence[RenderRequest], form: show.ProgressForm, as_json: bool) -> None:
    """Checks all, then draws one after another; in the end says what came of each.

    Raises:
        UsageError: two films would have one name.
        Interrupted: by Ctrl-C; what is finished is kept.
        typer.Exit: with the exit code of the first that failed.
    """
    from blockvid_cli.job import prepare

    rows, said = [Row(order) for order in wanted], set[str]()
    for row in rows:
        with _kept_going(row, said):
            row.job = prepare(row.order)
    ready = [(row, row.job) for row in rows if row.job]
    _one_name_each([job for _, job in ready])
    try:
        for number, (row, job) in enumerate(ready, 1):
            _tell(form, number, len(ready), job)
            with _kept_going(row, said):
                row.drawn, row.result = film.draw(job, form), "done"
    finally:
        _summary(rows, as_json)
    code = next((row.code for row in rows if row.code), 0)
    if code:
        raise typer.Exit(code)


@contextmanager
def _kept_going(row: Row, said: set[str]) -> Iterator[None]:
    """What goes wrong inside is noted, and told unless it was ``said``; Ctrl-C is noted, and goes on its way."""
    try:
        yield
    except (Interrupted, KeyboardInterrupt):
        row.result, row.code = "interrupted", Interrupted.exit_code
        raise
    except (BlockvidError, OSError) as error:
        told = from_os_error(error) if isinstance(error, OSError) else error
        row.result, row.code = f"failed: {told}", told.exit_code
        if str(told) not in said:
            print(f"blockvid: {told}", file=sys.stderr, flush=True)
        said.add(str(told))


def _one_name_each(jobs: Sequence[RenderJob]) -> None:
    """Two storyboards of one name in different folders would write one film into the folder of ``-o``."""
    seen: dict[Path, RenderJob] = {}
    for job in jobs:
        other = seen.setdefault(job.output.resolve(), job)
        if other is not job:
            raise UsageError(f"{other.request.storyboard} and {job.request.storyboard} would both become {job.output}.")


def _tell(form: show.ProgressForm, number: int, films: int, job: RenderJob) -> None:
    """Which film comes now, on stderr."""
    if form is show.ProgressForm.JSON:
        event = {"event": "film", "film": str(job.output), "seed": job.plan.seed, "number": number, "films": films}
        print(json.dumps(event), file=sys.stderr, flush=True)
    elif form is not show.ProgressForm.NONE:
        print(f"film {number} of {films}: {job.output}", file=sys.stderr, flush=True)


def _summary(rows: Sequence[Row], as_json: bool) -> None:
    """What came of each film, to stdout."""
    if as_json:
        print(json.dumps({"films": [row.values() for row in rows]}, ensure_ascii=False), flush=True)
    else:
        show.table(("film", "seed", "drawn in", "result"), [row.cells() for row in rows])
