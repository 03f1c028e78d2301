"""How a film is presented once its frames exist: sound, transitions, a title card and an end card, and their files.

    title card |     shot 1     ><     shot 2     | end card        >< a transition, around the border
               0 s                                                  times count from the first frame of the chunks

Nothing here changes the frames that the model generates.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from blockvid_cli.errors import shorten
from blockvid_cli.storyboard.parse import FieldPath, Problem
from blockvid_cli.storyboard.schema import AudioForm, StoryboardForm, SubtitlesForm, TitleCardForm

TRANSITION_SECONDS = 0.5

Span = tuple[Fraction, Fraction]  # start and end in seconds


@dataclass(frozen=True)
class Audio:
    """A sound: its file (an absolute path), which part of it is heard, and how it is laid under the film.

    All times in seconds: ``start`` and ``end`` in the file, ``at`` after the first frame (of the chunk, if it is
    a chunk's), ``duration`` as long as it is heard. None means: as long as there are sound and frames.
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
class Subtitles:
    """How captions are shown: beside (an .srt), none, soft (in the film) or burned (drawn into the frames).

    Args:
        srt: whether an .srt lies beside the film, however they are shown.
        size: height of the letters as a percentage of the frame's.
        place: of burned ones: bottom, middle or top.
    """

    show: str = "beside"
    srt: bool = False
    size: float = 6.0
    place: str = "bottom"

    @property
    def has_file(self) -> bool:
        """Whether an .srt lies beside the film."""
        return self.srt or self.show == "beside"


@dataclass(frozen=True)
class TitleCard:
    """A still image with words, shown for ``seconds``; colours are names or ``#rrggbb``."""

    text: str
    seconds: float = 3.0
    colour: str = "white"
    background: str = "black"


@dataclass(frozen=True)
class Presentation:
    """The sounds and the font of a storyboard with absolute paths; ``chunks`` has a sound, or None, for each chunk."""

    audio: Audio | None
    chunks: tuple[Audio | None, ...]
    font: Path | None


class Folder:
    """The folder of a storyboard; paths in the storyboard start there and stay below it."""

    def __init__(self, source: Path, allow_outside: bool) -> None:
        self.root = source.parent.resolve()
        self.allow_outside = allow_outside

    def find(self, name: str, path: FieldPath, problems: list[Problem]) -> Path:
        """Returns the absolute path of a file; adds a problem when there is no such file or it is not allowed."""
        try:
            file = (self.root / name).resolve()
            inside = file.is_relative_to(self.root)
            exists = file.is_file()
        except (OSError, RuntimeError, ValueError):  # too long a name, links in a circle
            problems.append(Problem(path, f"'{shorten(name, 80)}' cannot be a path; name a file beside the storyboard"))
            return self.root
        name = shorten(name, 200)
        if not inside and not self.allow_outside:
            what = f"'{name}' lies outside the storyboard's folder"
            problems.append(Problem(path, f"{what}; move the file there, or allow it with --allow-outside"))
        elif not exists:
            what = "is not there"
            if file.is_dir():
                what = "is a folder, not a file"
            elif file.exists():  # opening a pipe or a device could wait for ever
                what = "is no regular file but a pipe, a device or a socket"
            problems.append(Problem(path, f"'{name}' {what}; name a file relative to {self.root}"))
        return file

    def name(self, file: Path) -> str:
        """Returns how a storyboard in this folder names ``file``."""
        return str(file.relative_to(self.root) if file.is_relative_to(self.root) else file)


def find_presentation(
    form: StoryboardForm, spans: Sequence[Span], folder: Folder, problems: list[Problem]
) -> Presentation:
    """Finds the files of sounds and font; adds to ``problems`` what does not fit the ``spans`` of the chunks."""
    lead = float(form.title_card.seconds) if form.title_card else 0.0
    film = spans[-1][1] if spans else Fraction(0)
    sounds: list[tuple[AudioForm | None, FieldPath]] = [
        (chunk.audio, ("chunks", index, "audio")) for index, chunk in enumerate(form.chunks)
    ]
    if form.audio:
        problems.extend(_audio_problems(form.audio, ("audio",), (Fraction(0), film), lead))
    for span, (audio, path) in zip(spans, sounds, strict=False):
        if audio:
            problems.extend(_audio_problems(audio, path, span, lead))
    problems.extend(_transition_problems(form, spans))
    return Presentation(
        audio=_audio(form.audio, ("audio",), lead, folder, problems),
        chunks=tuple(_audio(audio, path, lead, folder, problems) for audio, path in sounds),
        font=folder.find(form.font, ("font",), problems) if form.font else None,
    )


def title_card(form: TitleCardForm | None) -> TitleCard | None:
    """Returns a card as the storyboard has it."""
    if form is None:
        return None
    return TitleCard(text=form.text, seconds=form.seconds, colour=form.colour, background=form.background)


def subtitles(form: SubtitlesForm | None) -> Subtitles | None:
    """Returns what a storyboard says of subtitles; None if it says nothing."""
    return Subtitles(**form.model_dump()) if form else None


def _audio(
    form: AudioForm | None, path: FieldPath, lead: float, folder: Folder, problems: list[Problem]
) -> Audio | None:
    if form is None:
        return None
    return Audio(
        file=folder.find(form.file, (*path, "file"), problems),
        start=form.offset,
        end=form.end,
        at=form.delay(lead),
        duration=form.duration,
        loop=form.loop,
        fade_in=form.fade_in,
        fade_out=form.fade_out,
        volume=form.volume,
        loudness=form.loudness,
    )


def _audio_problems(audio: AudioForm, path: FieldPath, span: Span, lead: float) -> Iterator[Problem]:
    """What is wrong with the times of a sound under ``span``, before which a title card lasts ``lead`` seconds."""
    of_film = path == ("audio",)
    if isinstance(audio.start, str) and not of_film:
        sentence = f"a chunk's sound begins with its chunk, not with the {audio.start}; remove this, or write 'at'"
        yield Problem((*path, "start"), sentence)
    if audio.end is not None and audio.end <= audio.offset:
        what = f"the sound ends at {audio.end:g} s, which is not after its start at {audio.offset:g} s"
        yield Problem((*path, "end"), f"{what}; write a later end, or an earlier start")
    if audio.end is not None and audio.duration is not None and not audio.loop:
        sentence = "'end' and 'duration' are both given; keep one of them, or add 'loop: true'"
        yield Problem((*path, "duration"), sentence)
    start, end = (float(moment) for moment in span)
    begin = start + audio.delay(lead)
    if begin < -lead:
        least = audio.at - lead - begin
        remedy = f"write {least:g} or more"
        yield Problem((*path, "at"), f"the sound would begin {-lead - begin:g} s before the film; {remedy}")
    elif audio.delay(lead) >= end - start:
        what = "film" if of_film else "chunk"
        yield Problem((*path, "at"), f"the {what} lasts {end - start:g} s; let the sound begin before its end")


def _transition_problems(form: StoryboardForm, spans: Sequence[Span]) -> Iterator[Problem]:
    """Transitions where no new shot begins, or that last longer than a chunk beside them."""
    for index, chunk in enumerate(form.chunks[: len(spans)]):
        path: FieldPath = ("chunks", index, "transition")
        length_path: FieldPath = ("chunks", index, "transition_seconds")
        if chunk.transition and index == 0:
            sentence = "no shot comes before the first one; remove the transition, or open with a title_card"
            yield Problem(path, sentence)
        elif chunk.transition and not chunk.cut:
            yield Problem(path, "a transition leads to a new shot; add 'cut: true', or remove the transition")
        elif chunk.transition in (None, "cut") and chunk.transition_seconds is not None:
            yield Problem(length_path, "there is no transition to last so long; add 'transition: fade', or remove this")
        elif chunk.transition in ("fade", "dissolve"):
            seconds = chunk.transition_seconds or TRANSITION_SECONDS
            beside = [span[1] - span[0] for span in spans[index - 1 : index + 1]]
            shorter = float(min(beside) if chunk.transition == "fade" else beside[1])
            if seconds > shorter:
                what = f"the transition lasts {seconds:g} s, but a chunk beside it only {shorter:g} s"
                yield Problem(length_path, f"{what}; write {shorter:g} or less")
