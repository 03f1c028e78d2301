"""Several processes that train one model: who they are, how weights are sharded, and what is said once.

    torchrun --nproc-per-node 8 -m blockvid_cli finetune --data lv1m/     8 processes, a GPU each
    blockvid finetune --data lv1m/                                        one process, without torchrun

Weights, gradients and moments are sharded by torch's FSDP2, a unit for each block of the network; every process has
other films. gloo connects processes without GPUs, NCCL those with.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import nn

from blockvid_cli.errors import BlockvidError, UsageError

TIMEOUT = timedelta(minutes=30)  # after which a process that does not answer counts as gone


@dataclass(frozen=True)
class World:
    """This process among all that train together."""

    rank: int = 0
    ranks: int = 1
    local_rank: int = 0

    @property
    def is_first(self) -> bool:
        """Whether this is the process that logs, samples and writes the model."""
        return self.rank == 0

    def device(self, name: str) -> str:
        """The device of this process, where ``name`` is what was asked for."""
        return f"cuda:{self.local_rank}" if self.ranks > 1 and name.startswith("cuda") else name


def join_world(device: str) -> World:
    """Meets the other processes that torchrun started; a process by itself is a world of one.

    Raises:
        UsageError: torchrun's variables are there in part.
        BlockvidError: the others cannot be reached.
    """
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    present = [name for name in names if name in os.environ]
    if not present or os.environ.get("WORLD_SIZE") == "1":
        return World()
    if len(present) < len(names):
        missing = ", ".join(name for name in names if name not in present)
        raise UsageError(f"torchrun's variables are not complete ({missing} missing); start with torchrun, or without.")
    world = World(*(int(os.environ[name]) for name in names[:3]))
    try:
        if not dist.is_initialized():
            dist.init_process_group("nccl" if device.startswith("cuda") else "gloo", timeout=TIMEOUT)
    except (RuntimeError, ValueError) as error:
        raise BlockvidError(f"process {world.rank} of {world.ranks} does not reach the others: {error}") from error
    if device.startswith("cuda"):
        torch.cuda.set_device(world.local_rank)
    return world


def leave_world() -> None:
    """Takes leave of the other processes."""
    if dist.is_initialized():
        with suppress(RuntimeError):
            dist.destroy_process_group()


def shard(module: nn.Module, world: World, blocks: str = "blocks") -> None:
    """Shards a module's weights over all processes, block by block; changes nothing in a world of one.

    Args:
        blocks: where in the module the network's blocks are.
    """
    if world.ranks == 1:
        return
    from torch.distributed.fsdp import fully_shard

    for block in module.get_submodule(blocks).children():
        fully_shard(block)
    fully_shard(module)


def trained(module: nn.Module) -> dict[str, nn.Parameter]:
    """The weights of a module that are trained, by name; of a sharded module this process's shards."""
    from torch.distributed.fsdp import FSDPModule

    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.reshard()  # a pass without gradients leaves the outermost weights whole
    return {name: value for name, value in module.named_parameters() if value.requires_grad}


def mean_of_ranks(figures: Mapping[str, float], world: World) -> dict[str, float]:
    """Each figure's mean over all processes; all must have the same figures."""
    if world.ranks == 1 or not figures:
        return dict(figures)
    values = torch.tensor([figures[name] for name in sorted(figures)], dtype=torch.float64)
    if dist.get_backend() == "nccl":
        values = values.cuda()
    dist.all_reduce(values)
    return dict(zip(sorted(figures), (values / world.ranks).tolist(), strict=True))


def barrier(world: World) -> None:
    """Waits for all processes."""
    if world.ranks > 1:
        dist.barrier()


def full_state(module: nn.Module) -> dict[str, torch.Tensor]:
    """All weights of a module, whole, on the CPU; every process must call this."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    return get_model_state_dict(module, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
