"""What a shell offers on TAB; it answers at once, so the words of rooms that need torch are written out here.

A test compares these words with the tables they come from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from blockvid_cli.models.card import bundled_models

Offer = Callable[[str], list[str]]

STORIES = (".yaml", ".yml")
PROJECT = ".blockvid"


def words(*known: str) -> Offer:
    """An offer of fixed words."""

    def offer(incomplete: str) -> list[str]:
        return _beginning(known, incomplete)

    return offer


memories = words("full", "none", "semantic", "window")
devices = words("auto", "cpu", "cuda:0")
precisions = words("auto", "fp32", "bf16", "int8", "nf4")
profiles = words("auto", "h20", "24gb", "16gb", "12gb", "8gb", "least")
offloads = words("none", "model", "group", "sequential")
storages = words("device", "host", "disk", "latents")
memory_dtypes = words("as-drawn", "bf16", "int8")
tiers = words("builtin", "vbench")
objectives = words("diffusion-forcing", "own-rollout", "teacher-forcing")
weight_names = words("diffusers", "original")
weight_dtypes = words("as-stored", "fp32", "bf16", "fp16")


def models(incomplete: str) -> list[str]:
    """Models that have a card; for a folder or file the shell offers what lies there."""
    return _beginning(bundled_models(), incomplete)


def storyboards(incomplete: str) -> list[str]:
    """Storyboards in the folder that is being typed; where there is none, the shell offers what lies there."""
    return _files(incomplete, lambda path: path.suffix.lower() in STORIES)


def projects(incomplete: str) -> list[str]:
    """Storyboards and project folders."""
    return _files(incomplete, lambda path: path.suffix.lower() in STORIES or path.suffix == PROJECT)


def _files(incomplete: str, wanted: Callable[[Path], bool]) -> list[str]:
    """Paths that begin as typed; hidden ones only when asked for."""
    folder, _, name = incomplete.rpartition("/")
    begun = f"{folder}/" if "/" in incomplete else ""
    found: list[str] = []
    with suppress(OSError):
        found = [f"{begun}{path.name}" for path in Path(begun or ".").expanduser().iterdir() if wanted(path)]
    return [path for path in _beginning(found, incomplete) if name or not path.removeprefix(begun).startswith(".")]


def _beginning(known: Iterable[str], incomplete: str) -> list[str]:
    return [word for word in known if word.startswith(incomplete)]
