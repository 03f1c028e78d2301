"""All that decides a chunk's latents, in one dataclass: hashed (cache key), compared (reasons) and written (manifest).

    chunk          1       2       3       4       5
    identity       a       b       c       d       e
    key            H(a)    H(ab)   H(abc)  H(abcd) H(abcde)    a schedule in which each chunk needs the earlier ones
    key            H(abcde) for all                            a schedule in which each chunk needs all others

    3 rendered again alone (take 2, C), between neighbours that stay: those after it keep the identity they were
    rendered with, and what lies beside it is part of its own
    key            H(a)    H(ab)   H(abC)  H(abcd) H(abcde)    C = (take 2, ..., neighbours: keys of 2 and 4)

A field that is not here cannot change latents: audio, title, subtitles and encoding are not.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, TypeAdapter

from blockvid_cli.files import read_plain_json, read_regular_file
from blockvid_cli.project.atomic_files import write_atomically

TAKES_FILE = "takes.json"
MAX_TAKES_BYTES = 8_000_000  # of the choices of all chunks of the longest film
MAX_TAKE = 99_999  # a take's number is part of a file's name


def _decides(label: str, **default: Any) -> Any:  # noqa: ANN401  (dataclasses.field has no better type)
    """A field of an identity, and what a person calls it."""
    return field(metadata={"label": label}, **default)


@dataclass(frozen=True, kw_only=True)
class ChunkIdentity:
    """All that decides a chunk's latents, beside the chunks it needs; plain JSON values."""

    weights: str = _decides("weights")  # hash of the transformer's files
    model: Mapping[str, Any] = _decides("model card")  # what the card says of the transformer, blocks and latents
    text: Mapping[str, Any] = _decides("text encoder")
    size: tuple[int, int] = _decides("size")  # width, height in pixels
    fps: float = _decides("fps")
    recipe: Mapping[str, Any] = _decides("recipe")  # every part with every option, sigmas, guidance
    guidance_rows: int = _decides("guidance")  # rows of the batch: 2 as soon as any chunk is guided
    precision: str = _decides("precision")  # in which the transformer computes
    kv_dtype: str = _decides("kv-dtype")  # in which cached tokens are stored
    film_seed: int = _decides("seed")
    seed: int = _decides("seed")
    take: int = _decides("take")
    prompt: str = _decides("caption or style")  # what the transformer reads, after rewriting
    retrieval_text: str = _decides("caption or style")  # what a KV cache compares
    negative_prompt: str = _decides("negative")  # empty where nothing is guided
    cut: bool = _decides("cut")
    first_latent: int = _decides("start")  # latent frames before the chunk
    blocks: int | None = _decides("duration")  # None where a block does not depend on how many there are
    images: Mapping[str, str] = _decides("image", default_factory=dict)  # hashes of files by latent frame of the chunk
    image_encoding: str = _decides("precision of the VAE", default="")  # empty where there is no image
    neighbours: str = _decides("its neighbours", default="")  # of a chunk that was rendered between others: their keys

    def hash(self) -> str:
        """SHA-256 of all fields."""
        return _hash(asdict(self))


def changed_fields(recorded: Mapping[str, Any], identity: ChunkIdentity) -> list[str]:
    """The labels of the fields that differ from a recorded identity; of a recipe, the names of parts and options."""
    before, after = (json.loads(json.dumps(values)) for values in (dict(recorded), asdict(identity)))
    labels: list[str] = []
    for each in fields(identity):
        old, new = before.get(each.name), after[each.name]
        if old != new:
            labels += _changed_options(old, new) if each.name == "recipe" else [each.metadata["label"]]
    return list(dict.fromkeys(labels))


def _changed_options(old: object, new: object, prefix: str = "") -> list[str]:
    """Dotted names of what differs: ``kv_cache.top``; ``kv_cache`` where it is another cache altogether."""
    if old == new:
        return []
    if not isinstance(old, dict) or not isinstance(new, dict) or old.get("name") != new.get("name"):
        return [prefix or "recipe"]
    start = f"{prefix}." if prefix else ""
    return [name for key in {**old, **new} for name in _changed_options(old.get(key), new.get(key), f"{start}{key}")]


@dataclass(frozen=True)
class TakeChoice:
    """Which take of a chunk is in the film.

    Args:
        take: counted from 1.
        replaces: of a chunk rendered between neighbours that stay: the hash of the identity with which the chunks
            after it were rendered.
        context: the hash of the identities it was rendered between; with others, only ``take`` counts.
        neighbours: what ``ChunkIdentity.neighbours`` becomes.
    """

    take: int = 1
    replaces: str | None = None
    context: str | None = None
    neighbours: str = ""

    @property
    def between(self) -> bool:
        """Whether the chunk is rendered by itself, its neighbours kept."""
        return self.replaces is not None


TakeChoices = Mapping[int, TakeChoice]


@dataclass(frozen=True)
class ChunkKeys:
    """A film's identities and cache keys, one a chunk.

    Args:
        bases: the identity hashes that other chunks are rendered with, which of an infilled chunk is an older one.
        needs: the other chunks (from 1) that decide each chunk's latents, directly or through others.
        infilled: the chunks rendered between neighbours that stay.
    """

    identities: tuple[ChunkIdentity, ...]
    keys: tuple[str, ...]
    bases: tuple[str, ...]
    needs: tuple[frozenset[int], ...]
    infilled: frozenset[int] = frozenset()


def chunk_keys(
    identities: Sequence[ChunkIdentity], needs: Sequence[Collection[int]], takes: TakeChoices | None = None
) -> ChunkKeys:
    """The cache keys of a film; see the module.

    ``needs`` are for each chunk the numbers (from 1) of the chunks that decide its latents. A choice whose neighbours
    are not those it was made for counts for nothing but its take.
    """
    own = [identity.hash() for identity in identities]
    cuts = [identity.cut for identity in identities]
    closures = needed_chunks(needs)
    infilled = {n: choice for n, choice in (takes or {}).items() if _may_be_infilled(n, choice, own, closures)}
    while True:
        bases = [str(infilled[n].replaces) if n in infilled else text for n, text in enumerate(own, start=1)]
        valid = {n: c for n, c in infilled.items() if c.context == context_hash(n, bases, closures[n - 1], cuts)}
        if valid == infilled:
            break
        infilled = valid
    final = tuple(
        replace(identity, neighbours=infilled[n].neighbours) if n in infilled else identity
        for n, identity in enumerate(identities, start=1)
    )
    keys = (
        _hash([*(bases[other - 1] for other in sorted(closure)), identity.hash()])
        for identity, closure in zip(final, closures, strict=True)
    )
    return ChunkKeys(final, tuple(keys), tuple(bases), tuple(closures), frozenset(infilled))


def _may_be_infilled(number: int, choice: TakeChoice, own: Sequence[str], closures: Sequence[Collection[int]]) -> bool:
    """Whether a choice is of a chunk between neighbours: it exists, it was changed, and needs none after it."""
    if not choice.between or number > len(own) or choice.replaces == own[number - 1]:
        return False
    return all(other < number for other in closures[number - 1])


def needed_chunks(needs: Sequence[Collection[int]]) -> list[frozenset[int]]:
    """For each chunk, the other chunks (from 1) that decide its latents, directly or through those it ``needs``."""
    closures: list[frozenset[int]] = []
    for number, direct in enumerate(needs, start=1):
        closure: set[int] = set()
        waiting = sorted(direct)
        while waiting and len(closure) < len(needs):
            other = waiting.pop()
            if other not in closure:
                closure.add(other)
                if other < number:
                    closure |= closures[other - 1]
                else:
                    waiting += needs[other - 1]
        closures.append(frozenset(closure - {number}))
    return closures


def context_hash(chunk: int, bases: Sequence[str], needed: Collection[int], cuts: Sequence[bool]) -> str:
    """What lies around a chunk rendered between others: the chunks it needs, and the next if it is its shot's."""
    following = [] if chunk >= len(bases) or cuts[chunk] else [bases[chunk]]
    return _hash([[bases[other - 1] for other in sorted(needed)], following])


def neighbours_hash(chunk: int, keys: Sequence[str], cuts: Sequence[bool]) -> str:
    """The keys of the chunks beside a chunk, as they are now."""
    return _hash([keys[: chunk - 1][-1:], [] if chunk >= len(keys) or cuts[chunk] else [keys[chunk]]])


def _hash(content: object) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


class _StoredChoice(BaseModel, extra="forbid"):
    """A choice as it was written; of an older version's (``before`` and ``link``) the take counts."""

    take: Annotated[int, Field(ge=1, le=MAX_TAKE)] = 1
    replaces: str | None = None
    context: str | None = None
    neighbours: str = ""
    before: Annotated[str | None, Field(exclude=True)] = None
    link: Annotated[str | None, Field(exclude=True)] = None


_STORED_CHOICES = TypeAdapter(dict[Annotated[int, Field(ge=1)], _StoredChoice])


def read_take_choices(folder: Path) -> dict[int, TakeChoice]:
    """Which takes a project has chosen, by chunk; the first of each where the file does not say, or is damaged."""
    try:
        values = read_plain_json(read_regular_file(folder / TAKES_FILE, MAX_TAKES_BYTES, follow=False))
        choices = _STORED_CHOICES.validate_python(values)
    except (OSError, ValueError):
        return {}
    return {chunk: TakeChoice(**choice.model_dump()) for chunk, choice in choices.items()}


def write_take_choices(folder: Path, choices: TakeChoices) -> None:
    """Writes the choices into a project.

    Raises:
        BlockvidError: they cannot be written (``PartialError``: the disk is full).
    """
    if not choices and not (folder / TAKES_FILE).exists():
        return
    values = {str(chunk): asdict(choice) for chunk, choice in sorted(choices.items()) if choice != TakeChoice()}
    write_atomically(folder / TAKES_FILE, f"{json.dumps(values, indent=2)}\n".encode())
