"""A small training by itself or under torchrun; writes losses and weights: RUN STEPS [KILL_AT]."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from blockvid_cli.datasets.films import FilmBatch
from blockvid_cli.models.wan.denoiser import WanDenoiser
from blockvid_cli.training.checkpoints import ShardedCheckpoints
from blockvid_cli.training.distributed import full_state, join_world, leave_world, shard
from blockvid_cli.training.objectives.discriminator import Discriminator
from blockvid_cli.training.objectives.flow_forcing import FlowForcing, ForcingConfig
from blockvid_cli.training.objectives.post_training import PostTraining
from blockvid_cli.training.objectives.self_forcing import GanConfig, SelfForcing
from blockvid_cli.training.trainer import Trainer, TrainerConfig
from tests.small import LATENT, network, plan, recipe

FILMS = 2


class Films:
    """This process's share of two films."""

    def __init__(self, rank: int, ranks: int) -> None:
        self.mine = range(rank, FILMS, ranks)

    def batch(self, step: int) -> FilmBatch:
        latents = torch.randn(FILMS, 8, *LATENT, generator=torch.Generator().manual_seed(step))
        mine = list(self.mine)
        plans = tuple(replace(plan((2, 2)), seed=number) for number in mine)
        return FilmBatch(plans, latents[mine], prompts, True, tuple(mine))

    def batches(self, count: int) -> Sequence[FilmBatch]:
        return [self.batch(-1)]


def prompts(blocks):
    texts = [torch.full((3, 16), 0.1 * block.chunk) for block in blocks for _ in range(block.frames)]
    return texts[0][None] if len({block.prompt for block in blocks}) == 1 else torch.stack(texts)[None]


def main(run: Path, steps: int, kill_at: int = -1) -> None:
    """Trains generator and discriminator; a process may kill itself at a step."""
    world = join_world("cpu")
    films = Films(world.rank, world.ranks)
    generator = network().train().requires_grad_(True)
    shard(generator, world)
    config = ForcingConfig(targets=2, prompt_dropout=0.2, chunk_noise="naive")
    forcing = FlowForcing(WanDenoiser(generator), recipe(steps=2), films, config, held_out=films, autocast=None)
    torch.manual_seed(1)
    critic = Discriminator(WanDenoiser(network(seed=2).train().requires_grad_(True)))
    shard(critic, world, "network.blocks")
    adversary = SelfForcing(forcing, critic, GanConfig(weight=0.1))

    def optimizer(weights):
        return torch.optim.AdamW(weights, 1e-3, eps=1e-2, foreach=False)

    objective = PostTraining(forcing, 1.0, adversary, 1.0, optimizer)
    settings = TrainerConfig(steps, warm_up=0, save_every=2, evaluate_every=1, clip=1e9)
    trainer = Trainer(objective, settings, run, ShardedCheckpoints(run, world), world)
    losses = []

    def notify(figures):
        losses.append(figures)

    original = trainer._train_step

    def step():
        if trainer.step == kill_at and world.rank == world.ranks - 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return original()

    trainer._train_step = step
    trainer.train(notify)
    weights = full_state(generator)
    if world.is_first:
        torch.save(weights, run / "weights.pt")
        (run / "losses.json").write_text(json.dumps(losses))
    leave_world()


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
