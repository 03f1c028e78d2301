"""What a report shows of a render, and the static parts of its page: tables and lists, with every text escaped."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from blockvid_cli.errors import plural
from blockvid_cli.evaluation.segments import LargestChange
from blockvid_cli.video.spec import Section

GIB = 2**30
PHASE_NAMES = {
    "text": "reading captions",
    "load": "loading the model",
    "denoise": "generating blocks",
    "decode": "decoding",
    "mux": "writing the film",
    "report": "measuring the film for this report",
}
CARD_NAMES = {"title": "title card", "end": "end card"}
WITHOUT_METADATA = "Rendered with --no-metadata: title, captions, seeds, notes and the storyboard are left out."


@dataclass(frozen=True)
class RetrievedChunk:
    """An earlier chunk that was attended to while another was rendered.

    Args:
        chunk: its number, counted from 1.
        cosine: the captions' similarity; None for a chunk that is attended to because it is recent.
    """

    chunk: int
    cosine: float | None = None


@dataclass(frozen=True)
class RenderedChunk:
    """A chunk as it was rendered.

    Args:
        start, end: seconds in the finished film, cards included.
        caption: as written; empty where metadata are left out.
        seed: None where metadata are left out.
        prompt: the text that the network read instead, where that is another.
        first_image, last_image: names of the pictures that it begins and ends with.
        warnings: sentences about this chunk.
        take: the take that is in the film; ``takes`` are the numbers of all that exist.
        cached_tokens, tokens: how many of how many tokens the KV cache selected of it.
        seconds: spent rendering it.
        resumed: rendered by an earlier run, not by this one.
        image: a frame of it, (H, W, 3) uint8.
    """

    number: int
    shot: int
    start: float
    end: float
    caption: str
    seed: int | None
    prompt: str = ""
    first_image: str = ""
    last_image: str = ""
    warnings: tuple[str, ...] = ()
    take: int = 1
    takes: tuple[int, ...] = (1,)
    retrieved: tuple[RetrievedChunk, ...] = ()
    cached_tokens: int | None = None
    tokens: int | None = None
    seconds: float | None = None
    resumed: bool = False
    image: np.ndarray | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Curve:
    """A metric along the film.

    Args:
        scores: one per segment; None where a segment has none.
        seconds: the middle of each segment in the finished film.
        description: what is measured.
        drift: the normalised drift error; None where there is none.
        largest: the largest change from the first segment on the way.
    """

    scores: tuple[float | None, ...]
    seconds: tuple[float, ...]
    description: str = ""
    drift: float | None = None
    largest: LargestChange | None = None


@dataclass(frozen=True)
class RenderSettings:
    """All that is needed to render the film again.

    Args:
        command: the command line, quoted for a shell.
        storyboard: the text of the file, with its comments.
        recipe: plain values, as a storyboard writes them.
        weights: their hash.
        seed: the film's; None where metadata are left out.
        versions: by the name of the library.
    """

    command: str
    storyboard: str
    model: str
    weights: str
    seed: int | None
    recipe: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """A render, as its report shows it.

    Args:
        film: the file, embedded in the report or linked from it; None if there is none.
        seconds: the film's length, cards included.
        size: width and height in pixels.
        cards: the title card and the end card, where there are.
        phases: seconds by phase, in order.
        waited: seconds that the person waited in all; None where it is not known.
        peak: of memory, in bytes.
        curves: by name; there may be none.
        notes: sentences.
    """

    title: str
    film: Path | None
    seconds: float
    fps: float
    size: tuple[int, int]
    chunks: tuple[RenderedChunk, ...]
    settings: RenderSettings
    cards: tuple[Section, ...] = ()
    phases: Mapping[str, float] = field(default_factory=dict)
    waited: float | None = None
    peak: int | None = None
    curves: Mapping[str, Curve] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def speed(self) -> float | None:
        """Seconds of film per second waited; None where nothing was rendered or the time is not known."""
        rendered = sum(chunk.end - chunk.start for chunk in self.chunks if not chunk.resumed)
        return rendered / self.waited if rendered and self.waited else None


# ---- parts of the page -----------------------------------------------------------------------------------


def summary(facts: Report) -> str:
    """The film in one line of numbers."""
    shots = len({chunk.shot for chunk in facts.chunks})
    rendered = sum(not chunk.resumed for chunk in facts.chunks)
    items = [
        moment(facts.seconds),
        *(f"{CARD_NAMES[card.kind]} of {_duration(card.end - card.start)}" for card in facts.cards),
        f"{facts.size[0]}×{facts.size[1]}",
        f"{facts.fps:g} frames a second",
        f"{plural(len(facts.chunks), 'chunk')} in {plural(shots, 'shot')}",
        f"model {facts.settings.model}",
    ]
    if facts.waited:
        items.append(f"{'rendered' if rendered else 'written'} in {_duration(facts.waited)}")
    if rendered < len(facts.chunks):
        items.append(f"{plural(rendered, 'chunk')} rendered now")
    return "".join(f"<li>{escape(text)}</li>" for text in items)


def phases(facts: Report) -> str:
    """Seconds by phase with a bar each, and the render's memory and speed; empty where nothing was measured."""
    if not facts.phases and facts.peak is None:
        return ""
    measured = sum(facts.phases.values())
    waited = facts.waited or measured
    values = {**facts.phases, "starting, checking and planning": max(waited - measured, 0.0)}
    rows = "".join(_phase(name, seconds, waited) for name, seconds in values.items()) if facts.phases else ""
    totals = []
    if facts.phases:
        totals.append(("in all", _duration(waited)))
    if facts.speed is not None:
        totals.append(("film per second of waiting", f"{facts.speed:.2g} s"))
    if facts.peak is not None:
        totals.append(("peak memory", size(facts.peak)))
    foot = "".join(f'<tr><th scope="row">{name}</th><td></td><td>{value}</td></tr>' for name, value in totals)
    return (
        '<section aria-labelledby="took"><h2 id="took">What it took</h2><table class="phases">'
        f"<tbody>{rows}</tbody><tfoot>{foot}</tfoot></table></section>"
    )


def settings(values: RenderSettings) -> str:
    """How to render the film again, folded."""
    seed = {} if values.seed is None else {"Seed of the film": str(values.seed)}
    items = {"Model": values.model, "Weights": values.weights, **seed, **values.versions}
    listed = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in items.items())
    recipe = yaml.safe_dump(_plain(values.recipe), sort_keys=False, allow_unicode=True) if values.recipe else ""
    return (
        f"{_text('command', 'Command', values.command)}"
        f"<dl>{listed}</dl>"
        f"{_text('recipe', 'Recipe', recipe)}"
        f"{_text('storyboard', 'Storyboard', values.storyboard)}"
    )


def notes(facts: Report) -> str:
    """The render's notes."""
    if not facts.notes:
        return ""
    listed = "".join(f"<li>{escape(sentence)}</li>" for sentence in facts.notes)
    late = any(card.kind == "title" for card in facts.cards)
    hint = '<p class="hint">Times in the notes count from the end of the title card.</p>' if late else ""
    return f'<section aria-labelledby="noted"><h2 id="noted">Notes</h2>{hint}<ul class="notes">{listed}</ul></section>'


def chunk_table(chunks: Iterable[RenderedChunk]) -> str:
    """Every chunk as a row, to read without scripts, to print, to copy."""
    heads = ("chunk", "shot", "from", "to", "caption", "retrieves", "recent", "seed", "take", "tokens cached", "took")
    rows = []
    for chunk in chunks:
        tokens = (
            ""
            if chunk.cached_tokens is None
            else f"{chunk.cached_tokens:,}" + (f" of {chunk.tokens:,}" if chunk.tokens else "")
        )
        remarks = "".join(f'<br><small dir="auto">{escape(text)}</small>' for text in _remarks(chunk))
        took = "" if chunk.seconds is None else _duration(chunk.seconds)
        cells = (
            str(chunk.number),
            str(chunk.shot),
            moment(chunk.start),
            moment(chunk.end),
            f'<span dir="auto">{escape(chunk.caption)}</span>{remarks}',
            ", ".join(f"{old.chunk} ({old.cosine:.2f})" for old in chunk.retrieved if old.cosine is not None),
            ", ".join(str(old.chunk) for old in chunk.retrieved if old.cosine is None),
            "" if chunk.seed is None else str(chunk.seed),
            f"{chunk.take} of {len(chunk.takes)}",
            tokens,
            f"{took} (earlier)" if chunk.resumed and took else "earlier" if chunk.resumed else took,
        )
        rows.append(f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    head = "".join(f'<th scope="col">{name}</th>' for name in heads)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def moment(seconds: float) -> str:
    """A time in a film: ``0:07``, ``0:07.5``, ``1:00:00``."""
    tenths = round(seconds * 10)
    minutes, rest = divmod(tenths, 600)
    shown = f"{rest // 10:02d}" + (f".{rest % 10}" if rest % 10 else "")
    return f"{minutes // 60}:{minutes % 60:02d}:{shown}" if minutes >= 60 else f"{minutes}:{shown}"


def size(count: int) -> str:
    """Bytes in GiB or MiB."""
    return f"{count / GIB:.2f} GiB" if count >= GIB else f"{count / 2**20:.0f} MiB"


def _phase(name: str, seconds: float, total: float) -> str:
    share = 100 * seconds / total if total else 0.0
    return (
        f'<tr><th scope="row">{escape(PHASE_NAMES.get(name, name))}</th>'
        f'<td><svg class="bar" aria-hidden="true"><rect width="{share:.2f}%" height="100%" rx="3"></rect></svg></td>'
        f"<td>{_duration(seconds)}</td></tr>"
    )


def _text(name: str, title: str, text: str) -> str:
    """A text with a button that copies it."""
    if not text:
        return ""
    return (
        f'<div class="text"><h3 id="{name}-title">{title}</h3>'
        f'<button type="button" class="copy" data-of="{name}" aria-describedby="{name}-title">Copy</button>'
        f'<pre id="{name}" tabindex="0" aria-labelledby="{name}-title">{escape(text)}</pre></div>'
    )


def _remarks(chunk: RenderedChunk) -> list[str]:
    """What the network read instead of the caption, the pictures of a chunk by name, and its warnings."""
    prompt = [f"→ {chunk.prompt}"] if chunk.prompt and chunk.prompt != chunk.caption else []
    images = (("begins", chunk.first_image), ("ends", chunk.last_image))
    return [*prompt, *(f"{verb} with the picture {name}" for verb, name in images if name), *chunk.warnings]


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same as plain values, which YAML can write."""
    return json.loads(json.dumps(values, default=str))


def _duration(seconds: float) -> str:
    if seconds < 99.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
