"""``story.report.html``: one page that plays the film and shows how it was drawn; it needs no network.

    report.html     the page's outline              report.css     how it looks, by day and by night
    report.js       the film and its timeline       card.js        what is told of the chunk that is chosen
    curves.js       how measures drift along the film

What a person typed (captions, title, storyboard) is escaped here, or lies in the page as JSON without a single ``<``
and is put in its place as text. A policy in the page lets nothing run but these scripts, and nothing load.
"""

from __future__ import annotations

import json
import math
import mimetypes
import os
from base64 import b64encode
from dataclasses import asdict, replace
from hashlib import sha256
from html import escape
from io import BytesIO
from pathlib import Path
from string import Template
from typing import Any
from urllib.parse import quote

import numpy as np
from PIL import Image

from blockvid_cli.project.atomic_files import write_atomically
from blockvid_cli.report.facts import Report
from blockvid_cli.report.page import chunk_table, notes, phases, settings, summary

HERE = Path(__file__).parent
SCRIPTS = ("card.js", "report.js", "curves.js")  # one script in this order
EMBEDDED = 24_000_000  # bytes of a film that is put into the page; one browser stops at 32 MiB of base64
PICTURES = 4_000_000  # bytes that the thumbnails of a film may take, about
WIDTHS = (240, 160, 112, 80, 56)  # pixels of a thumbnail: the widest with which they fit
A_PIXEL = 0.25  # bytes of a JPEG, about
QUALITY = 80


def write_report(path: Path, facts: Report) -> None:
    """Writes the page, whole or not at all.

    Raises:
        BlockvidError: it cannot be written (``PartialError``: the disk is full).
    """
    write_atomically(path, page(facts, path.parent).encode("utf-8", "backslashreplace"))


def page(facts: Report, folder: Path) -> str:
    """The page, for a file in ``folder``: a film too large to embed is linked relative to it."""
    style = _asset("report.css")
    script = "".join(map(_asset, SCRIPTS))
    return Template(_asset("report.html")).substitute(
        policy=escape(_policy(style, script)),
        title=escape(facts.title or (facts.film.stem if facts.film else "A film")),
        style=style,
        script=script,
        summary=summary(facts),
        player=_player(facts, folder),
        notes=notes(facts.notes),
        phases=phases(facts),
        settings=settings(facts.settings),
        table=chunk_table(facts.chunks),
        facts=as_json(as_data(facts)),
    )


def as_data(facts: Report) -> dict[str, Any]:
    """What the page's scripts read: plain values; a seed is a string, because a browser's numbers have 53 bits."""
    width = _thumbnail_width(facts)
    chunks = []
    for chunk in facts.chunks:
        values = asdict(replace(chunk, picture=None))
        values |= {"seed": str(chunk.seed), "takes": list(chunk.takes), "recalled": list(values["recalled"])}
        chunks.append(values | {"picture": None if chunk.picture is None else picture_uri(chunk.picture, width)})
    curves = [
        {
            "name": name,
            "scores": [_finite(score) for score in curve.scores],
            "seconds": list(curve.seconds),
            "higher": curve.higher,
        }
        for name, curve in facts.curves.items()
    ]
    return {"seconds": facts.seconds, "fps": facts.fps, "chunks": chunks, "curves": curves}


def as_json(values: dict[str, Any]) -> str:
    """JSON that may stand inside a ``<script>``, whatever is in its texts."""
    text = json.dumps(values, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def picture_uri(picture: np.ndarray, width: int) -> str:
    """A picture (H, W, 3) uint8, no wider than ``width``, as a JPEG inside an address."""
    image = Image.fromarray(picture)
    if image.width > width:
        image = image.resize((width, max(1, round(image.height * width / image.width))), Image.Resampling.LANCZOS)
    jpeg = BytesIO()
    image.save(jpeg, "JPEG", quality=QUALITY, optimize=True)
    return _uri("image/jpeg", jpeg.getvalue())


def _thumbnail_width(facts: Report) -> int:
    shapes = [chunk.picture.shape for chunk in facts.chunks if chunk.picture is not None]
    for width in WIDTHS:
        if sum(A_PIXEL * width * width * shape[0] / shape[1] for shape in shapes) <= PICTURES:
            return width
    return WIDTHS[-1]


def _player(facts: Report, folder: Path) -> str:
    """The film in the page if it is small enough, else the address of the file beside it."""
    if facts.film is None or not facts.film.is_file():
        return '<p class="missing">There is no film beside this report.</p>'
    kind = mimetypes.guess_type(facts.film.name)[0] or "video/mp4"
    if facts.film.stat().st_size <= EMBEDDED:
        source, ahead = _uri(kind, facts.film.read_bytes()), "auto"
    else:
        source, ahead = quote(Path(os.path.relpath(facts.film, folder)).as_posix()), "metadata"
    first = next((chunk.picture for chunk in facts.chunks if chunk.picture is not None), None)
    poster = "" if first is None else f' poster="{picture_uri(first, 960)}"'
    width, height = facts.size
    return (
        f'<video controls playsinline preload="{ahead}" width="{width}" height="{height}"{poster}'
        ' aria-label="The film">'
        f'<source src="{escape(source)}" type="{escape(kind)}"></video>'
    )


def _policy(style: str, script: str) -> str:
    """What the page may do: run and look as written here, and show what lies in it or beside it."""
    return (
        f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; img-src data:;"
        " media-src data: 'self' file:; base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


def _asset(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


def _uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{b64encode(content).decode()}"


def _finite(score: float | None) -> float | None:
    return float(score) if score is not None and math.isfinite(score) else None
