"""One film, drawn while a person looks on: progress, history, Ctrl-C, and what is said in the end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from blockvid_cli.clock import Clock
from blockvid_cli.commands import hint, show
from blockvid_cli.commands.record import recorded
from blockvid_cli.errors import Interrupted

if TYPE_CHECKING:
    from blockvid_cli.film.mux import Film
    from blockvid_cli.order import Job


@dataclass(frozen=True)
class Drawn:
    """A finished film, what it was drawn from, and the seconds that took."""

    film: Film
    job: Job
    clock: Clock

    @property
    def spent(self) -> float:
        """Seconds of all phases."""
        return sum(self.clock.seconds.values())

    def values(self) -> dict[str, Any]:
        """What came of it, for programs."""
        return {
            "film": str(self.film.path),
            "seconds": self.film.seconds,
            "frames": self.film.frames,
            "seed": self.job.plan.seed,
            "rendering_seconds": round(self.spent, 1),
            "phases": {name: round(seconds, 2) for name, seconds in self.clock.seconds.items()},
        }

    def __str__(self) -> str:
        film, seed = self.film, self.job.plan.seed
        return f"{film.path}: {film.seconds:.3f} s, {film.frames} frames, seed {seed}, drawn in {self.spent:.1f} s"


def draw(job: Job, form: show.ProgressForm) -> Drawn:
    """Draws what is missing of a film.

    Raises:
        Interrupted: by Ctrl-C; what is finished is kept.
        BlockvidError: with the exit code that fits.
    """
    from blockvid_cli.pipeline import render

    clock = Clock()
    try:
        with show.progress(job, form) as tell, recorded(job, tell) as told:
            film = render(job, told, clock)
    except KeyboardInterrupt as stop:
        raise Interrupted("interrupted; everything finished is kept, the same command goes on.") from stop
    return Drawn(film, job, clock)


def report(drawn: Drawn, form: show.ProgressForm, as_json: bool) -> None:
    """What came of it, to stdout; after the first film on a machine also what to try next."""
    show.result(drawn.values(), str(drawn), as_json)
    if form is show.ProgressForm.AUTO and not as_json:
        hint.after_the_first(drawn.job.storyboard.source, drawn.film.path)
