"""Self Forcing: films that the network generates by itself are made to look like real ones (BlockVid Eq. 1).

    generator       own film --- + noise at sigma ---> D ---> softplus(-D)                       every ``every`` steps
    discriminator   own film, real film, one sigma -> D ---> softplus(D(own)) + softplus(-D(real)) + R1 + R2

The films come from the one rollout, cut short at a random step, with gradients of each block's last step alone (Huang
et al. 2025); the discriminator judges whole films, so that errors which accumulate over chunks cost something. The
loss is non-saturating. DistributionMatching (dmd.py) is the alternative, by which Self Forcing's released weights were
trained.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import softplus

from blockvid_cli.datasets.films import BatchRandom, FilmBatch
from blockvid_cli.models.flow_matching import add_noise, shift_sigmas
from blockvid_cli.training.objectives import Losses
from blockvid_cli.training.objectives.discriminator import Discriminator
from blockvid_cli.training.objectives.flow_forcing import FlowForcing
from blockvid_cli.training.self_rollout import LEARNING_FRAMES, own_films, random_exit


@dataclass(frozen=True)
class GanConfig:
    """Args:
    weight: of the generator's loss.
    r1, r2: weights of the discriminator's smoothness on real and on generated films.
    deviation: of the noise by which smoothness is measured.
    shift: of the sigmas at which films are judged, towards noise.
    frames: the last latent frames of a film that have gradients.
    """

    weight: float = 1e-2
    r1: float = 1e-2
    r2: float = 1e-2
    deviation: float = 0.01
    shift: float = 3.0
    frames: int = LEARNING_FRAMES


class SelfForcing:
    """The losses of generator and discriminator.

    Args:
        forcing: the generator's denoiser, recipe and films.
        discriminator: on the same device.
    """

    def __init__(self, forcing: FlowForcing, discriminator: Discriminator, config: GanConfig = GanConfig()) -> None:
        self.forcing, self.discriminator, self.config = forcing, discriminator, config

    @property
    def critic_module(self) -> nn.Module:
        """The discriminator."""
        return self.discriminator

    def generator_loss(self, step: int, progress: float) -> Losses:
        """How unlike real films the generator's are, by the discriminator.

        Gradients of the discriminator's weights are made on the way; its own part begins without them.
        """
        batch = self.forcing.films.batch(step)
        random = batch.random("generator", step)
        own, prompt = self._own(batch, random, learn=True)
        noise, sigma = self._noise(own, random)
        logits = self.discriminator(_noisy(own, noise, sigma), sigma, prompt)
        yield self.config.weight * softplus(-logits).mean(), {"own_logit": float(logits.detach().mean())}

    def critic_loss(self, step: int, progress: float) -> Losses:
        """How badly the discriminator tells real films from generated ones, and how rough it is."""
        batch = self.forcing.films.batch(step)
        random = batch.random("critic", step)
        with torch.no_grad():
            own, prompt = self._own(batch, random, learn=False)
        real = batch.latents.float().to(own)
        noise, sigma = self._noise(own, random)
        films = torch.cat([_noisy(x, noise, sigma) for x in (real, own)])
        prompts, sigmas = torch.cat([prompt, prompt]), torch.cat([sigma, sigma])
        logits = self.discriminator(films, sigmas, prompts)
        on_real, on_own = logits.chunk(2)
        loss = softplus(on_own).mean() + softplus(-on_real).mean()
        shaken = torch.cat([random.normal(own.shape[1:]), random.normal(own.shape[1:])]).to(films)
        moved = (self.discriminator(films + self.config.deviation * shaken, sigmas, prompts) - logits).square()
        r1, r2 = (moved / self.config.deviation**2).chunk(2)
        loss = loss + self.config.r1 * r1.mean() + self.config.r2 * r2.mean()
        accuracy = torch.cat([on_real > 0, on_own < 0]).float().mean()
        yield loss, {"critic_accuracy": float(accuracy)}

    def _own(self, batch: FilmBatch, random: BatchRandom, learn: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """The generator's films (B, L, C, h, w) and their prompts, one a frame."""
        rollout, segment = self.forcing.rollout(batch.with_seeds(random))
        exit_step = random_exit(segment.recipe, random.shared)
        own = own_films(rollout, segment, exit_step, learn, self.config.frames, batch.given())
        return own, rollout.embeddings(batch.plan.blocks)

    def _noise(self, films: torch.Tensor, random: BatchRandom) -> tuple[torch.Tensor, torch.Tensor]:
        """Noise of the films' shape and a sigma (B, L) each."""
        sigma = shift_sigmas(random.uniform(1), self.config.shift)
        return random.normal(films.shape[1:]).to(films), sigma.expand(-1, films.shape[1]).to(films)


def _noisy(films: torch.Tensor, noise: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    return add_noise(films, noise, sigma[..., None, None, None])
