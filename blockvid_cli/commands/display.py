"""The only file that draws on the terminal: progress to stderr, results to stdout."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.table import Table
from rich.text import Text

from blockvid_cli.storyboard.plan import Plan, PlannedChunk
from blockvid_cli.storyboard.seconds import format_clock, format_duration
from blockvid_cli.storyboard.storyboard import Storyboard

if TYPE_CHECKING:
    from blockvid_cli.job import RenderJob
    from blockvid_cli.session import Event, EventListener

MOST_NOTES = 4  # printed under the table
PHASES = {"text": "reading captions", "load": "loading the model", "draw": "drawing"}


class ProgressForm(StrEnum):
    """How progress is told."""

    AUTO = "auto"
    PLAIN = "plain"
    JSON = "json"
    NONE = "none"


class Teller:
    """Keeps count of a render and says it: where it is, how fast, how long still."""

    def __init__(self, job: RenderJob) -> None:
        self.plan = job.plan
        self.began: float | None = None
        self.drawn = 0  # blocks drawn in this run, not resumed
        self.ended: set[int] = set()  # blocks; some are told of again when a render goes on with another profile

    def figures(self, event: Event) -> dict[str, Any]:
        """An event as plain values: phase, chunk, block, done (0..1), speed (film seconds a second), eta (seconds)."""
        out: dict[str, Any] = {"event": "note" if event.note else "progress", "phase": event.phase}
        if event.note:
            return {**out, "note": event.note}
        moment = event.step
        if moment is None:
            return out
        if not moment.resumed:
            self.began = self.began or time.monotonic()
        self.ended |= {block.number for block, _ in moment.finished}
        self.drawn += 0 if moment.resumed else len(moment.finished)
        blocks, block = len(self.plan.blocks), moment.blocks[0]
        part = 0.0 if moment.finished else moment.progress * len(moment.blocks)
        done = min((len(self.ended) + part) / blocks, 1.0)
        spent = time.monotonic() - self.began if self.began else 0.0
        out |= {
            "chunk": block.chunk,
            "chunks": len(self.plan.chunks),
            "block": block.number + 1,
            "blocks": blocks,
            "done": round(done, 4),
            "resumed": moment.resumed,
        }
        if self.drawn and spent > 0:
            rate = self.drawn / spent
            seconds = self.plan.frames / self.plan.fps / blocks
            out |= {"speed": round(rate * seconds, 2), "eta": round((blocks - len(self.ended)) / rate, 1)}
        return out


@contextmanager
def progress(job: RenderJob, form: ProgressForm) -> Iterator[EventListener]:
    """A function to tell a render's events to, drawn as ``form`` says."""
    teller = Teller(job)
    console = Console(stderr=True)
    if form is ProgressForm.AUTO:
        form = ProgressForm.NONE if not console.is_terminal else ProgressForm.AUTO
        if form is ProgressForm.NONE:
            yield lambda event: _plain(teller, event, notes_only=True)
            return
    if form is ProgressForm.AUTO:
        with _bar(console) as bar:
            task = bar.add_task("", total=1.0, what="starting", rest="")
            yield lambda event: _draw(bar, task, teller.figures(event), console)
    elif form is ProgressForm.JSON:
        yield lambda event: print(json.dumps(teller.figures(event)), file=sys.stderr, flush=True)
    elif form is ProgressForm.PLAIN:
        yield lambda event: _plain(teller, event)
    else:
        yield lambda event: None


def _bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.fields[what]}"),
        BarColumn(bar_width=None),
        TaskProgressColumn(),
        TextColumn("{task.fields[rest]}"),
        console=console,
        transient=True,
    )


def _draw(bar: Progress, task: Any, figures: dict[str, Any], console: Console) -> None:  # noqa: ANN401
    if "note" in figures:
        console.print(f"note: {figures['note']}", highlight=False, markup=False)
        return
    what = PHASES.get(figures["phase"], figures["phase"])
    bar.update(task, what=what, completed=figures.get("done", 0.0), rest=_rest(figures))


def _rest(figures: dict[str, Any]) -> str:
    if "block" not in figures:
        return ""
    text = f"chunk {figures['chunk']} of {figures['chunks']}, block {figures['block']} of {figures['blocks']}"
    if "eta" in figures:
        text += f", {figures['speed']:.1f} s of film a second, {format_duration(figures['eta'])} left"
    return text


def _plain(teller: Teller, event: Event, notes_only: bool = False) -> None:
    """A line for each note, phase and finished block."""
    figures = teller.figures(event)
    if "note" in figures:
        print(f"note: {figures['note']}", file=sys.stderr, flush=True)
    elif not notes_only and (event.step is None or event.step.finished):
        what = PHASES.get(figures["phase"], figures["phase"])
        print(f"{what} {_rest(figures)}".rstrip(), file=sys.stderr, flush=True)


def result(values: dict[str, Any], sentence: str, as_json: bool) -> None:
    """What came of a command: one sentence, or JSON, to stdout."""
    print(json.dumps(values, ensure_ascii=False) if as_json else sentence, flush=True)


def watched() -> bool:
    """Whether a person sees what is said on stderr."""
    return sys.stderr.isatty()


def aside(sentence: str) -> None:
    """A remark on stderr that is no result and no note."""
    Console(stderr=True, highlight=False).print(Text(sentence, style="dim"), soft_wrap=True)


def lines(values: dict[str, Any], indent: str = "") -> str:
    """Values as lines, nested ones indented, lists one below another."""
    out = []
    for name, value in values.items():
        words = name.replace("_", " ")
        if isinstance(value, dict):
            out += [f"{indent}{words}", lines(value, indent + "  ")]
        elif isinstance(value, list) and value and isinstance(value[0], str):
            out += [f"{indent}{words}", *(f"{indent}  {item}" for item in value)]
        else:
            out.append(f"{indent}{words:28} {value}")
    return "\n".join(out)


def table(names: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    """Rows under names, to stdout."""
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for name in names:
        shown.add_column(name, overflow="fold")
    for row in rows:
        shown.add_row(*(Text(cell) for cell in row))
    Console(highlight=False).print(shown)


def _drawn_as(chunk: PlannedChunk) -> str:
    """The sentence the network reads instead of a caption, on a line of its own; nothing where it reads the caption."""
    return f"\n-> {chunk.prompt}" if chunk.rewritten else ""


def plan_table(
    storyboard: Storyboard, model: str, plan: Plan, recalled: list[tuple[int, ...]], notes: list[str], needs: str
) -> None:
    """The plan as a table; captions are printed as they are, never read as markup."""
    console = Console(highlight=False)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for name in ("chunk", "shot", "span", "blocks", "frames", "recalls"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("caption", overflow="fold")
    for asked, chunk, before in zip(storyboard.chunks, plan.chunks, recalled, strict=True):
        table.add_row(
            str(chunk.number),
            str(chunk.shot),
            f"{format_clock(asked.start)}-{format_clock(asked.end)}",
            str(len(chunk.blocks)),
            str(chunk.end_frame - chunk.first_frame),
            " ".join(map(str, before)) or "-",
            Text.assemble(chunk.caption, (_drawn_as(chunk), "dim")),
        )
    width, height = plan.size
    seconds = plan.frames / plan.fps
    console.print(Text(f"{storyboard.title or storyboard.source}", style="bold"))
    console.print(table)
    console.print(
        Text(
            f"{len(plan.chunks)} chunks, {len(plan.blocks)} blocks, {plan.frames} frames, {seconds:g} s "
            f"at {plan.fps:g} fps and {width}x{height}, drawn by {model}"
        )
    )
    console.print(Text(needs))
    if len(notes) > MOST_NOTES:
        notes = [*notes[: MOST_NOTES - 1], f"... and {len(notes) - MOST_NOTES + 1} more; --json has them all"]
    for note in notes:
        console.print(Text(note, style="dim"))
