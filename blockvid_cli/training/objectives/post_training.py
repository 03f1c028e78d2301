"""The losses of a stage as one objective: the generator's, added up with their weights, and a critic's beside them.

generator    block-forcing: target after target of a film        every step
             self-forcing or dmd: one own film                    every ``critic_steps`` steps
critic       the discriminator, or dmd's score of own films       every step
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import nn

from blockvid_cli.training.objectives import Losses, LossPart
from blockvid_cli.training.objectives.dmd import DistributionMatching
from blockvid_cli.training.objectives.flow_forcing import FlowForcing
from blockvid_cli.training.objectives.self_forcing import SelfForcing

Sampler = Callable[[], torch.Tensor]


class PostTraining:
    """Args:
    forcing: the generator's flow-matching loss; its denoiser, recipe and films are those of the other losses too.
    weights: of the losses: ``forcing`` and ``adversary``; 0 leaves one out.
    adversary: the loss on the network's own films, and its critic.
    optimizer: of some weights.
    accumulate: batches of a step.
    sampler: an image (3, H, W) in 0..1 of what the generator generates.
    """

    def __init__(
        self,
        forcing: FlowForcing,
        forcing_weight: float,
        adversary: SelfForcing | DistributionMatching | None,
        adversary_weight: float,
        optimizer: Callable[[Sequence[nn.Parameter]], torch.optim.Optimizer],
        accumulate: int = 1,
        critic_steps: int = 1,
        sampler: Sampler | None = None,
    ) -> None:
        self.forcing, self.forcing_weight = forcing, forcing_weight
        self.adversary, self.adversary_weight = adversary, adversary_weight
        self.accumulate, self.critic_steps, self.sampler = accumulate, critic_steps, sampler
        self.generator = forcing.denoiser.network
        self._parts = [LossPart("generator", self.generator, [optimizer(_trainable(self.generator))], self.loss)]
        if adversary is not None:
            critic = adversary.critic_module
            self._parts.append(LossPart("critic", critic, [optimizer(_trainable(critic))], self.critic_loss))

    def losses(self) -> Sequence[LossPart]:
        """The generator, then its critic."""
        return self._parts

    def loss(self, step: int, progress: float) -> Iterator[tuple[torch.Tensor, dict[str, float]]]:
        """All losses of the generator that are due, batch after batch."""
        for number in range(self.accumulate):
            batch = step * self.accumulate + number
            if self.forcing_weight:
                yield from self._scaled(self.forcing.loss(batch, progress), self.forcing_weight)
            if self.adversary is not None and step % self.critic_steps == 0:
                yield from self._scaled(self.adversary.generator_loss(batch, progress), self.adversary_weight)

    def critic_loss(self, step: int, progress: float) -> Iterator[tuple[torch.Tensor, dict[str, float]]]:
        """The critic's, batch after batch."""
        if self.adversary is None:
            raise ValueError("there is no critic")
        for number in range(self.accumulate):
            yield from self._scaled(self.adversary.critic_loss(step * self.accumulate + number, progress), 1.0)

    def evaluate(self) -> dict[str, float]:
        """The flow-matching loss on held-out films."""
        return self.forcing.evaluate()

    def sample(self) -> torch.Tensor:
        """What the sampler makes; a black pixel without one."""
        return self.sampler() if self.sampler else torch.zeros(3, 1, 1)

    def _scaled(self, losses: Losses, weight: float) -> Iterator[tuple[torch.Tensor, dict[str, float]]]:
        for loss, figures in losses:
            yield weight / self.accumulate * loss, figures


def _trainable(module: nn.Module) -> list[nn.Parameter]:
    return [value for value in module.parameters() if value.requires_grad]
