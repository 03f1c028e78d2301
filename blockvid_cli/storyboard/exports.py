"""Writes a storyboard as YAML that a person would like to edit."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, fields
from fractions import Fraction
from typing import Any

import yaml

from blockvid_cli.files import FLOAT, YAML_TAG
from blockvid_cli.storyboard.presentation import Audio, Folder, Subtitles, TitleCard
from blockvid_cli.storyboard.seconds import exact_decimal
from blockvid_cli.storyboard.storyboard import Chunk, Storyboard

WIDTH = 100  # characters a line


class _Dumper(yaml.SafeDumper):
    """Folds long texts, and indents lists below their field."""

    def represent_text(self, text: str) -> yaml.ScalarNode:
        style = ">" if len(text) > WIDTH - 20 and " " in text else None
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=style)

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        return super().increase_indent(flow, False)

    def ignore_aliases(self, data: object) -> bool:
        return True


_Dumper.add_representer(str, _Dumper.represent_text)
_Dumper.add_implicit_resolver(f"{YAML_TAG}float", FLOAT, list("-+.0123456789"))  # quotes a text like 1e5


def dump_storyboard(storyboard: Storyboard, ascii_only: bool = False) -> str:
    """Returns YAML that reads back as the same storyboard when it is saved in the folder of ``storyboard.source``.

    Args:
        ascii_only: other characters are written as escapes.

    Raises:
        ValueError: a chunk lasts neither a decimal number of seconds nor whole frames.
    """
    lengths = [_length(chunk, storyboard.fps) for chunk in storyboard.chunks]
    default = Counter(lengths).most_common(1)[0][0]
    folder = Folder(storyboard.source, allow_outside=True)
    values = {"version": 1} | _head(storyboard, folder) | {"chunk": default}
    values["chunks"] = [
        _chunk(chunk, length if length != default else None, folder)
        for chunk, length in zip(storyboard.chunks, lengths, strict=True)
    ]
    text = yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=not ascii_only, width=WIDTH)
    return text.replace("\nchunks:\n", "\n\nchunks:\n", 1)


def _head(storyboard: Storyboard, folder: Folder) -> dict[str, Any]:
    """Returns the fields of the whole film that are not empty and not the default."""
    values = {
        "title": storyboard.title,
        "model": storyboard.model,
        "size": "{}x{}".format(*storyboard.size) if storyboard.size else None,
        "untrained_size": storyboard.untrained_size,
        "fps": storyboard.fps,
        "seed": storyboard.seed,
        "style": storyboard.style,
        "negative": storyboard.negative,
        "recipe": storyboard.recipe,
        "audio": _audio(storyboard.audio, folder),
        "subtitles": _without_defaults(storyboard.subtitles) | {"show": storyboard.subtitles.show}
        if storyboard.subtitles
        else None,
        "title_card": _without_defaults(storyboard.title_card) if storyboard.title_card else None,
        "end_card": _without_defaults(storyboard.end_card) if storyboard.end_card else None,
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
    return _without_defaults(audio) | {"file": folder.name(audio.file)} if audio else None


def _without_defaults(part: Audio | Subtitles | TitleCard) -> dict[str, Any]:
    """Returns the fields of a part that differ from their defaults."""
    defaults = {each.name: each.default for each in fields(part)}
    return {name: value for name, value in asdict(part).items() if value != defaults[name]}


def _length(chunk: Chunk, fps: float | None) -> str:
    length = chunk.end - chunk.start
    if written := exact_decimal(length):
        return f"{written}s"
    frames = length * Fraction(repr(fps)) if fps else Fraction(1, 2)
    if frames.denominator != 1:
        raise ValueError(f"a chunk of {length} s is neither decimal seconds nor whole frames")
    return f"{frames}f"
