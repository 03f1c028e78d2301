"""Pictures on their way into the film: cards before and after, shots joined, subtitles drawn in.

    drawn      a a a a a a|b b b b b b        a, b: two shots
    dissolve   a a a a a a|x x x b b b        x: the last a, held, gives way to b
    fade       a a a a x x|x x b b b b        x: down to black and up again

No frame comes earlier or later than it would. What is not changed is passed on untouched, and no more than two
pictures are held.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import numpy as np

from blockvid_cli.storyboard.presentation import TitleCard
from blockvid_cli.video.lettering import SMALLEST, letters, pages, still, subtitle
from blockvid_cli.video.spec import VideoSpec, Transition

FADE = 0.5  # seconds in which a card comes and goes

Page = tuple[int, int, tuple[str, ...]]  # first frame, one past the last, rows of words


def dressed(frames: Iterable[np.ndarray], look: VideoSpec) -> Iterator[np.ndarray]:
    """The film's frames (H, W, 3) uint8, made of the ``look.frames`` pictures drawn for it.

    Raises:
        BlockvidError: the look's font cannot be read, or a card has too many words.
    """
    yield from _card(look.title_card, look)
    shown = joined(islice(frames, look.frames), look.transitions)
    yield from captioned(shown, look) if look.subtitles == "burned" else shown
    yield from _card(look.end_card, look)


def try_letters(look: VideoSpec) -> None:
    """Makes sure that the words of a look can be drawn.

    Raises:
        BlockvidError: its font cannot be read, or a card has too many words.
    """
    letters(SMALLEST, look.font)
    for card in (look.title_card, look.end_card):
        if card:
            _still(card, look)


def joined(frames: Iterable[np.ndarray], transitions: Sequence[Transition]) -> Iterator[np.ndarray]:
    """The same frames, those around a transition mixed."""
    dissolves = {each.frame: each for each in transitions if each.kind == "dissolve"}
    fades = [each for each in transitions if each.kind == "fade"]
    last = held = dissolve = None
    for number, frame in enumerate(frames):
        if number in dissolves and last is not None:
            held, dissolve = last, dissolves[number]
        shown = frame
        if dissolve and number < dissolve.frame + dissolve.frames:
            shown = _mixed(held, frame, (number + 0.5 - dissolve.frame) / dissolve.frames)
        light = min((abs(number + 0.5 - each.frame) * 2 / each.frames for each in fades), default=1.0)
        last = frame
        yield shown if light >= 1 else _mixed(np.zeros_like(frame), shown, light)


def captioned(frames: Iterable[np.ndarray], look: VideoSpec) -> Iterator[np.ndarray]:
    """The same frames with subtitles drawn in; long ones are shown a page after the other."""
    waiting = _pages(look)
    page = next(waiting, None)
    layer = None
    for number, frame in enumerate(frames):
        while page and page[1] <= number:
            page, layer = next(waiting, None), None
        if page and page[0] <= number:
            layer = layer or subtitle(page[2], look.size, look.font)
            yield layer.over(frame)
        else:
            yield frame


def _pages(look: VideoSpec) -> Iterator[Page]:
    """When which words are seen, in order: a chapter's pages share its time equally."""
    for chapter in look.chapters:
        parts = pages(chapter.words, look.size, look.font)
        first, end = round(chapter.start * look.rate), round(chapter.end * look.rate)
        for number, rows in enumerate(parts):
            begin, until = (first + (end - first) * n // len(parts) for n in (number, number + 1))
            yield begin, until, rows


def _card(card: TitleCard | None, look: VideoSpec) -> Iterator[np.ndarray]:
    """The frames of a card; it comes out of black, and goes."""
    if card is None:
        return
    picture = _still(card, look)
    count = look.frames_of(card)
    fading = max(1.0, min(FADE * float(look.rate), count / 3))
    for number in range(count):
        light = min(1.0, (number + 0.5) / fading, (count - number - 0.5) / fading)
        yield _mixed(np.zeros_like(picture), picture, light)


def _still(card: TitleCard, look: VideoSpec) -> np.ndarray:
    return still(card.text, look.size, card.colour, card.background, look.font)


def _mixed(old: np.ndarray, new: np.ndarray, share: float) -> np.ndarray:
    """Two frames (H, W, 3) uint8 mixed: ``share`` of the new one."""
    return np.rint(old * np.float32(1 - share) + new * np.float32(share)).astype(np.uint8)
