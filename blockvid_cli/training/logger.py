"""What a training shows while it runs: a line of figures, a sample picture, and TensorBoard where it is installed.

run/log.jsonl            step, seconds, loss and held-out figures, one JSON object a look
run/samples/000200.png   what the module does at step 200, the truth above it
run/events.out.*         the same for TensorBoard (pip install ".[train]")
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import torch
from PIL import Image

from blockvid_cli.models.vae import to_uint8


class TrainLogger:
    """Writes into the folder of a run."""

    def __init__(self, run: Path) -> None:
        self.run = run
        (run / "samples").mkdir(parents=True, exist_ok=True)
        self._writer = None
        if importlib.util.find_spec("tensorboard"):
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(run))

    def add(self, figures: dict[str, float], picture: torch.Tensor) -> None:
        """One look: figures with their step, and a picture (3, H, W) in 0..1."""
        step = int(figures["step"])
        with (self.run / "log.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps(figures) + "\n")
        Image.fromarray(to_uint8(picture[None])[0]).save(self.run / "samples" / f"{step:06}.png")
        if self._writer:
            for name, value in figures.items():
                self._writer.add_scalar(name, value, step)
            self._writer.add_image("sample", picture, step)
            self._writer.flush()
