"""Measures seconds by phase, from outside the loops that they are about."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")


class PhaseTimer:
    """Adds up the seconds of each phase; a phase inside another is not counted twice.

    Args:
        started: when the person began to wait, by ``time.perf_counter``; None for now.
    """

    def __init__(self, started: float | None = None) -> None:
        self.seconds: dict[str, float] = {}
        self._phases: list[str] = []
        self._since = time.perf_counter()
        self._started = self._since if started is None else started

    @property
    def waited(self) -> float:
        """Seconds since the person began to wait, whatever they were spent on."""
        return time.perf_counter() - self._started

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Counts the time spent inside for ``name``."""
        self._add_elapsed()
        self._phases.append(name)
        try:
            yield
        finally:
            self._add_elapsed()
            self._phases.pop()

    def timed(self, name: str, items: Iterable[Item]) -> Iterator[Item]:
        """Yields the same items; counts the time spent in making them for ``name``."""
        iterator = iter(items)
        while True:
            with self.phase(name):
                try:
                    item = next(iterator)
                except StopIteration:
                    return
            yield item

    def _add_elapsed(self) -> None:
        now = time.perf_counter()
        if self._phases:
            self.seconds[self._phases[-1]] = self.seconds.get(self._phases[-1], 0.0) + now - self._since
        self._since = now
