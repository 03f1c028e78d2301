"""Every block of the film so far; cost grows with the film."""

from __future__ import annotations

from collections.abc import Sequence

from blockvid_cli.rollout.kv_cache.base import DenseCache, KVView
from blockvid_cli.storyboard.plan import Block


class FullCache(DenseCache):
    """No choice at all."""

    def view(self, blocks: Sequence[Block]) -> KVView:
        """See ``Memory``."""
        return KVView(self.visible(blocks))
