"""Does a score see what it is meant to see? Films of one story, clean and worse and worse, put it to the test.

    clean, blurred a little, more, most  ->  severities: does a score follow, story by story?  ->  changes: over stories

A score is good at a drift if it follows it, and leaves the drifts alone that it is not about.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from blockvid_cli.evaluation.imports import Result
from blockvid_cli.evaluation.suite import Item, columns, mean

SMALLEST = 1e-8  # a clean score below it is none to compare with
MEANT = {  # the columns, without backends' names, that should see a drift
    "blur": ("imaging_quality", "vde.reference.clarity", "vde.paper.clarity"),
    "hue": ("subject_consistency", "background_consistency", "vde.paper.subject"),
    "identity": ("subject_consistency", "vde.paper.subject", "adherence"),
    "freeze": ("vde.paper.motion_energy",),
    "jitter": ("motion_smoothness", "temporal_flickering", "vde.reference.motion", "vde.paper.motion"),
    "cut": ("subject_consistency", "background_consistency", "vde.reference.subject", "vde.reference.background"),
}


def severity_rows(items: Sequence[Item], results: Sequence[Result]) -> list[dict[str, Any]]:
    """A row a story, kind of drift and column: ``severities``, rising from the clean film's 0, and ``values`` at them.

    With them whether the values are strictly ``ordered`` as they should be (drift errors rise, other scores fall), the
    rank correlation ``spearman``, and the ``change`` from clean to worst, a share of the clean score; None where that
    is not known. Drift errors are taken by weight, being shares of their first segment's score already: their change is
    what is added to them.
    """
    lower = {name for result in results for name, it in result.get("measures", {}).items() if it.get("higher") is False}
    known = dict.fromkeys(column for result in results for column in columns(result))
    rows = []
    for (story, drift), levels in _levels(items, results).items():
        scale = sorted(levels)
        for column in known:
            field = "normalised" if column.startswith("vde.") else "value"
            values = [mean(columns(result, field).get(column) for result in levels[severity])[0] for severity in scale]
            meant = any(f"{column}_".startswith(f"{name}_") for name in MEANT.get(drift, ()))
            rises = column.startswith("vde.") or column in lower
            row = {"story": story, "drift": drift, "column": column, "meant": meant, "rises": rises}
            row |= {"severities": scale, "values": values, **_followed(scale, values, rises)}
            rows.append(row | {"change": _change(scale, values, absolute=field == "normalised")})
    return rows


def _levels(items: Sequence[Item], results: Sequence[Result]) -> dict[tuple[str, str], dict[float, list[Result]]]:
    """Results by story and kind of drift, by severity; a clean film is severity 0 of every kind."""
    pairs = list(zip(items, results, strict=True))
    found: dict[tuple[str, str], dict[float, list[Result]]] = {}
    for story, kind in dict.fromkeys((item.story or "", item.kind) for item in items if item.kind):
        for item, result in pairs:
            if (item.story or "") == story and item.kind in (None, kind):
                severity = (item.severity or 0.0) if item.kind else 0.0
                found.setdefault((story, kind), {}).setdefault(severity, []).append(result)
    return found


def _followed(scale: Sequence[float], values: Sequence[float | None], rises: bool) -> dict[str, Any]:
    there = [(severity, value) for severity, value in zip(scale, values, strict=True) if value is not None]
    steps = np.diff([value for _, value in there]) * (1 if rises else -1)
    return {
        "ordered": bool((steps > 0).all()) if len(there) == len(scale) > 1 else None,
        "spearman": spearman(*zip(*there, strict=True)) if there else None,
    }


def _change(scale: Sequence[float], values: Sequence[float | None], absolute: bool) -> float | None:
    """From the clean film to the worst, or as a share of the clean film's value."""
    clean, worst = values[0], values[-1]
    if scale[0] != 0 or scale[-1] == 0 or clean is None or worst is None:
        return None
    if absolute:
        return worst - clean
    return (worst - clean) / abs(clean) if abs(clean) >= SMALLEST else None


def spearman(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Rank correlation, -1 to 1; equal values share the mean of their ranks. None where all values are equal."""
    ranks = [(np.less.outer(x, x).sum(0) + np.less_equal.outer(x, x).sum(0)) / 2 for x in (np.array(a), np.array(b))]
    return float(np.corrcoef(*ranks)[0, 1]) if all(np.ptp(x) > 0 for x in ranks) else None


def drift_changes(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, dict[str, Any]]]:
    """Rows over their stories, by kind of drift and column: means, and how many are ``ordered`` of those that tell."""
    table: dict[str, dict[str, dict[str, Any]]] = {}
    for drift, column in dict.fromkeys((row["drift"], row["column"]) for row in rows):
        some = [row for row in rows if (row["drift"], row["column"]) == (drift, column)]
        told = [row["ordered"] for row in some if row["ordered"] is not None]
        over = {name: mean(row[name] for row in some)[0] for name in ("change", "spearman")}
        over |= {"ordered": sum(told), "stories": len(told), "meant": some[0]["meant"]}
        table.setdefault(drift, {})[column] = over
    return table
