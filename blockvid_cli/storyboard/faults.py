"""What is wrong with a storyboard, gathered and said in one line each: file, line, field and remedy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from blockvid_cli.errors import StoryboardError

Field = tuple[str | int, ...]  # the way to a field: ("chunks", 2, "duration"), lists counted from 0
MOST = 10  # faults said at once


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong; ``line`` only where it is not the line of the field."""

    field: Field
    sentence: str
    line: int | None = None


@dataclass
class Reading:
    """A file as plain values, and the line that each field came from."""

    source: Path
    data: object
    lines: dict[Field, int]
    overrides: dict[Field, str] = field(default_factory=dict)  # fields that came from --set, as typed there
    faults: list[Fault] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def place(self, way: Field) -> tuple[int, str]:
        """Line and name of the place a field, or the nearest thing around it, was written at."""
        for length in range(len(way), -1, -1):
            if way[:length] in self.overrides:
                return 0, f"--set {self.overrides[way[:length]]}"
            if way[:length] in self.lines:
                line = self.lines[way[:length]]
                return line, f"{self.source}:{line}"
        return 1, f"{self.source}:1"

    def complaint(self, faults: Sequence[Fault]) -> StoryboardError:
        """All faults in one error, a line each, the first line of the file first."""
        said = []
        for fault in faults:
            line, place = self.place(fault.field)
            if fault.line is not None:
                line, place = fault.line, f"{self.source}:{fault.line}"
            name = field_name(fault.field)
            said.append((line, ": ".join(part for part in (place, name, fault.sentence) if part)))
        sentences = [sentence for _, sentence in sorted(said, key=lambda pair: pair[0])]
        if len(sentences) > MOST:
            sentences[MOST:] = [f"... and {len(sentences) - MOST} more"]
        return StoryboardError("\n".join(sentences))


def field_name(way: Field) -> str:
    """``("chunks", 2, "duration")`` as a person counts: ``chunks[3].duration``."""
    name = ""
    for part in way:
        if isinstance(part, int):
            name += f"[{part + 1}]"
        else:
            name += f".{part}" if name else part
    return name
