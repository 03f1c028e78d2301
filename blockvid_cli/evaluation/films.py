"""Scores several films; a film that was scored before with the same settings is not scored again.

A film's scores are in the user's cache under the hash of its content and of the settings; one bad film does not affect
the others.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from multiprocessing import active_children, get_context, parent_process
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from blockvid_cli import __version__
from blockvid_cli.errors import BlockvidError
from blockvid_cli.evaluation.scores import EvalConfig, score_film
from blockvid_cli.evaluation.segments import Protocol
from blockvid_cli.evaluation.tiers import make_tier
from blockvid_cli.files import read_plain_json, read_regular_file
from blockvid_cli.models.hub import cache_folder, sha256
from blockvid_cli.project.atomic_files import write_atomically
from blockvid_cli.project.project import project_folder, read_manifest
from blockvid_cli.storyboard.parse import MAX_FILE_BYTES

MAX_SCORES_BYTES = 16_000_000  # of one film
RULES = 3  # goes up when a film's scores would change for another reason than a new version

FilmProgress = Callable[[int, float], None]  # gets a film's number, and the share of it that is done, 0..1


def score_films(
    films: Sequence[tuple[Path, Path | None]],
    config: EvalConfig,
    jobs: int | None = None,
    fresh: bool = False,
    progress: FilmProgress = lambda number, done: None,
) -> list[dict[str, Any]]:
    """Returns each film's scores (``score_film``), or ``{"film", "error"}`` with a sentence.

    Args:
        films: each with its storyboard, or None.
        jobs: films at once; one per core, if the CPU does the work.
        fresh: score again what was scored before.

    Raises:
        UsageError, MissingModelError: the backends are not on this machine, whatever the film.
    """
    tier = make_tier(config.backends, config.protocol is Protocol.LONG)
    backends = sorted({metric.backend.name for metric in tier.all if metric.backend})
    jobs = min(len(films), jobs or (os.cpu_count() or 1 if config.backends.device == "cpu" else 1))
    tasks = [(film, replace(config, storyboard=story or config.storyboard), backends, fresh) for film, story in films]
    if jobs <= 1:
        return [_score(*task, progress=partial(progress, number)) for number, task in enumerate(tasks)]
    results: list[dict[str, Any]] = [{} for _ in tasks]
    threads = max(1, (os.cpu_count() or 1) // jobs)
    with worker_pool(jobs, _init_worker, threads) as pool:
        for number, result in _as_completed([pool.submit(_score, *task) for task in tasks]):
            results[number] = result
            progress(number, 1.0)
    return results


@contextmanager
def worker_pool(workers: int, initializer: Callable[[int], None], threads: int) -> Iterator[ProcessPoolExecutor]:
    """Yields processes that begin with ``initializer(threads)``; an error or a signal ends them at once."""
    with ProcessPoolExecutor(workers, get_context("spawn"), initializer, (threads,)) as pool:
        try:
            yield pool
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for worker in active_children():
                worker.terminate()
            raise


def _as_completed(futures: list[Future[dict[str, Any]]]) -> Iterator[tuple[int, dict[str, Any]]]:
    for future in as_completed(futures):
        yield futures.index(future), future.result()


def _init_worker(threads: int) -> None:
    """Limits a worker to its share of the cores, and ends it with its parent process, however that one ends."""
    import cv2

    cv2.setNumThreads(threads)
    threading.Thread(target=_exit_with, args=(parent_process(),), daemon=True).start()


def _exit_with(parent: BaseProcess) -> None:
    wait([parent.sentinel])
    os._exit(1)


def _score(
    film: Path,
    config: EvalConfig,
    backends: Sequence[str],
    fresh: bool,
    progress: Callable[[float], None] = lambda done: None,
) -> dict[str, Any]:
    """A film's scores, from the cache or computed; a sentence where it has none."""
    try:
        content = sha256(film) if film.is_file() else ""
        file = cache_folder() / "scores" / f"{content[:32]}-{_cache_key(film, config, backends)}.json"
        cached = None if fresh else _read_cached(file)
        result = cached or {"sha256": content, **score_film(film, config, progress)}
    except BlockvidError as error:
        return {"film": str(film), "error": str(error)}
    except OSError as error:
        return {"film": str(film), "error": f"{film}: this file cannot be read ({error.strerror or error})."}
    if not cached:
        with suppress(BlockvidError):  # without a writable cache it only takes longer
            write_atomically(file, json.dumps(result).encode())
    progress(1.0)
    return {**result, "film": str(film)}


def _read_cached(file: Path) -> dict[str, Any] | None:
    try:
        result = read_plain_json(read_regular_file(file, MAX_SCORES_BYTES))
    except (OSError, ValueError):
        return None
    return result if isinstance(result, dict) and "metrics" in result else None


def _cache_key(film: Path, config: EvalConfig, backends: Sequence[str]) -> str:
    """A hash of all that decides a film's scores beside its content.

    That is the settings, the storyboard's content, the timeline in the film's project, the backends, and the rules.
    """
    story = config.storyboard
    content = read_regular_file(story, MAX_FILE_BYTES) if story and story.is_file() else b""
    files = {
        "storyboard": hashlib.sha256(content).hexdigest(),
        "timeline": read_manifest(project_folder(film)).timeline,
    }
    values = json.dumps({**config.as_values(), **files}, sort_keys=True)
    return hashlib.sha256(f"{__version__} {RULES} {backends} {values}".encode()).hexdigest()[:16]
