"""Many films scored side by side; a film scored before, by the same settings, is not scored again.

A film's scores lie in the user's cache under the hash of its content and of the settings; one bad film costs the others
nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import replace
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from blockvid_cli import __version__
from blockvid_cli.errors import BlockvidError
from blockvid_cli.evaluation.scores import EvalConfig, score_film
from blockvid_cli.evaluation.spans import Protocol
from blockvid_cli.evaluation.tiers import make_tier
from blockvid_cli.models.hub import cache_folder, sha256
from blockvid_cli.project.atomic_files import write_atomically

RULES = 1  # goes up when a film's scores would change for another reason than a new version

FilmProgress = Callable[[int, float], None]  # a film's number, and how far it is, 0..1


def score_films(
    films: Sequence[tuple[Path, Path | None]],
    settings: EvalConfig,
    jobs: int | None = None,
    fresh: bool = False,
    tell: FilmProgress = lambda number, done: None,
) -> list[dict[str, Any]]:
    """Each film's scores (``score``), or ``{"film", "error"}`` with a sentence; films come with their storyboards.

    Args:
        jobs: films at once; one a core, if a CPU measures.
        fresh: score again what was scored before.

    Raises:
        UsageError, MissingModelError: what is asked for is not here, whatever the film.
    """
    tier = make_tier(settings.backends, settings.protocol is Protocol.LONG)
    asked = sorted({measure.backend.name for measure in tier.all if measure.backend})
    jobs = min(len(films), jobs or (os.cpu_count() or 1 if settings.backends.device == "cpu" else 1))
    tasks = [(film, replace(settings, storyboard=story or settings.storyboard), asked, fresh) for film, story in films]
    if jobs <= 1:
        return [_scored(*task, tell=lambda done, n=number: tell(n, done)) for number, task in enumerate(tasks)]
    results: list[dict[str, Any]] = [{} for _ in tasks]
    threads = max(1, (os.cpu_count() or 1) // jobs)
    with ProcessPoolExecutor(jobs, get_context("spawn"), _keep_to, (threads,)) as pool:
        for number, result in _as_done([pool.submit(_scored, *task) for task in tasks]):
            results[number] = result
            tell(number, 1.0)
    return results


def _as_done(futures: list[Future[dict[str, Any]]]) -> Iterator[tuple[int, dict[str, Any]]]:
    for future in as_completed(futures):
        yield futures.index(future), future.result()


def _keep_to(threads: int) -> None:
    """A worker's share of the cores; it ends with the process that began it, however that one ends."""
    import cv2

    cv2.setNumThreads(threads)
    threading.Thread(target=_end_with, args=(parent_process(),), daemon=True).start()


def _end_with(parent: BaseProcess) -> None:
    wait([parent.sentinel])
    os._exit(1)


def _scored(
    film: Path,
    settings: EvalConfig,
    asked: Sequence[str],
    fresh: bool,
    tell: Callable[[float], None] = lambda done: None,
) -> dict[str, Any]:
    """A film's scores, from the cache or anew; a sentence where it has none."""
    try:
        content = sha256(film) if film.is_file() else ""
        file = cache_folder() / "scores" / f"{content[:32]}-{_key(settings, asked)}.json"
        found = None if fresh else _read(file)
        result = found or {"sha256": content, **score_film(film, settings, tell)}
    except BlockvidError as error:
        return {"film": str(film), "error": str(error)}
    except OSError as error:
        return {"film": str(film), "error": f"{film}: this file cannot be read ({error.strerror or error})."}
    if not found:
        with suppress(BlockvidError):  # a cache that cannot be written to costs time and nothing else
            write_atomically(file, json.dumps(result).encode())
    tell(1.0)
    return {**result, "film": str(film)}


def _read(file: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and "measures" in found else None


def _key(settings: EvalConfig, asked: Sequence[str]) -> str:
    """What tells settings apart: their values, the storyboard's content, who is asked, and the rules."""
    story = settings.storyboard
    words = story.read_bytes() if story and story.is_file() else b""
    told = json.dumps({**settings.as_values(), "storyboard": hashlib.sha256(words).hexdigest()}, sort_keys=True)
    return hashlib.sha256(f"{__version__} {RULES} {asked} {told}".encode()).hexdigest()[:16]
