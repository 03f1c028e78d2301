"""Distribution matching: a network's own films are moved to where a teacher finds them likely (Yin et al. 2024).

    own film x -> noised at sigma -> teacher, with guidance  -> x0_real
                                  -> critic                  -> x0_fake
    gradient on x     (x0_fake - x0_real) / mean |x - x0_real|          loss ½ ‖x - stop(x - gradient)‖²
    critic            flow matching on the generator's own films, a few steps for one of the generator

What Self Forcing's released weights were trained by; hyper-parameters as there. The scores are those of whole films in
one pass, as a bidirectional teacher has them, or block by block over the film's own past, for a causal one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from blockvid_cli.datasets.films import BatchRandom, FilmBatch
from blockvid_cli.models.flow_matching import add_noise, predict_x0, shift_sigmas
from blockvid_cli.models.wan.denoiser import VideoDenoiser
from blockvid_cli.rollout.kv_cache.base import KVView
from blockvid_cli.training.objectives import Losses
from blockvid_cli.training.objectives.flow_forcing import FlowForcing
from blockvid_cli.training.self_rollout import LEARNING_FRAMES, own_films, random_exit


@dataclass(frozen=True)
class DmdConfig:
    """Args:
    guidance: cfg of the teacher: cond + guidance·(cond - uncond).
    shift: of the sigmas at which films are judged.
    low, high: the smallest and the largest of these sigmas.
    score: ``joint``: a whole film in one pass; ``causal``: block by block over the film's own earlier blocks.
    frames: the last latent frames of a film that have gradients.
    """

    guidance: float = 3.0
    shift: float = 5.0
    low: float = 0.02
    high: float = 0.98
    score: Literal["joint", "causal"] = "joint"
    frames: int = LEARNING_FRAMES


class DistributionMatching:
    """The losses of generator and critic.

    Args:
        forcing: the generator's denoiser, recipe and films.
        teacher: the real score; its weights stay as they are.
        critic: the score of the generator's own films; begins as a copy of the teacher.
    """

    def __init__(
        self, forcing: FlowForcing, teacher: VideoDenoiser, critic: VideoDenoiser, config: DmdConfig = DmdConfig()
    ) -> None:
        self.forcing, self.teacher, self.critic, self.config = forcing, teacher, critic, config

    @property
    def critic_module(self) -> nn.Module:
        """The network that scores the generator's films."""
        return self.critic.network

    def generator_loss(self, step: int, progress: float) -> Losses:
        """½ ‖x - (x - gradient)‖² of the generator's films, in float64."""
        batch = self.forcing.films.batch(step)
        random = batch.random("generator", step)
        own = self._own(batch, random, learn=True)
        gradient = self.gradient(batch, own.detach(), random)
        wanted = (own.detach().double() - gradient.double()).detach()
        yield 0.5 * (own.double() - wanted).square().mean(), {"dmd_gradient": float(gradient.abs().mean())}

    def critic_loss(self, step: int, progress: float) -> Losses:
        """Flow matching on the generator's films."""
        batch = self.forcing.films.batch(step)
        random = batch.random("critic", step)
        with torch.no_grad():
            own = self._own(batch, random, learn=False)
        noise, sigma = self._noise(own, random)
        x0 = self.predict(self.critic, batch, own, noise, sigma)
        velocity = (_at(own, noise, sigma) - x0) / sigma[..., None, None, None]
        yield (velocity - (noise - own)).square().mean(), {}

    @torch.no_grad()
    def gradient(self, batch: FilmBatch, own: torch.Tensor, random: BatchRandom) -> torch.Tensor:
        """By how much each latent (B, L, C, h, w) is to move, normalised by each film's distance from the teacher's."""
        noise, sigma = self._noise(own, random)
        fake = self.predict(self.critic, batch, own, noise, sigma)
        real = self.predict(self.teacher, batch, own, noise, sigma)
        if self.config.guidance:
            blank = self.predict(self.teacher, batch, own, noise, sigma, prompts=False)
            real = real + self.config.guidance * (real - blank)
        return normalised_difference(own, fake, real)

    def predict(
        self,
        denoiser: VideoDenoiser,
        batch: FilmBatch,
        films: torch.Tensor,
        noise: torch.Tensor,
        sigma: torch.Tensor,
        prompts: bool = True,
    ) -> torch.Tensor:
        """The clean latents (B, L, C, h, w) that a denoiser predicts for films noised at sigma (B, L)."""
        rollout, segment = self.forcing.rollout(batch, denoiser)
        noisy = _at(films, noise, sigma)
        if self.config.score == "joint":
            prompt = rollout.embeddings(batch.plan.blocks) * float(prompts)
            positions = torch.arange(films.shape[1], dtype=torch.float64)
            velocity, _ = denoiser(noisy, sigma, prompt, positions, KVView())
            return predict_x0(noisy, velocity, sigma[..., None, None, None])
        rollout.begin()
        parts = []
        for block in batch.plan.blocks:
            span = slice(block.first, block.first + block.frames)
            prompt = rollout.embeddings((block,)) * float(prompts)
            view = rollout.kv_cache.view((block,))
            velocity, _ = rollout.denoise(segment, (block,), noisy[:, span], sigma[:, span], view, prompt)
            parts.append(predict_x0(noisy[:, span], velocity, sigma[:, span, None, None, None]))
            rollout.add_finished(segment, block, films[:, span])
        return torch.cat(parts, 1)

    def _own(self, batch: FilmBatch, random: BatchRandom, learn: bool) -> torch.Tensor:
        rollout, segment = self.forcing.rollout(batch.with_seeds(random))
        return own_films(
            rollout, segment, random_exit(segment.recipe, random.shared), learn, self.config.frames, batch.given()
        )

    def _noise(self, films: torch.Tensor, random: BatchRandom) -> tuple[torch.Tensor, torch.Tensor]:
        """Noise of the films' shape, and one sigma for all frames of a film, (B, L)."""
        sigma = shift_sigmas(random.uniform(1), self.config.shift)
        sigma = sigma.clamp(self.config.low, self.config.high).expand(-1, films.shape[1])
        return random.normal(films.shape[1:]).to(films), sigma.to(films)


def normalised_difference(own: torch.Tensor, fake: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """(fake - real) / mean |own - real|, the mean over each film; a mean below 0.001 counts as 0.001."""
    distance = (own - real).abs().flatten(1).mean(1).view(-1, *[1] * (own.ndim - 1))
    return (fake - real) / distance.clamp(min=1e-3)


def _at(films: torch.Tensor, noise: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    return add_noise(films, noise, sigma[..., None, None, None])
