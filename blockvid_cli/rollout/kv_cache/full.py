"""Every block of the film so far; cost grows with the film."""

from __future__ import annotations

from collections.abc import Sequence

from blockvid_cli.rollout.kv_cache.base import Dense, View
from blockvid_cli.storyboard.plan import Block


class Everything(Dense):
    """No choice at all."""

    def choose(self, blocks: Sequence[Block]) -> View:
        """See ``Memory``."""
        return View(self.past(blocks))
