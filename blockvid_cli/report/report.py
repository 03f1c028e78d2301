"""``story.report.html``: one page that plays the film and shows how it was rendered; it needs no network.

    report.html     the page's outline              report.css     its style, light and dark
    report.js       the film and its timeline       card.js        the card of the selected chunk
    curves.js       how metrics drift along the film

What a person typed (captions, title, storyboard) is escaped here, or is in the page as JSON without a single ``<`` and
is inserted as text. A policy in the page allows these scripts alone to run, and nothing to load.
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
from blockvid_cli.report.contents import CARD_NAMES, Report, chunk_table, notes, phases, settings, summary

FOLDER = Path(__file__).parent
SCRIPTS = ("card.js", "report.js", "curves.js")  # one script in this order
MAX_EMBEDDED_BYTES = 24_000_000  # of a film that is embedded in the page; one browser stops at 32 MiB of base64
THUMBNAILS_BYTES = 4_000_000  # of all thumbnails, about
WIDTHS = (240, 160, 112, 80, 56)  # pixels of a thumbnail: the widest with which they fit
BYTES_PER_PIXEL = 0.25  # of a JPEG, about
QUALITY = 80


def write_report(path: Path, report: Report) -> None:
    """Writes the page, whole or not at all.

    Raises:
        BlockvidError: it cannot be written (``PartialError``: the disk is full).
    """
    write_atomically(path, page(report, path.parent).encode("utf-8", "backslashreplace"))


def page(report: Report, folder: Path) -> str:
    """The page, for a file in ``folder``: a film too large to embed is linked relative to it."""
    style = _asset("report.css")
    script = "".join(map(_asset, SCRIPTS))
    return Template(_asset("report.html")).substitute(
        policy=escape(_policy(style, script)),
        title=escape(report.title or (report.film.stem if report.film else "A film")),
        style=style,
        script=script,
        summary=summary(report),
        player=_player(report, folder),
        notes=notes(report),
        phases=phases(report),
        settings=settings(report.settings),
        table=chunk_table(report.chunks),
        facts=as_json(as_data(report)),
    )


def as_data(report: Report) -> dict[str, Any]:
    """The data of the page's scripts: plain values; a seed is a string, because a browser's numbers have 53 bits."""
    width = _thumbnail_width(report)
    chunks = []
    for chunk in report.chunks:
        values = asdict(replace(chunk, image=None))
        seed = None if chunk.seed is None else str(chunk.seed)
        values |= {name: list(values[name]) for name in ("takes", "retrieved", "warnings")} | {"seed": seed}
        chunks.append(values | {"image": None if chunk.image is None else image_uri(chunk.image, width)})
    curves = [
        {
            "name": name,
            "scores": [_finite(score) for score in curve.scores],
            "seconds": list(curve.seconds),
            "description": curve.description,
            "drift": curve.drift,
            "largest": asdict(curve.largest) if curve.largest else None,
        }
        for name, curve in report.curves.items()
    ]
    cards = [{"name": CARD_NAMES[card.kind], "start": card.start, "end": card.end} for card in report.cards]
    return {"seconds": report.seconds, "fps": report.fps, "chunks": chunks, "cards": cards, "curves": curves}


def as_json(values: dict[str, Any]) -> str:
    """JSON that is safe inside a ``<script>``, whatever is in its texts."""
    text = json.dumps(values, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def image_uri(pixels: np.ndarray, width: int) -> str:
    """An image (H, W, 3) uint8, no wider than ``width``, as a JPEG in a data URI."""
    image = Image.fromarray(pixels)
    if image.width > width:
        image = image.resize((width, max(1, round(image.height * width / image.width))), Image.Resampling.LANCZOS)
    jpeg = BytesIO()
    image.save(jpeg, "JPEG", quality=QUALITY, optimize=True)
    return _uri("image/jpeg", jpeg.getvalue())


def _thumbnail_width(report: Report) -> int:
    shapes = [chunk.image.shape for chunk in report.chunks if chunk.image is not None]
    for width in WIDTHS:
        if sum(BYTES_PER_PIXEL * width * width * shape[0] / shape[1] for shape in shapes) <= THUMBNAILS_BYTES:
            return width
    return WIDTHS[-1]


def _player(report: Report, folder: Path) -> str:
    """The film in the page if it is small enough, else the address of the file beside it."""
    if report.film is None or not report.film.is_file():
        return '<p class="missing">There is no film beside this report.</p>'
    kind = mimetypes.guess_type(report.film.name)[0] or "video/mp4"
    if report.film.stat().st_size <= MAX_EMBEDDED_BYTES:
        source, preload = _uri(kind, report.film.read_bytes()), "auto"
    else:
        source, preload = quote(Path(os.path.relpath(report.film, folder)).as_posix()), "metadata"
    first = next((chunk.image for chunk in report.chunks if chunk.image is not None), None)
    poster = "" if first is None else f' poster="{image_uri(first, 960)}"'  # a title card may begin black
    width, height = report.size
    return (
        f'<video controls playsinline preload="{preload}" width="{width}" height="{height}"{poster}'
        ' aria-label="The film">'
        f'<source src="{escape(source)}" type="{escape(kind)}"></video>'
    )


def _policy(style: str, script: str) -> str:
    """The page's content security policy: its own script and style, images in it, films in it or beside it."""
    return (
        f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; img-src data:;"
        " media-src data: 'self' file:; base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


def _asset(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")


def _uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{b64encode(content).decode()}"


def _finite(score: float | None) -> float | None:
    return float(score) if score is not None and math.isfinite(score) else None
