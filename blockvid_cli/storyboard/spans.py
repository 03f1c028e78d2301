"""Lays the chunks of a storyboard end to end, and says where they do not meet."""

from __future__ import annotations

from fractions import Fraction

from blockvid_cli.storyboard.faults import Fault
from blockvid_cli.storyboard.kinds import LARGEST_FPS
from blockvid_cli.storyboard.schema import StoryboardForm
from blockvid_cli.storyboard.seconds import Length, clock

USUAL_CHUNK = Length(Fraction(4))
LONGEST_FILM = 6 * 3600  # seconds

Span = tuple[Fraction, Fraction]  # start and end in seconds


def lay(form: StoryboardForm, faults: list[Fault]) -> list[Span]:
    """Start and end of every chunk; what does not fit is added to ``faults``."""
    fps = Fraction(repr(form.fps)) if form.fps else None
    spans: list[Span] = []
    now = Fraction(0)
    for index, chunk in enumerate(form.chunks):
        name = "at" if chunk.at else "duration"
        way = ("chunks", index, name)
        try:
            if chunk.at:
                _meet(index, now, chunk.at)
                start, end = chunk.at
            else:
                length = chunk.duration or form.chunk or USUAL_CHUNK
                start, end = now, now + length.seconds(fps)
            _long_enough(end - start, fps)
        except ValueError as error:
            own = chunk.at or chunk.duration or not form.chunk
            faults.append(Fault(way if own else ("chunk",), str(error)))
            start, end = chunk.at or (now, now + USUAL_CHUNK.amount)
        spans.append((start, end))
        now = end
        if now > LONGEST_FILM:
            faults.append(Fault(way, f"the film would last past {clock(now)}; it may last 6 hours at most"))
            break
    return spans


def _meet(index: int, now: Fraction, span: Span) -> None:
    """A chunk begins where the one before it ends, the first one at 0.

    Raises:
        ValueError: it does not; both times, and what would be right.
    """
    start, end = span
    if start == now:
        return
    right = f"write {clock(now)}-{clock(end)}" if end > now else f"begin at {clock(now)}"
    if index == 0:
        raise ValueError(f"chunk 1 begins at {clock(start)}, but a film begins at 00:00; {right}")
    clash = "leaves a gap of" if start > now else "overlaps by"
    raise ValueError(
        f"chunk {index + 1} begins at {clock(start)}, but chunk {index} ends at {clock(now)}, which {clash} "
        f"{float(abs(start - now)):g} s; {right}, or let chunk {index} end at {clock(start)}"
    )


def _long_enough(length: Fraction, fps: Fraction | None) -> None:
    frame = 1 / (fps or Fraction(LARGEST_FPS))
    if length < frame:
        raise ValueError(f"{float(length):.3g} s is shorter than one frame; make it at least {float(frame):.4f} s")
