"""What commands show: progress on stderr, results and tables on stdout."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from enum import StrEnum
from fractions import Fraction
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn
from rich.table import Table
from rich.text import Text

from blockvid_cli.commands import terminal
from blockvid_cli.errors import plural
from blockvid_cli.models.hub import cache_folder
from blockvid_cli.storyboard.plan import Plan, PlannedChunk
from blockvid_cli.storyboard.presentation import Audio, TitleCard
from blockvid_cli.storyboard.seconds import format_clock, format_duration
from blockvid_cli.storyboard.storyboard import Chunk, Storyboard
from blockvid_cli.video.spec import video_spec

if TYPE_CHECKING:
    from blockvid_cli.job import RenderJob
    from blockvid_cli.session import Event, EventListener

NARROW = 72  # columns of a terminal below which a plan has the captions and their times only
MAX_NOTES = 4  # printed under the table
HINT_MARKER = "first-film"  # a file in blockvid's cache: the hint was printed
HINTS = (
    "blockvid storyboard new my.yaml",
    "blockvid preview {story} --chunk 3 --takes 4",
    "blockvid eval {film}",
    "blockvid history {story}",
)
PHASES = {"text": "encoding prompts", "load": "loading the model", "denoise": "denoising"}


class ProgressForm(StrEnum):
    """How progress is shown."""

    AUTO = "auto"
    PLAIN = "plain"
    JSON = "json"
    NONE = "none"


class ProgressCounter:
    """Counts the finished blocks of a render, and says how fast it is and how long it will still take."""

    def __init__(self, job: RenderJob) -> None:
        self.plan = job.plan
        self.start: float | None = None  # seconds, when the first block of this run began
        self.rendered = 0  # blocks of this run, without those resumed from an earlier one
        self.finished: set[int] = set()  # blocks; some finish twice when a render continues with a lower preset

    def figures(self, event: Event) -> dict[str, Any]:
        """Returns an event as plain values; done is 0 to 1, speed is seconds of film per second, eta is in seconds."""
        out: dict[str, Any] = {"event": "note" if event.note else "progress", "phase": event.phase}
        if event.note:
            return {**out, "note": event.note}
        step = event.step
        if step is None:
            return out
        if not step.resumed:
            self.start = self.start or time.monotonic()
        self.finished |= {block.number for block, _ in step.finished}
        self.rendered += 0 if step.resumed else len(step.finished)
        blocks, block = len(self.plan.blocks), step.blocks[0]
        unfinished = 0.0 if step.finished else step.progress * len(step.blocks)
        out |= {
            "chunk": block.chunk,
            "chunks": len(self.plan.chunks),
            "block": block.number + 1,
            "blocks": blocks,
            "done": round(min((len(self.finished) + unfinished) / blocks, 1.0), 4),
            "resumed": step.resumed,
        }
        elapsed = time.monotonic() - self.start if self.start else 0.0
        if self.rendered and elapsed > 0:
            rate = self.rendered / elapsed  # blocks per second
            seconds = self.plan.frames / self.plan.fps / blocks
            out |= {"speed": round(rate * seconds, 2), "eta": round((blocks - len(self.finished)) / rate, 1)}
        return out


@contextmanager
def progress(job: RenderJob, form: ProgressForm, plain_on_a_pipe: bool = False) -> Iterator[EventListener]:
    """Yields a listener that shows a render's events as ``form`` says; on a pipe ``auto`` shows notes, or is plain."""
    counter = ProgressCounter(job)
    console = terminal.console(stderr=True)
    if form is ProgressForm.AUTO and not console.is_terminal:
        yield lambda event: _print_plain(counter, event, notes_only=not plain_on_a_pipe)
    elif form is ProgressForm.AUTO:
        with _bar(console) as bar:
            task = bar.add_task("", total=1.0, what="starting", rest="")
            yield lambda event: _update_bar(bar, task, counter.figures(event), console)
    elif form is ProgressForm.JSON:
        yield lambda event: terminal.note_json(counter.figures(event))
    elif form is ProgressForm.PLAIN:
        yield lambda event: _print_plain(counter, event)
    else:
        yield lambda event: None


def _bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.fields[what]}", markup=False),
        BarColumn(bar_width=None),
        TaskProgressColumn(),
        TextColumn("{task.fields[rest]}", markup=False),
        console=console,
        transient=True,
    )


def _update_bar(bar: Progress, task: TaskID, figures: Mapping[str, Any], console: Console) -> None:
    if "note" in figures:
        console.print(f"note: {figures['note']}", soft_wrap=True)
        return
    what = PHASES.get(figures["phase"], figures["phase"])
    bar.update(task, what=what, completed=figures.get("done", 0.0), rest=_rest(figures))


def _rest(figures: Mapping[str, Any]) -> str:
    if "block" not in figures:
        return ""
    text = f"chunk {figures['chunk']} of {figures['chunks']}, block {figures['block']} of {figures['blocks']}"
    if "eta" in figures:
        text += f", {figures['speed']:.1f} s of film per second, {format_duration(figures['eta'])} left"
    return text


def _print_plain(counter: ProgressCounter, event: Event, notes_only: bool = False) -> None:
    """Prints a line for each note, phase and block that is finished now, not by an earlier render."""
    figures = counter.figures(event)
    if "note" in figures:
        terminal.note(f"note: {figures['note']}")
    elif not notes_only and (event.step is None or (event.step.finished and not event.step.resumed)):
        what = PHASES.get(figures["phase"], figures["phase"])
        terminal.note(f"{what} {_rest(figures)}".rstrip())


def result(values: Mapping[str, Any], sentence: str, as_json: bool) -> None:
    """Prints a command's result to stdout: one sentence, or JSON."""
    terminal.write_json(values) if as_json else terminal.write(sentence)


def first_film_hint(story: Path, film: Path) -> None:
    """Prints on a terminal what to try next, once on a machine; does nothing where the cache cannot be written to."""
    marker = cache_folder() / HINT_MARKER
    if marker.exists() or not terminal.is_interactive():
        return
    with suppress(OSError):
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.touch()
        sentence = f"next: {' · '.join(HINTS)}".format(story=quote(str(story)), film=quote(str(film)))
        terminal.console(stderr=True).print(Text(sentence, style="dim"), soft_wrap=True)


def lines(values: Mapping[str, Any], indent: str = "") -> str:
    """Returns values as lines, nested ones indented, lists one below another."""
    out = []
    for name, value in values.items():
        words = name.replace("_", " ")
        if isinstance(value, dict):
            out += [f"{indent}{words}", lines(value, indent + "  ")]
        elif isinstance(value, list) and value and isinstance(value[0], str):
            out += [f"{indent}{words}", *(f"{indent}  {item}" for item in value)]
        else:
            shown = ("yes" if value else "no") if isinstance(value, bool) else "none" if value in (None, []) else value
            out.append(f"{indent}{words:28} {shown}")
    return "\n".join(out)


def table(names: tuple[str, ...], rows: Sequence[tuple[str, ...]], shortened: int = 0) -> None:
    """Prints rows under column names to stdout.

    Args:
        shortened: so many columns at the end are cut off where a row would not fit on a line.
    """
    grid = _grid()
    for index, name in enumerate(names):
        grid.add_column(name, overflow="fold", no_wrap=0 < shortened <= len(names) - 1 - index)
    for row in rows:
        grid.add_row(*(Text(cell, no_wrap=shortened > 0, overflow="ellipsis" if shortened else None) for cell in row))
    terminal.console().print(grid)


def _grid() -> Table:
    return Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))


def _rewritten(chunk: PlannedChunk) -> str:
    """The prompt, where a rewriter made one of the caption."""
    return f"-> {chunk.prompt}" if chunk.rewritten else ""


def _card_row(name: str, card: TitleCard, start: Fraction, frames: int, narrow: bool) -> tuple[str | Text, ...]:
    """A title or end card as a row of the plan."""
    span = f"{format_clock(start)}-{format_clock(start + Fraction(repr(card.seconds)))}"
    more = () if narrow else ("", "", str(frames), "")
    return name, span, *more, Text(" ".join(card.text.split()), style="dim")


def _details(chunk: Chunk) -> str:
    """What belongs to a chunk beside its caption: its transition, pictures and sound."""
    parts = [
        f"{chunk.transition} of {chunk.transition_seconds:g} s" if chunk.transition != "cut" else "",
        f"begins with {chunk.image.name}" if chunk.image else "",
        f"ends with {chunk.end_image.name}" if chunk.end_image else "",
        _sound(chunk.audio, "chunk") if chunk.audio else "",
    ]
    return "; ".join(filter(None, parts))


def _film_details(storyboard: Storyboard) -> list[str]:
    """What belongs to the whole film: its sound and its subtitles."""
    subtitles = storyboard.subtitles
    return [
        *([_sound(storyboard.audio, "story")] if storyboard.audio else []),
        *([f"subtitles: {subtitles.show}{', and an .srt beside the film' * subtitles.srt}"] if subtitles else []),
    ]


def _sound(audio: Audio, what: str) -> str:
    """A sound and when it begins, seen from the first frame of ``what``."""
    when = f" {abs(audio.at):g} s {'after' if audio.at > 0 else 'before'} the {what} begins" if audio.at else ""
    return f"sound: {audio.file.name}{when}"


def plan_table(
    storyboard: Storyboard, model: str, plan: Plan, retrieved: list[tuple[int, ...]], notes: list[str], needs: str
) -> None:
    """Prints the plan as a table; spans count from the first frame of the film, which may be a title card's."""
    timeline = video_spec(storyboard, plan).timeline
    lead = Fraction(timeline.story.first_frame) / timeline.rate
    console, grid = terminal.console(), _grid()
    narrow = console.width < NARROW
    for name in ("chunk", "span") if narrow else ("chunk", "span", "shot", "blocks", "frames", "retrieves"):
        grid.add_column(name, justify="right", no_wrap=True)
    grid.add_column("caption", overflow="fold")
    if storyboard.title_card:
        grid.add_row(*_card_row("title", storyboard.title_card, Fraction(0), timeline.title_frames, narrow))
    for written, chunk, others in zip(storyboard.chunks, plan.chunks, retrieved, strict=True):
        times = str(chunk.number), f"{format_clock(lead + written.start)}-{format_clock(lead + written.end)}"
        counts = str(chunk.shot), str(len(chunk.blocks)), str(chunk.end_frame - chunk.first_frame)
        more = () if narrow else (*counts, " ".join(map(str, others)) or "-")
        more_text = "".join(f"\n{line}" for line in (_rewritten(chunk), _details(written)) if line)
        grid.add_row(*times, *more, Text.assemble(chunk.caption, (more_text, "dim")))
    if storyboard.end_card:
        end = lead + storyboard.seconds
        grid.add_row(*_card_row("end", storyboard.end_card, end, timeline.end_frames, narrow))
    cards = [name for name, card in (("title card", storyboard.title_card), ("end card", storyboard.end_card)) if card]
    width, height = plan.size
    console.print(Text(f"{storyboard.title or storyboard.source}", style="bold"))
    console.print(grid)
    console.print(
        Text(
            f"{plural(len(plan.chunks), 'chunk')}, {plural(len(plan.blocks), 'block')}, "
            f"{' and '.join(cards)}{', ' * bool(cards)}{plural(timeline.frames, 'frame')}, {timeline.seconds:g} s "
            f"at {plan.fps:g} fps and {width}x{height}, with the model {model}"
        )
    )
    for line in (*_film_details(storyboard), needs):
        console.print(Text(line))
    if len(notes) > MAX_NOTES:
        notes = [*notes[: MAX_NOTES - 1], f"... and {len(notes) - MAX_NOTES + 1} more; --json has them all"]
    for note in notes:
        console.print(Text(note, style="dim"))
