"""No memory: what blocks know of each other they must be shown side by side (SkyReels-V2, a bidirectional clip)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from blockvid_cli.rollout.kv_cache.base import Memory, View
from blockvid_cli.storyboard.plan import Block, Plan


class Nothing(Memory):
    """Remembers nothing, so that finished blocks need not be committed."""

    remembers: ClassVar[bool] = False

    def choose(self, blocks: Sequence[Block]) -> View:
        """See ``Memory``."""
        return View()

    def reach(self, plan: Plan) -> tuple[int, int]:
        """See ``Memory``."""
        return 0, 0
