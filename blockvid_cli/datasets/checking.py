"""Finds what is wrong with a dataset before hours are spent on it: one sentence a problem, with row and remedy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from blockvid_cli.datasets.folder import Dataset, Split, VideoRow
from blockvid_cli.errors import UsageError
from blockvid_cli.models.card import ModelCard
from blockvid_cli.models.hub import sha256
from blockvid_cli.models.sentence_encoder import TextEncoder
from blockvid_cli.video.reader import scan_video

TOLERANCE = 0.05  # seconds by which times may differ


@dataclass(frozen=True)
class Problem:
    """What is wrong with one video.

    Args:
        split, video: where; the video's name, or its row's number where the row cannot be read.
        kind: a word for scripts: ``undecodable``, ``missing``, ``short``, ``order``, ``overlap``, ``gap``, ``beyond``,
            ``long-caption``, ``duplicate``, ``duration``, ``row``.
        sentence: what is wrong, and what would be right.
        fatal: whether the video cannot be trained on.
    """

    split: str
    video: str
    kind: str
    sentence: str
    fatal: bool = False


def check_dataset(
    dataset: Dataset, card: ModelCard, encoder: TextEncoder | None = None, decode: bool = True
) -> Iterator[Problem]:
    """All problems of a dataset, video by video.

    Args:
        encoder: of the model, which says whether a caption is read whole; None leaves that out.
        decode: decode every video; otherwise its row alone is looked at.
    """
    hashes: dict[str, str] = {}
    for name, split in dataset.splits.items():
        for number in range(len(split)):
            try:
                row = split[number]
            except UsageError as error:
                yield Problem(name, f"row {number + 1}", "row", str(error), fatal=True)
                continue
            for kind, sentence, fatal in _row_problems(row, split, card, encoder, decode):
                yield Problem(name, row.name, kind, sentence, fatal)
            yield from _duplicates(name, split, row, hashes)


Finding = tuple[str, str, bool]


def _row_problems(
    row: VideoRow, split: Split, card: ModelCard, encoder: TextEncoder | None, decode: bool
) -> Iterator[Finding]:
    video, seconds = split.video(row), row.duration
    if not video.exists():
        yield "missing", f"{row.file_name} does not exist; add it, or remove its row.", True
        return
    if decode:
        try:
            info = scan_video(video)
        except UsageError as error:
            yield "undecodable", f"{error}", True
            return
        for note in info.notes:
            yield "undecodable", f"{row.file_name}: {note}.", False
        if row.duration and abs(row.duration - info.seconds) > max(0.5, 0.02 * info.seconds):
            sentence = (
                f"the row says {row.duration:g} s, the video has {info.seconds:.2f} s; correct the row's duration."
            )
            yield "duration", sentence, False
        seconds = info.seconds
    if seconds is None and not row.chunks:
        yield "duration", "the row has one caption and no duration; add its duration in seconds.", True
        return
    yield from _time_problems(row, seconds, card)
    if encoder is not None:
        for span in row.chunks or ():
            if not encoder.fits(span.caption):
                what = f"the caption at {span.start:g} s is longer than the {card.text.tokens} tokens that are read"
                yield "long-caption", f"{what}; shorten it.", False


def _time_problems(row: VideoRow, seconds: float | None, card: ModelCard) -> Iterator[Finding]:
    block = card.block * card.latent.time / card.fps
    length = seconds if seconds is not None else row.chunks[-1].end
    if length < block:
        yield "short", f"the video lasts {length:.2f} s, less than one block of {block:.2f} s; remove it.", True
    for span in row.chunks:
        if span.end <= span.start:
            yield "order", f"the caption at {span.start:g} s ends at {span.end:g} s; its end must come later.", True
        elif span.end - span.start < block / 2:
            what = f"the caption at {span.start:g} s lasts {span.end - span.start:.2f} s"
            yield "short", f"{what}, less than half a block of {block:.2f} s; join it with its neighbour.", False
    for before, after in pairwise(row.chunks):
        if after.start < before.start:
            yield "order", f"the caption at {after.start:g} s stands behind one at {before.start:g} s; sort them.", True
        elif after.start < before.end - TOLERANCE:
            what = f"the captions at {before.start:g} s and {after.start:g} s overlap"
            yield "overlap", f"{what}; end the first at {after.start:g} s.", True
        elif after.start > before.end + TOLERANCE:
            what = f"there is no caption from {before.end:g} s to {after.start:g} s"
            yield "gap", f"{what}; extend the one before, or cut the video.", True
    if row.chunks and row.chunks[0].start > TOLERANCE:
        yield "gap", f"the first caption begins at {row.chunks[0].start:g} s; let it begin at 0.", True
    if row.chunks and seconds is not None and row.chunks[-1].end > seconds + max(TOLERANCE, block / 2):
        what = f"the last caption ends at {row.chunks[-1].end:g} s, the video at {seconds:.2f} s"
        yield "beyond", f"{what}; correct the caption's end.", False


def _duplicates(name: str, split: Split, row: VideoRow, hashes: dict[str, str]) -> Iterator[Problem]:
    """The same file twice, within a split or across them."""
    video = split.video(row)
    if not video.is_file():
        return
    digest, location = sha256(video), f"{name}/{row.file_name}"
    if digest in hashes:
        across = hashes[digest].split("/")[0] != name
        why = "so held-out figures mean nothing" if across else "so it counts twice"
        yield Problem(
            name, row.name, "duplicate", f"it is the same file as {hashes[digest]}, {why}; remove one.", across
        )
    hashes.setdefault(digest, location)
