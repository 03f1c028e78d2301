"""What a film is dressed in once it is drawn: sound, transitions, a title card and an end card.

    title card |     shot 1     ><     shot 2     | end card        >< a transition, around the border
               0 s                                                  moments count from the first picture

None of it changes what is drawn.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from blockvid_cli.storyboard.faults import Fault, Field
from blockvid_cli.storyboard.paths import Folder
from blockvid_cli.storyboard.schema import AudioForm, StoryboardForm, TitleCardForm
from blockvid_cli.storyboard.spans import Span

TRANSITION_SECONDS = 0.5


@dataclass(frozen=True)
class Audio:
    """A sound: where it lies (absolute), which part of it is heard, and how it is laid under the pictures.

    All times in seconds: ``start`` and ``end`` in the file, ``at`` after the first picture (of the chunk, if it is
    a chunk's), ``duration`` as long as it is heard. None means: as long as there is sound and picture.
    """

    file: Path
    start: float = 0.0
    fade_in: float = 0.0
    fade_out: float = 0.0
    volume: float = 1.0
    at: float = 0.0
    end: float | None = None
    duration: float | None = None
    loop: bool = False
    loudness: float | None = None  # LUFS it is brought to, before ``volume``


@dataclass(frozen=True)
class TitleCard:
    """A still picture with words, ``seconds`` long; colours as their names or ``#rrggbb``."""

    text: str
    seconds: float = 3.0
    colour: str = "white"
    background: str = "black"


@dataclass(frozen=True)
class Dress:
    """The files of a storyboard's sounds and letters, found; ``chunks`` has a sound, or None, for each chunk."""

    audio: Audio | None
    chunks: tuple[Audio | None, ...]
    font: Path | None


def dress(form: StoryboardForm, spans: Sequence[Span], folder: Folder, faults: list[Fault]) -> Dress:
    """Finds the files of sounds and letters; what does not fit the chunks' ``spans`` is added to ``faults``."""
    before = float(form.title_card.seconds) if form.title_card else 0.0
    film = spans[-1][1] if spans else Fraction(0)
    sounds = [(chunk.audio, ("chunks", index, "audio")) for index, chunk in enumerate(form.chunks)]
    if form.audio:
        faults.extend(_misplaced(form.audio, ("audio",), (Fraction(0), film), before))
    for span, (audio, way) in zip(spans, sounds, strict=False):
        if audio:
            faults.extend(_misplaced(audio, way, span, before))
    faults.extend(_transitions(form, spans))
    return Dress(
        _audio(form.audio, ("audio",), folder, faults),
        tuple(_audio(audio, way, folder, faults) for audio, way in sounds),
        folder.find(form.font, ("font",), faults) if form.font else None,
    )


def title_card(form: TitleCardForm | None) -> TitleCard | None:
    """A card as it was written."""
    return TitleCard(form.text, form.seconds, form.colour, form.background) if form else None


def _audio(form: AudioForm | None, way: Field, folder: Folder, faults: list[Fault]) -> Audio | None:
    return Audio(**{**dict(form), "file": folder.find(form.file, (*way, "file"), faults)}) if form else None


def _misplaced(audio: AudioForm, way: Field, span: Span, before: float) -> Iterator[Fault]:
    """What is wrong with the times of a sound under ``span``, which ``before`` seconds of title card precede."""
    if audio.end is not None and audio.end <= audio.start:
        told = f"the sound ends at {audio.end:g} s, which is not after its start at {audio.start:g} s"
        yield Fault((*way, "end"), f"{told}; write a later end, or an earlier start")
    if audio.end is not None and audio.duration is not None and not audio.loop:
        yield Fault((*way, "duration"), "'end' and 'duration' are both given; keep one of them, or add 'loop: true'")
    start, end = (float(moment) for moment in span)
    begin = start + audio.at
    if begin < -before:
        right = f"write {-before - start:g} or more" if start or before else "write 0 or more"
        yield Fault((*way, "at"), f"the sound would begin {-before - begin:g} s before the film; {right}")
    elif audio.at >= end - start:
        what = "film" if way == ("audio",) else "chunk"
        yield Fault((*way, "at"), f"the {what} lasts {end - start:g} s; let the sound begin before its end")


def _transitions(form: StoryboardForm, spans: Sequence[Span]) -> Iterator[Fault]:
    """Transitions where no new shot begins, or that outlast a chunk beside them."""
    for index, chunk in enumerate(form.chunks[: len(spans)]):
        way: Field = ("chunks", index, "transition")
        seconds_way: Field = ("chunks", index, "transition_seconds")
        if chunk.transition and index == 0:
            yield Fault(way, "no shot comes before the first one; remove the transition, or open with a title_card")
        elif chunk.transition and not chunk.cut:
            yield Fault(way, "a transition leads to a new shot; add 'cut: true', or remove the transition")
        elif chunk.transition in (None, "cut") and chunk.transition_seconds is not None:
            yield Fault(seconds_way, "there is no transition to last so long; add 'transition: fade', or remove this")
        elif chunk.transition in ("fade", "dissolve"):
            seconds = chunk.transition_seconds or TRANSITION_SECONDS
            beside = [span[1] - span[0] for span in spans[index - 1 : index + 1]]
            shorter = float(min(beside) if chunk.transition == "fade" else beside[1])
            if seconds > shorter:
                told = f"the transition lasts {seconds:g} s, but a chunk beside it only {shorter:g} s"
                yield Fault(seconds_way, f"{told}; write {shorter:g} or less")
