"""A window over the shot: its first frames and its latest, sink + recent (Self Forcing, LongLive).

window 12, sink 3:   [0 1 2] ......... [18 19 20 21 22 23] (24 25 26)     (): being denoised, counted too
after a cut at 27:   (27 28 29), then [27 28 29] (30 31 32)               nothing of the shot before
"""

from __future__ import annotations

from collections.abc import Sequence

from blockvid_cli.errors import UsageError
from blockvid_cli.models.wan.rope import Rope
from blockvid_cli.rollout.kv_cache.base import CacheEntry, DenseCache, KVView, shot_frames
from blockvid_cli.storyboard.plan import Block, Plan, PlannedChunk


class WindowCache(DenseCache):
    """``window`` latent frames with those being denoised, or None for no limit; ``sink`` of them the shot's first."""

    def __init__(self, window: int | None = 12, sink: int = 3) -> None:
        super().__init__()
        if sink < 0 or (window is not None and window <= sink):
            raise UsageError(f"a window of {window} latent frames must be larger than its sink of {sink}.")
        self.window, self.sink = window, sink
        self._first: dict[int, int] = {}  # of each shot, its first latent frame

    def begin(self, chunks: Sequence[PlannedChunk], rope: Rope) -> None:
        """Notes where each shot begins."""
        super().begin(chunks, rope)
        self._first = {chunk.shot: chunk.blocks[0].first for chunk in reversed(chunks)}

    def view(self, blocks: Sequence[Block]) -> KVView:
        """The sink and the latest frames."""
        entries = self.visible(blocks)
        if self.window is None:
            return KVView(entries)
        total = sum(len(entry.frames) for entry in entries)
        room = max(self.window - sum(block.frames for block in blocks) - self.sink, 0)
        sink, recent = min(self.sink, total), total - max(total - room, self.sink)
        return KVView([*_first_frames(entries, sink), *_last_frames(entries, recent)])

    def needed(self, entry: CacheEntry, block: Block) -> bool:
        """As the shot's sink, or for as long as the window reaches it."""
        if entry.shot != block.shot or self.window is None:
            return entry.shot == block.shot
        in_sink = entry.frames[0] < self._first[block.shot] + self.sink
        return in_sink or entry.frames[-1] >= block.first - self.window

    def max_cached_frames(self, plan: Plan) -> tuple[int, int]:
        """The window, or the longest shot if that is shorter."""
        longest = max(shot_frames(plan).values())
        frames = longest if self.window is None else min(self.window, longest)
        return frames, frames


def _first_frames(entries: Sequence[CacheEntry], count: int) -> list[CacheEntry]:
    """The first ``count`` frames of entries."""
    out = []
    for entry in entries:
        out.append(entry.first(min(count, len(entry.frames))))
        count -= len(out[-1].frames)
    return out


def _last_frames(entries: Sequence[CacheEntry], count: int) -> list[CacheEntry]:
    """The last ``count`` frames of entries."""
    out: list[CacheEntry] = []
    for entry in reversed(entries):
        out.insert(0, entry.last(min(count, len(entry.frames))))
        count -= len(out[0].frames)
    return out
