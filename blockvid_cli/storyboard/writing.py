"""A storyboard written out as YAML that a person would like to go on with."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, fields
from fractions import Fraction
from typing import Any

import yaml

from blockvid_cli.storyboard.dress import Audio, TitleCard
from blockvid_cli.storyboard.paths import Folder
from blockvid_cli.storyboard.seconds import decimal
from blockvid_cli.storyboard.storyboard import Chunk, Storyboard

WIDTH = 100  # characters a line


class _Dumper(yaml.SafeDumper):
    """Long texts are folded; lists stand a little to the right of their field."""

    def represent_text(self, text: str) -> yaml.ScalarNode:
        style = ">" if len(text) > WIDTH - 20 and " " in text else None
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=style)

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        return super().increase_indent(flow, False)

    def ignore_aliases(self, data: object) -> bool:
        return True


_Dumper.add_representer(str, _Dumper.represent_text)


def dump_storyboard(storyboard: Storyboard) -> str:
    """YAML that reads back as the same storyboard, when saved in the folder of ``storyboard.source``.

    Raises:
        ValueError: a chunk lasts neither a decimal number of seconds nor whole frames.
    """
    lengths = [_length(chunk, storyboard.fps) for chunk in storyboard.chunks]
    usual = Counter(lengths).most_common(1)[0][0]
    folder = Folder(storyboard.source, allow_outside=True)
    values = {"version": 1} | _head(storyboard, folder) | {"chunk": usual}
    values["chunks"] = [
        _chunk(chunk, length if length != usual else None, folder)
        for chunk, length in zip(storyboard.chunks, lengths, strict=True)
    ]
    text = yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=WIDTH)
    return text.replace("\nchunks:\n", "\n\nchunks:\n", 1)


def _head(storyboard: Storyboard, folder: Folder) -> dict[str, Any]:
    """What holds for the whole film, without what goes without saying."""
    values = {
        "title": storyboard.title,
        "model": storyboard.model,
        "size": "{}x{}".format(*storyboard.size) if storyboard.size else None,
        "fps": storyboard.fps,
        "seed": storyboard.seed,
        "style": storyboard.style,
        "negative": storyboard.negative,
        "recipe": storyboard.recipe,
        "audio": _audio(storyboard.audio, folder),
        "subtitles": storyboard.subtitles if storyboard.subtitles != "beside" else None,
        "title_card": _changed(storyboard.title_card),
        "end_card": _changed(storyboard.end_card),
        "font": folder.name(storyboard.font) if storyboard.font else None,
    }
    return {name: value for name, value in values.items() if value}


def _chunk(chunk: Chunk, length: str | None, folder: Folder) -> dict[str, Any]:
    values: dict[str, Any] = {"caption": chunk.caption}
    if length:
        values["duration"] = length
    if chunk.seed is not None:
        values["seed"] = chunk.seed
    if chunk.cut:
        values["cut"] = True
    if chunk.image:
        values["image"] = folder.name(chunk.image)
    if chunk.end_image:
        values["end_image"] = folder.name(chunk.end_image)
    if chunk.negative is not None:
        values["negative"] = chunk.negative
    if chunk.recipe:
        values["recipe"] = chunk.recipe
    if chunk.audio:
        values["audio"] = _audio(chunk.audio, folder)
    if chunk.subtitle is not None:
        values["subtitle"] = chunk.subtitle
    if chunk.transition != "cut":
        values |= {"transition": chunk.transition, "transition_seconds": chunk.transition_seconds}
    return values


def _audio(audio: Audio | None, folder: Folder) -> dict[str, Any] | None:
    return _changed(audio) | {"file": folder.name(audio.file)} if audio else None


def _changed(form: Audio | TitleCard | None) -> dict[str, Any] | None:
    """The fields that are not as they are when nothing is said."""
    if form is None:
        return None
    usual = {each.name: each.default for each in fields(form)}
    return {name: value for name, value in asdict(form).items() if value != usual[name]}


def _length(chunk: Chunk, fps: float | None) -> str:
    length = chunk.end - chunk.start
    if written := decimal(length):
        return f"{written}s"
    frames = length * Fraction(repr(fps)) if fps else Fraction(1, 2)
    if frames.denominator != 1:
        raise ValueError(f"a chunk of {length} s is neither decimal seconds nor whole frames")
    return f"{frames}f"
