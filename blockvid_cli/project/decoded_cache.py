"""The pictures a project keeps: what a film is put together from anew while no chunk of it was drawn anew.

pictures.mp4        the film's pictures, without sound
pictures.json       what they were decoded from, and their SHA-256
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from blockvid_cli.models.hub import sha256
from blockvid_cli.project.atomic_files import write_whole
from blockvid_cli.project.cache_keys import Chain
from blockvid_cli.project.project import SEAL
from blockvid_cli.storyboard.plan import Plan


class Kept:
    """The pictures of a film, decoded by a codec of this hash from the latents that ``chain`` names."""

    def __init__(self, folder: Path, chain: Chain, plan: Plan, codec: str) -> None:
        self.pictures, self._seal = folder / "pictures.mp4", folder / SEAL
        self._told = {"keys": list(chain.keys), "codec": codec, "frames": plan.frames, "fps": plan.fps}

    def there(self) -> bool:
        """Whether they are kept, of just these latents, and undamaged."""
        try:
            found: Any = json.loads(self._seal.read_text(encoding="utf-8"))
            return found == {**self._told, "sha256": sha256(self.pictures)}
        except (OSError, ValueError):
            return False

    def seal(self) -> None:
        """Says what they are, once they are whole.

        Raises:
            BlockvidError: it cannot be written (``PartialError``: the disk is full).
        """
        write_whole(self._seal, json.dumps({**self._told, "sha256": sha256(self.pictures)}).encode())
