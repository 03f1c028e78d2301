"""The film's decoded frames, kept in the project: while no chunk changes, a film is muxed again without decoding.

pictures.mp4        the film's frames, without sound
pictures.json       what they were decoded from, and their SHA-256
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from blockvid_cli.models.hub import sha256
from blockvid_cli.project.atomic_files import write_atomically
from blockvid_cli.project.project import DECODED_VIDEO_FILE
from blockvid_cli.storyboard.plan import Plan


class DecodedVideoCache:
    """The frames of a film, decoded by a VAE of this hash from the latents of these cache keys."""

    def __init__(self, folder: Path, keys: Sequence[str], plan: Plan, vae: str) -> None:
        self.video, self._file = folder / "pictures.mp4", folder / DECODED_VIDEO_FILE
        self._source = {"keys": list(keys), "vae": vae, "frames": plan.frames, "fps": plan.fps}

    def is_valid(self) -> bool:
        """Whether the frames are there, decoded from just these latents, and undamaged."""
        try:
            recorded: object = json.loads(self._file.read_text(encoding="utf-8"))
            return recorded == {**self._source, "sha256": sha256(self.video)}
        except (OSError, ValueError):
            return False

    def commit(self) -> None:
        """Records what the frames were decoded from, once the video is whole.

        Raises:
            BlockvidError: it cannot be written (``PartialError``: the disk is full).
        """
        write_atomically(self._file, json.dumps({**self._source, "sha256": sha256(self.video)}).encode())
