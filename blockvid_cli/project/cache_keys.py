"""What a chunk's latents were drawn from, as a key: a chain, so that an edit of chunk N asks for N and all that follow.

chunk     1       2       3       4       5
link      a  ->   b  ->   c  ->   d  ->   e        link = hash(what all share, the chunk, the link before)
key       a       b       c       d       e

3 drawn again alone, between neighbours that stay: the links are those its neighbours were drawn with
link      a  ->   b  ->   c  ->   d  ->   e
key       a       b       C       d       e        C = hash(what all share, the new chunk, b, alone)

What comes after such a chunk is seen while it is drawn and is not in its key: an edit of 4 redraws 4 and all after it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from blockvid_cli.project.atomic_files import write_whole

FILE = "takes.json"


@dataclass(frozen=True)
class Choice:
    """Which take of a chunk is in the film.

    Args:
        take: counted from 1.
        before, link: of a chunk drawn between neighbours that stay: the link of the chunk before it ("" for the first),
            and the link of its own that those after it were drawn with.
    """

    take: int = 1
    before: str | None = None
    link: str | None = None

    @property
    def alone(self) -> bool:
        """Whether the chunk is drawn again by itself, its neighbours kept."""
        return self.link is not None


Choices = Mapping[int, Choice]


@dataclass(frozen=True)
class Chain:
    """A film's keys and links, one a chunk; ``alone`` are the chunks drawn between neighbours that stay."""

    keys: tuple[str, ...]
    links: tuple[str, ...]
    alone: frozenset[int] = frozenset()


def chain(parts: Sequence[Mapping[str, Any]], base: Mapping[str, Any], choices: Choices | None = None) -> Chain:
    """The chain of a film; see the module.

    ``parts`` and ``base`` hold what decides the latents, in plain JSON values; audio, title and encoding are
    not in them. A choice whose neighbours are not those it was made for counts for nothing but its take.
    Raises ``TypeError`` or ``ValueError`` for a value that JSON does not know.
    """
    links: list[str] = []
    kept: dict[int, str] = {}
    for number, part in enumerate(parts, start=1):
        before = links[-1] if links else None
        own, choice = _hash(base=base, chunk=part, before=before), (choices or {}).get(number, Choice())
        if choice.link and choice.before == (before or "") and choice.link != own:
            kept[number] = choice.link
        links.append(kept.get(number, own))
    keys = list(links)
    for number in kept:
        before = ("", *links)[number - 1]
        keys[number - 1] = _hash(base=base, chunk=parts[number - 1], before=before, alone=True)
    return Chain(tuple(keys), tuple(links), frozenset(kept))


def _hash(**content: Any) -> str:  # noqa: ANN401  (plain JSON values)
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def read_choices(folder: Path) -> dict[int, Choice]:
    """Which takes a project has chosen, by chunk; the first of each where the file does not say, or is damaged."""
    try:
        found = json.loads((folder / FILE).read_text(encoding="utf-8"))
        return {int(chunk): Choice(**choice) for chunk, choice in found.items() if int(choice.get("take", 1)) >= 1}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def write_choices(folder: Path, choices: Choices) -> None:
    """Keeps the choices in a project.

    Raises:
        BlockvidError: they cannot be written (``PartialError``: the disk is full).
    """
    if not choices and not (folder / FILE).exists():
        return
    values = {str(chunk): asdict(choice) for chunk, choice in sorted(choices.items()) if choice != Choice()}
    write_whole(folder / FILE, f"{json.dumps(values, indent=2)}\n".encode())
