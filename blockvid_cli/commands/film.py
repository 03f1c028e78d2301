"""One film, drawn while a person looks on: progress, history, Ctrl-C, and what is said in the end."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blockvid_cli.commands import display as show
from blockvid_cli.commands import hint, last
from blockvid_cli.commands.history_log import recorded
from blockvid_cli.errors import BlockvidError, Interrupted
from blockvid_cli.timing import PhaseTimer

if TYPE_CHECKING:
    from blockvid_cli.job import RenderJob
    from blockvid_cli.report.render_report import RenderLog
    from blockvid_cli.video.mux import Film


@dataclass(frozen=True)
class Drawn:
    """A finished film, what it was drawn from, and the seconds that took."""

    film: Film
    job: RenderJob
    clock: PhaseTimer
    page: Path | None = None  # its report

    @property
    def spent(self) -> float:
        """Seconds of all phases."""
        return sum(self.clock.seconds.values())

    def values(self) -> dict[str, Any]:
        """What came of it, for programs."""
        return {
            "film": str(self.film.path),
            "report": str(self.page) if self.page else None,
            "seconds": self.film.seconds,
            "frames": self.film.frames,
            "seed": self.job.plan.seed,
            "rendering_seconds": round(self.spent, 1),
            "phases": {name: round(seconds, 2) for name, seconds in self.clock.seconds.items()},
        }

    def __str__(self) -> str:
        film, seed = self.film, self.job.plan.seed
        return f"{film.path}: {film.seconds:.3f} s, {film.frames} frames, seed {seed}, drawn in {self.spent:.1f} s"


def draw(job: RenderJob, form: show.ProgressForm, with_report: bool = True) -> Drawn:
    """Draws what is missing of a film, and writes its report; one that cannot be written costs no film, but is told.

    Raises:
        Interrupted: by Ctrl-C; what is finished is kept.
        BlockvidError: with the exit code that fits.
    """
    from blockvid_cli.render import render
    from blockvid_cli.report.render_report import RenderLog

    clock = PhaseTimer()
    try:
        with show.progress(job, form) as tell:
            with recorded(job, tell) as told:
                diary = RenderLog(told)
                film = render(job, diary, clock)
            page = _reported(job, diary, clock) if with_report else None
    except KeyboardInterrupt as stop:
        raise Interrupted("interrupted; everything finished is kept, the same command goes on.") from stop
    last.remember(job.storyboard.source)
    return Drawn(film, job, clock, page)


def _reported(job: RenderJob, diary: RenderLog, clock: PhaseTimer) -> Path | None:
    from blockvid_cli.report.render_report import write_render_report as write
    from blockvid_cli.session import Event

    try:
        return write(job, diary, clock, shlex.join(["blockvid", *sys.argv[1:]]))
    except (BlockvidError, OSError) as error:
        diary.tell(Event("note", f"there is no report: {error}"))
        return None


def report(drawn: Drawn, form: show.ProgressForm, as_json: bool) -> None:
    """What came of it, to stdout; after the first film on a machine also what to try next."""
    show.result(drawn.values(), str(drawn), as_json)
    if form is show.ProgressForm.AUTO and not as_json:
        hint.after_the_first(drawn.job.storyboard.source, drawn.film.path)
