"""No memory: what blocks know of each other they must be shown side by side (SkyReels-V2, a bidirectional clip)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from blockvid_cli.rollout.kv_cache.base import KVCache, KVView
from blockvid_cli.storyboard.plan import Block, Plan


class NoCache(KVCache):
    """Remembers nothing, so that finished blocks need not be committed."""

    needs_update: ClassVar[bool] = False

    def view(self, blocks: Sequence[Block]) -> KVView:
        """See ``Memory``."""
        return KVView()

    def max_cached_frames(self, plan: Plan) -> tuple[int, int]:
        """See ``Memory``."""
        return 0, 0
