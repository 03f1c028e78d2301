"""Where the state of a training is saved: one file, or a folder to which every process writes its part.

    run/state.pt                      weights, average, optimizers and step of one process
    run/checkpoints/00000200/         the same of any number of processes (torch.distributed.checkpoint)

A sharded checkpoint is loaded by any other number of processes. Either exists whole or not at all; of sharded ones the
last two are kept.
"""

from __future__ import annotations

import io
import pickle
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import torch
from diffusers.training_utils import EMAModel
from torch import nn

from blockvid_cli.errors import BlockvidError
from blockvid_cli.files import open_regular_file
from blockvid_cli.project.atomic_files import disk_errors, write_atomically
from blockvid_cli.training.distributed import World, barrier, trained
from blockvid_cli.training.objectives import LossPart

RETAINED = 2  # sharded checkpoints
WRONG_FILE = (RuntimeError, EOFError, OSError, ValueError, KeyError, pickle.UnpicklingError)


class TrainingState(Protocol):
    """What of a trainer is saved."""

    step: int
    seconds: float
    parts: Sequence[LossPart]
    module: nn.Module
    ema: EMAModel


class Checkpoints(Protocol):
    """How a trainer's state is saved."""

    def save(self, trainer: TrainingState) -> None:
        """Saves the state as it is."""
        ...

    def load(self, trainer: TrainingState) -> None:
        """Gives the trainer the last saved state, if there is one.

        Raises:
            BlockvidError: it is damaged.
        """
        ...


class StateFile:
    """``state.pt`` in the folder of a run."""

    def __init__(self, run: Path) -> None:
        self.file = run / "state.pt"

    def save(self, trainer: TrainingState) -> None:
        """Writes the file."""
        parts = {
            part.name: {
                "module": part.module.state_dict(),
                "optimizers": [optimizer.state_dict() for optimizer in part.optimizers],
            }
            for part in trainer.parts
        }
        state = {"step": trainer.step, "seconds": trainer.seconds, "ema": trainer.ema.state_dict(), "parts": parts}
        content = io.BytesIO()
        torch.save(state, content)
        write_atomically(self.file, content.getvalue())

    def load(self, trainer: TrainingState) -> None:
        """Reads the file, on the CPU."""
        state = read_state(self.file)
        if state is None:
            return
        trainer.step, trainer.seconds = state["step"], state["seconds"]
        for part in trainer.parts:
            part.module.load_state_dict(state["parts"][part.name]["module"])
            for optimizer, moments in zip(part.optimizers, state["parts"][part.name]["optimizers"], strict=True):
                optimizer.load_state_dict(moments)
        trainer.ema.load_state_dict(state["ema"])
        trainer.ema.to(next(trainer.module.parameters()).device)


class ShardedCheckpoints:
    """Folders below ``checkpoints`` in the folder of a run; only weights that are trained are saved."""

    def __init__(self, run: Path, world: World) -> None:
        self.folder, self.world = run / "checkpoints", world

    def save(self, trainer: TrainingState) -> None:
        """Every process writes its part; the folder gets its name when all have."""
        import torch.distributed.checkpoint as dcp

        target = self.folder / f"{trainer.step:08}"
        part = target.with_suffix(".part")
        with disk_errors(target):
            if self.world.is_first:
                shutil.rmtree(part, ignore_errors=True)
                part.mkdir(parents=True)
            barrier(self.world)
            try:
                dcp.save(self._state(trainer), checkpoint_id=part, no_dist=self.world.ranks == 1)
            except dcp.api.CheckpointException as error:
                raise next(iter(error.failures.values()))[0] from error
            if self.world.is_first:
                shutil.rmtree(target, ignore_errors=True)
                part.rename(target)
                for old in self.steps()[:-RETAINED]:
                    shutil.rmtree(self.folder / f"{old:08}", ignore_errors=True)
            barrier(self.world)

    def steps(self) -> list[int]:
        """The steps at which the state was saved."""
        with suppress(OSError):
            return sorted(int(path.name) for path in self.folder.iterdir() if path.name.isdigit())
        return []

    def load(self, trainer: TrainingState) -> None:
        """Every process reads its part of the last checkpoint."""
        import torch.distributed.checkpoint as dcp

        if not self.steps():
            return
        folder = self.folder / f"{self.steps()[-1]:08}"
        state = self._state(trainer)
        try:
            dcp.load(state, checkpoint_id=folder, no_dist=self.world.ranks == 1)
        except (*WRONG_FILE, dcp.api.CheckpointException) as error:
            raise BlockvidError(
                f"{folder}: this checkpoint cannot be read; delete it, and the run goes on from the one before."
            ) from error
        self._give(trainer, state)

    def _state(self, trainer: TrainingState) -> dict[str, Any]:
        """The state as tensors, which a load fills in place."""
        from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

        parts = {
            part.name: {
                "module": trained(part.module),
                "optimizer": get_optimizer_state_dict(part.module, list(part.optimizers)),
            }
            for part in trainer.parts
        }
        numbers = [trainer.step, trainer.seconds, trainer.ema.optimization_step]
        average = {str(number): value for number, value in enumerate(trainer.ema.shadow_params)}
        return {"parts": parts, "average": average, "numbers": torch.tensor(numbers, dtype=torch.float64)}

    def _give(self, trainer: TrainingState, state: dict[str, Any]) -> None:
        """Hands a loaded state on to what does not share its tensors."""
        from torch.distributed.checkpoint.state_dict import set_optimizer_state_dict

        step, seconds, averaged = state["numbers"].tolist()
        trainer.step, trainer.seconds, trainer.ema.optimization_step = int(step), seconds, int(averaged)
        for part in trainer.parts:
            moments = state["parts"][part.name]["optimizer"]
            set_optimizer_state_dict(part.module, list(part.optimizers), optim_state_dict=moments)


def read_state(file: Path) -> dict[str, Any] | None:
    """The state saved in a file, on the CPU; None where there is no file.

    Raises:
        BlockvidError: the file is damaged.
    """
    if not file.exists():
        return None
    try:
        return torch.load(open_regular_file(file), map_location="cpu", weights_only=True)
    except WRONG_FILE as error:
        raise BlockvidError(f"{file}: this checkpoint cannot be read ({error}); delete it to begin again.") from error
