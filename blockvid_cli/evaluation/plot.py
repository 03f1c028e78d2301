"""Drift over time as a picture: the segment scores of every measure, a line a film."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from blockvid_cli.project.atomic_files import write_atomically

ACROSS, WIDE, HIGH = 3, 4.2, 2.1  # panels beside each other, inches of each


def curves(result: Mapping[str, Any]) -> dict[str, list[float | None]]:
    """The segment scores of every measure, and of what only the paper's profile compares, by name."""
    found = {name: measure["segments"] for name, measure in result["measures"].items()}
    for errors in result["vde"].values():
        found |= {error["measure"]: error["segments"] for error in errors.values() if error["measure"] not in found}
    return found


def plot(results: Sequence[Mapping[str, Any]], names: Sequence[str], path: Path) -> None:
    """Writes a PNG with a panel a measure; segments stand at their middles, in seconds.

    Raises:
        BlockvidError: it cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawn = [curves(result) for result in results]
    measures = list(dict.fromkeys(name for film in drawn for name in film))
    down = -(-len(measures) // ACROSS)
    figure = Figure(figsize=(ACROSS * WIDE, down * HIGH + 0.5), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(down, ACROSS, squeeze=False).ravel()
    for panel, name in zip(panels, measures, strict=False):
        for film, result in zip(drawn, results, strict=True):
            scores = film.get(name) or []
            middles = [(place + 0.5) * result["seconds"] / len(scores) for place in range(len(scores))]
            panel.plot(middles, [float("nan") if s is None else s for s in scores], marker="o", markersize=3)
        panel.set_title(name.replace("_", " "), fontsize=9)
        panel.tick_params(labelsize=7)
        panel.ticklabel_format(useOffset=False)
        panel.grid(alpha=0.25)
        panel.margins(y=0.15)
    for panel in panels[len(measures) :]:
        panel.set_visible(False)
    for panel in panels[max(0, len(measures) - ACROSS) : len(measures)]:
        panel.set_xlabel("seconds", fontsize=8)
    figure.legend(panels[0].get_lines(), names, loc="outside lower center", ncols=min(4, len(names)), fontsize=8)
    png = BytesIO()
    figure.savefig(png, format="png", dpi=110)
    write_atomically(path, png.getvalue())
