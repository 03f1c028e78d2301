"""THE training loop: the losses of an objective, their optimizers, a moving average; resumable to the bit.

    run/state.pt             weights, average, optimizers' moments and the step
    run/log.jsonl            step, seconds, losses and held-out figures, one JSON object an evaluation
    run/samples/000200.png   a sample at step 200, held-out data above it
    run/events.out.*         the same for TensorBoard (pip install ".[train]")

A step's batch and noise are pure functions of the step (objectives seed their own generators), so that a resumed
training equals an uninterrupted one.
"""

from __future__ import annotations

import importlib.util
import io
import json
import math
import pickle
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.training_utils import EMAModel
from PIL import Image
from torch import nn

from blockvid_cli.errors import BlockvidError
from blockvid_cli.files import open_regular_file
from blockvid_cli.models.vae import to_uint8
from blockvid_cli.project.atomic_files import write_atomically
from blockvid_cli.training.objectives import LossPart, Objective

Notify = Callable[[dict[str, float]], None]


@dataclass(frozen=True)
class TrainerConfig:
    """Steps, warm-up, the share of steps after which the cosine begins, and the share of the rate it falls to."""

    steps: int
    warm_up: int = 30
    hold: float = 0.3
    floor: float = 0.02
    clip: float = 1.0
    ema_decay: float = 0.995
    save_every: int = 200
    evaluate_every: int = 200

    def rate(self, step: int) -> float:
        """The share of the learning rate at ``step``: linear warm-up, constant, cosine."""
        if step < self.warm_up:
            return (step + 1) / self.warm_up
        late = max(step / self.steps - self.hold, 0) / (1 - self.hold)
        return self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * min(late, 1.0)))


class TrainLogger:
    """Writes figures and samples into the folder of a run."""

    def __init__(self, run: Path) -> None:
        self.run = run
        (run / "samples").mkdir(parents=True, exist_ok=True)
        self._writer = None
        if importlib.util.find_spec("tensorboard"):
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(run))

    def log(self, figures: dict[str, float], image: torch.Tensor) -> None:
        """Figures with their step, and an image (3, H, W) in 0..1."""
        step = int(figures["step"])
        with (self.run / "log.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps(figures) + "\n")
        Image.fromarray(to_uint8(image[None])[0]).save(self.run / "samples" / f"{step:06}.png")
        if self._writer:
            for name, value in figures.items():
                self._writer.add_scalar(name, value, step)
            self._writer.add_image("sample", image, step)
            self._writer.flush()


class Trainer:
    """The state of a training: the parts of its objective, their optimizers, the moving average and the step."""

    def __init__(self, objective: Objective, config: TrainerConfig, run: Path) -> None:
        self.objective, self.config, self.run = objective, config, run
        self.parts = objective.losses()
        self.module = self.parts[0].module
        self.ema = EMAModel(self.module.parameters(), decay=config.ema_decay)
        self.rates = [[group["lr"] for group in o.param_groups] for part in self.parts for o in part.optimizers]
        self.step, self.seconds = 0, 0.0
        state = read_state(run / "state.pt")
        if state is not None:
            self._load(state)

    def train(self, notify: Notify) -> None:
        """Trains to the last step of the config, from the step at which ``run/state.pt`` was saved."""
        config, logger, began = self.config, TrainLogger(self.run), time.monotonic() - self.seconds
        while self.step < config.steps:
            figures = self._train_step()
            self.step, self.seconds = self.step + 1, time.monotonic() - began
            last = self.step == config.steps
            if self.step % config.save_every == 0 or last:
                self._save()
            if self.step % config.evaluate_every == 0 or last:
                with averaged(self.module, self.ema):
                    held_out, image = self.objective.evaluate(), self.objective.sample()
                figures |= {f"held_out_{name}": round(value, 4) for name, value in held_out.items()}
                figures = {"step": self.step, "seconds": round(time.monotonic() - began, 1), **figures}
                logger.log(figures, image)
                notify(figures)

    def _train_step(self) -> dict[str, float]:
        """One step of all parts that are due, and of the average; the losses and the parts' figures."""
        rate = self.config.rate(self.step)
        optimizers = [optimizer for part in self.parts for optimizer in part.optimizers]
        for optimizer, rates in zip(optimizers, self.rates, strict=True):
            for group, base in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = base * rate
        figures: dict[str, float] = {}
        for part in self.parts:
            if self.step % part.every == 0:
                figures |= self._train_part(part)
        self.ema.step(self.module.parameters())
        return figures

    def _train_part(self, part: LossPart) -> dict[str, float]:
        for optimizer in part.optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss, figures = part.loss(self.step, self.step / self.config.steps)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(part.module.parameters(), self.config.clip)
        if torch.isfinite(norm):
            for optimizer in part.optimizers:
                optimizer.step()
        name = "loss" if part is self.parts[0] else f"{part.name}_loss"
        return {name: round(float(loss.detach()), 5), **{key: round(value, 4) for key, value in figures.items()}}

    def _save(self) -> None:
        parts = {
            part.name: {
                "module": part.module.state_dict(),
                "optimizers": [optimizer.state_dict() for optimizer in part.optimizers],
            }
            for part in self.parts
        }
        content = io.BytesIO()
        torch.save({"step": self.step, "seconds": self.seconds, "ema": self.ema.state_dict(), "parts": parts}, content)
        write_atomically(self.run / "state.pt", content.getvalue())

    def _load(self, state: dict[str, Any]) -> None:
        self.step, self.seconds = state["step"], state["seconds"]
        for part in self.parts:
            part.module.load_state_dict(state["parts"][part.name]["module"])
            for optimizer, moments in zip(part.optimizers, state["parts"][part.name]["optimizers"], strict=True):
                optimizer.load_state_dict(moments)
        self.ema.load_state_dict(state["ema"])
        self.ema.to(next(self.module.parameters()).device)


def train(objective: Objective, config: TrainerConfig, run: Path, notify: Notify = lambda figures: None) -> None:
    """Trains an objective to the end, from where the run stopped; its first module then has the averaged weights.

    Raises:
        BlockvidError: the saved state of the run is damaged.
    """
    trainer = Trainer(objective, config, run)
    trainer.train(notify)
    trainer.ema.copy_to(trainer.module.parameters())


@contextmanager
def averaged(module: nn.Module, ema: EMAModel) -> Iterator[None]:
    """Gives the module its averaged weights for a while."""
    ema.store(module.parameters())
    ema.copy_to(module.parameters())
    try:
        yield
    finally:
        ema.restore(module.parameters())


def read_state(file: Path) -> dict[str, Any] | None:
    """The state saved in a file, on the CPU; None where there is no file.

    Raises:
        BlockvidError: the file is damaged.
    """
    if not file.exists():
        return None
    try:
        return torch.load(open_regular_file(file), map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise BlockvidError(f"{file}: this checkpoint cannot be read ({error}); delete it to begin again.") from error


class KernelMuon(torch.optim.Muon):
    """Muon for matrices and for convolution kernels, which are matrices (out, rows·columns·in) to it.

    Kernels must be in ``channels_last``, so that the matrix is a view of the kernel and not a copy.
    """

    def __init__(self, weights: list[nn.Parameter], rate: float) -> None:
        self.weights = weights
        matrices = [nn.Parameter(_matrix(weight.detach())) for weight in weights]
        shared = all(m.data_ptr() == w.data_ptr() for m, w in zip(matrices, weights, strict=True))
        if not shared:
            raise ValueError("a convolution's kernel is not in channels_last")
        super().__init__(matrices, lr=rate, momentum=0.95, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """One step with the gradients of the weights."""
        for matrix, weight in zip(self.param_groups[0]["params"], self.weights, strict=True):
            matrix.grad = None if weight.grad is None else _matrix(weight.grad)
        super().step(closure)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clears the weights' gradients."""
        for weight in self.weights:
            weight.grad = None


def _matrix(weight: torch.Tensor) -> torch.Tensor:
    return weight if weight.ndim == 2 else weight.permute(0, 2, 3, 1).flatten(1)


def muon_and_adamw(
    module: nn.Module, matrix_rate: float, rate: float, but: tuple[str, ...] = ()
) -> list[torch.optim.Optimizer]:
    """Muon for matrices and kernels, AdamW for all other weights and for names that contain one of ``but``."""
    inner = {n: p for n, p in module.named_parameters() if p.ndim in (2, 4) and not any(name in n for name in but)}
    others = [p for n, p in module.named_parameters() if n not in inner]
    return [
        KernelMuon(list(inner.values()), matrix_rate),
        torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.95), weight_decay=0.0),
    ]
