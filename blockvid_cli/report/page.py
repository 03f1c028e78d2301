"""The parts of a report that only stand there: tables and lists, with every text escaped."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

import yaml

from blockvid_cli.report.facts import RenderedChunk, RecalledChunk, Report, RenderSettings

GIB = 2**30
NAMES = {  # of phases
    "text": "reading captions",
    "load": "loading the model",
    "draw": "drawing",
    "decode": "decoding",
    "mux": "writing the film",
}


def summary(facts: Report) -> str:
    """The film in one line of numbers."""
    shots = len({chunk.shot for chunk in facts.chunks})
    now = sum(not chunk.resumed for chunk in facts.chunks)
    told = [
        moment(facts.seconds),
        f"{facts.size[0]}×{facts.size[1]}",
        f"{facts.fps:g} frames a second",
        f"{_count(len(facts.chunks), 'chunk')} in {_count(shots, 'shot')}",
        f"model {facts.settings.model}",
    ]
    if facts.drawing:
        told.append(f"rendered in {_lasting(facts.drawing)}")
    if now < len(facts.chunks):
        told.append(f"{now or 'no'} {'chunk' if now == 1 else 'chunks'} drawn now")
    return "".join(f"<li>{escape(text)}</li>" for text in told)


def phases(facts: Report) -> str:
    """Seconds by phase with a bar each, and the render's memory and speed; nothing where nothing was measured."""
    if not facts.phases and facts.peak is None:
        return ""
    rows = "".join(_phase(name, seconds, facts.drawing) for name, seconds in facts.phases.items())
    sums = []
    if facts.phases:
        sums.append(("all together", _lasting(facts.drawing)))
    if facts.speed is not None:
        sums.append(("film drawn in a second", f"{facts.speed:.2g} s"))
    if facts.peak is not None:
        sums.append(("memory at the most", size(facts.peak)))
    foot = "".join(f'<tr><th scope="row">{name}</th><td></td><td>{value}</td></tr>' for name, value in sums)
    return (
        '<section aria-labelledby="took"><h2 id="took">What it took</h2><table class="phases">'
        f"<tbody>{rows}</tbody><tfoot>{foot}</tfoot></table></section>"
    )


def settings(known: RenderSettings) -> str:
    """How to draw the film again, folded away."""
    facts = {"Model": known.model, "Weights": known.weights, "Seed of the film": str(known.seed), **known.versions}
    listed = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in facts.items())
    recipe = yaml.safe_dump(_plain(known.recipe), sort_keys=False, allow_unicode=True) if known.recipe else ""
    return (
        f"{_text('command', 'Command', known.command)}"
        f"<dl>{listed}</dl>"
        f"{_text('recipe', 'Recipe', recipe)}"
        f"{_text('storyboard', 'Storyboard', known.storyboard)}"
    )


def notes(sentences: Sequence[str]) -> str:
    """What the render had to say."""
    if not sentences:
        return ""
    listed = "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences)
    return f'<section aria-labelledby="noted"><h2 id="noted">Notes</h2><ul class="notes">{listed}</ul></section>'


def chunk_table(chunks: Iterable[RenderedChunk]) -> str:
    """Every chunk as a row: to read without scripts, to print, to copy."""
    heads = ("chunk", "shot", "from", "to", "caption", "recalls", "seed", "take", "tokens kept", "drawn in")
    rows = []
    for chunk in chunks:
        kept = "" if chunk.kept is None else f"{chunk.kept:,}" + (f" of {chunk.tokens:,}" if chunk.tokens else "")
        sentence = f'<br><small dir="auto">→ {escape(chunk.sentence)}</small>' if _other(chunk) else ""
        took = "" if chunk.seconds is None else _lasting(chunk.seconds)
        cells = (
            str(chunk.number),
            str(chunk.shot),
            moment(chunk.start),
            moment(chunk.end),
            f'<span dir="auto">{escape(chunk.caption)}</span>{sentence}',
            ", ".join(map(_recalled, chunk.recalled)),
            str(chunk.seed),
            f"{chunk.take} of {len(chunk.takes)}",
            kept,
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
    """Bytes as a person says them."""
    return f"{count / GIB:.2f} GiB" if count >= GIB else f"{count / 2**20:.0f} MiB"


def _phase(name: str, seconds: float, together: float) -> str:
    share = 100 * seconds / together if together else 0.0
    return (
        f'<tr><th scope="row">{escape(NAMES.get(name, name))}</th>'
        f'<td><svg class="bar" aria-hidden="true"><rect width="{share:.2f}%" height="100%" rx="3"></rect></svg></td>'
        f"<td>{_lasting(seconds)}</td></tr>"
    )


def _text(name: str, title: str, text: str) -> str:
    """A text to read and to copy."""
    if not text:
        return ""
    return (
        f'<div class="text"><h3 id="{name}-title">{title}</h3>'
        f'<button type="button" class="copy" data-of="{name}" aria-describedby="{name}-title">Copy</button>'
        f'<pre id="{name}" tabindex="0" aria-labelledby="{name}-title">{escape(text)}</pre></div>'
    )


def _recalled(recalled: RecalledChunk) -> str:
    return f"{recalled.chunk} ({'recent' if recalled.cosine is None else f'{recalled.cosine:.2f}'})"


def _other(chunk: RenderedChunk) -> bool:
    """Whether the network read another sentence than the caption."""
    return bool(chunk.sentence) and chunk.sentence != chunk.caption


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same in values that YAML knows."""
    return json.loads(json.dumps(values, default=str))


def _count(number: int, name: str) -> str:
    return f"{number} {name}" if number == 1 else f"{number} {name}s"


def _lasting(seconds: float) -> str:
    if seconds < 99.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
