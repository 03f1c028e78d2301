"""The film's first frames and its latest: sink + recent (Self Forcing, LongLive).

window 12, sink 3:   [0 1 2] ......... [18 19 20 21 22 23] (24 25 26)     () is being drawn and counts too
"""

from __future__ import annotations

from collections.abc import Sequence

from blockvid_cli.errors import UsageError
from blockvid_cli.rollout.kv_cache.base import DenseCache, CacheEntry, KVView
from blockvid_cli.storyboard.plan import Block, Plan


class WindowCache(DenseCache):
    """``window`` latent frames in all, with those being drawn; None for no limit; ``sink`` of them the film's first."""

    def __init__(self, window: int | None = 12, sink: int = 3) -> None:
        super().__init__()
        if sink < 0 or (window is not None and window <= sink):
            raise UsageError(f"a window of {window} latent frames must be larger than its sink of {sink}.")
        self.window, self.sink = window, sink

    def view(self, blocks: Sequence[Block]) -> KVView:
        """See ``Memory``."""
        past = self.visible(blocks)
        if self.window is None:
            return KVView(past)
        total = sum(len(entry.frames) for entry in past)
        room = max(self.window - sum(block.frames for block in blocks) - self.sink, 0)
        head, at = _taken(past, min(self.sink, total)), max(total - room, self.sink)
        self._forget(blocks)
        return KVView([*head, *_taken_last(past, total - at)])

    def max_cached_frames(self, plan: Plan) -> tuple[int, int]:
        """See ``Memory``."""
        total = sum(block.frames for block in plan.blocks)
        most = total if self.window is None else min(self.window, total)
        return most, most

    def _forget(self, blocks: Sequence[Block]) -> None:
        """Blocks that can never be looked at again go."""
        oldest = blocks[0].first - (self.window or 0)
        for number, entry in list(self.entries.items()):
            if entry.frames[0] >= self.sink and entry.frames[-1] < oldest:
                del self.entries[number]


def _taken(entries: Sequence[CacheEntry], count: int) -> list[CacheEntry]:
    """The first ``count`` frames of entries."""
    out = []
    for entry in entries:
        out.append(entry.first(min(count, len(entry.frames))))
        count -= len(out[-1].frames)
    return out


def _taken_last(entries: Sequence[CacheEntry], count: int) -> list[CacheEntry]:
    """The last ``count`` frames of entries."""
    out: list[CacheEntry] = []
    for entry in reversed(entries):
        out.insert(0, entry.last(min(count, len(entry.frames))))
        count -= len(out[0].frames)
    return out
