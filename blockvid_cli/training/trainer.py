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
import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from diffusers.training_utils import EMAModel
from PIL import Image
from torch import nn
from torch.distributed.tensor import DTensor

from blockvid_cli.errors import BlockvidError
from blockvid_cli.models.vae import to_uint8
from blockvid_cli.training.checkpoints import Checkpoints, StateFile
from blockvid_cli.training.distributed import World, mean_of_ranks, trained
from blockvid_cli.training.objectives import LossPart, Objective

ALONE = World()
MAX_FAILURES = 10  # steps in a row whose gradients are not finite
Notify = Callable[[dict[str, float]], None]


@dataclass(frozen=True)
class TrainerConfig:
    """How long a training lasts, and how its rate falls.

    Args:
        warm_up: steps in which the rate rises.
        decay: ``cosine`` after a share ``hold`` of the steps, to a share ``floor`` of the rate; or ``stepwise``: to
            ``floor`` at once, after half of the steps.
    """

    steps: int
    warm_up: int = 30
    decay: Literal["cosine", "stepwise"] = "cosine"
    hold: float = 0.3
    floor: float = 0.02
    clip: float = 1.0
    ema_decay: float = 0.995
    save_every: int = 200
    evaluate_every: int = 200

    def rate(self, step: int) -> float:
        """The share of the learning rate at ``step``: a linear warm-up, then constant, then lower."""
        if step < self.warm_up:
            return (step + 1) / self.warm_up
        if self.decay == "stepwise":
            return self.floor if step >= self.steps / 2 else 1.0
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

    def __init__(
        self,
        objective: Objective,
        config: TrainerConfig,
        run: Path,
        checkpoints: Checkpoints | None = None,
        world: World = ALONE,
    ) -> None:
        self.objective, self.config, self.run, self.world = objective, config, run, world
        self.parts = objective.losses()
        self.module = self.parts[0].module
        self.ema = EMAModel(trained(self.module).values(), decay=config.ema_decay)
        self.rates = [[group["lr"] for group in o.param_groups] for part in self.parts for o in part.optimizers]
        self.step, self.seconds, self.failures = 0, 0.0, 0
        self.checkpoints = checkpoints or StateFile(run)
        self.checkpoints.load(self)

    def train(self, notify: Notify) -> None:
        """Trains to the last step of the config, from the step at which the state was saved.

        Raises:
            BlockvidError: gradients stopped being finite, or the disk refuses the state.
        """
        config, began = self.config, time.monotonic() - self.seconds
        logger = TrainLogger(self.run) if self.world.is_first else None
        while self.step < config.steps:
            figures = self._train_step()
            self.step, self.seconds = self.step + 1, time.monotonic() - began
            last = self.step == config.steps
            if self.step % config.save_every == 0 or last:
                self.checkpoints.save(self)
            if self.step % config.evaluate_every == 0 or last:
                with averaged(self.module, self.ema):
                    held_out, image = self.objective.evaluate(), self.objective.sample()
                figures |= {f"held_out_{name}": value for name, value in held_out.items()}
                figures = {name: round(value, 6) for name, value in mean_of_ranks(figures, self.world).items()}
                figures = {"step": self.step, "seconds": round(time.monotonic() - began, 1), **figures}
                if logger:
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
        self.ema.step(trained(self.module).values())
        return figures

    def _train_part(self, part: LossPart) -> dict[str, float]:
        for optimizer in part.optimizers:
            optimizer.zero_grad(set_to_none=True)
        total, figures = 0.0, {}
        for loss, part_figures in part.loss(self.step, self.step / self.config.steps):
            loss.backward()
            total += float(loss.detach())
            figures |= part_figures
        norm = nn.utils.clip_grad_norm_(trained(part.module).values(), self.config.clip)
        if isinstance(norm, DTensor):
            norm = norm.full_tensor()
        if torch.isfinite(norm):
            self.failures = 0
            for optimizer in part.optimizers:
                optimizer.step()
        else:
            self._count_failure(part)
        name = "loss" if part is self.parts[0] else f"{part.name}_loss"
        return {name: total, **figures}

    def _count_failure(self, part: LossPart) -> None:
        """A step whose gradients are not finite is left out; many in a row end the training."""
        self.failures += 1
        if self.failures == MAX_FAILURES:
            raise BlockvidError(
                f"{self.run}: the gradients of {part.name} have not been finite for {MAX_FAILURES} steps, up to step"
                f" {self.step}; what was saved before is kept. Use a lower learning rate, or look at the data."
            )


def train(
    objective: Objective,
    config: TrainerConfig,
    run: Path,
    notify: Notify = lambda figures: None,
    checkpoints: Checkpoints | None = None,
    world: World = ALONE,
) -> None:
    """Trains an objective to the end, from where the run stopped; its first module then has the averaged weights.

    Raises:
        BlockvidError: the saved state of the run is damaged.
    """
    trainer = Trainer(objective, config, run, checkpoints, world)
    trainer.train(notify)
    trainer.ema.copy_to(trained(trainer.module).values())


@contextmanager
def averaged(module: nn.Module, ema: EMAModel) -> Iterator[None]:
    """Gives the module its averaged weights for a while."""
    ema.store(trained(module).values())
    ema.copy_to(trained(module).values())
    try:
        yield
    finally:
        ema.restore(trained(module).values())


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
