"""Flow matching on the blocks of long films, each over the KV cache that the rollout would show it.

    teacher      context: the true earlier blocks, cached as a render caches finished ones; one sigma a block
    diffusion    context: the true earlier blocks, each at a sigma of its own; one sigma a frame

    block 0 -> cache -> block 1 -> cache -> block 2 ...      clean latents, no gradients through the cache
               |                   |
               noisy block 1       noisy block 2             ‖v - target‖², gradients of this pass alone

BlockVid, Eq. 2-5; the sigmas of a chunk's frames are scaled by the chunk's noise level (section 3.5, Eq. 11). A share
of the cached chunks and of the cached tokens is left out (p_drop of Algorithm 1). Views, positions, retrieval and the
cache update are the rollout's own, so any KV cache and any positions can be trained with.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, replace
from typing import Literal

import torch

from blockvid_cli.datasets.films import BatchRandom, FilmBatch, FilmSource
from blockvid_cli.errors import UsageError
from blockvid_cli.models.flow_matching import add_noise, shift_sigmas
from blockvid_cli.models.wan.attention import TokenKV
from blockvid_cli.models.wan.denoiser import VideoDenoiser
from blockvid_cli.rollout.kv_cache.base import CacheEntry, KVView
from blockvid_cli.rollout.kv_cache.batch import BatchedKVView, batch_cache
from blockvid_cli.rollout.recipe import Recipe
from blockvid_cli.rollout.rollout import Rollout, RolloutSegment
from blockvid_cli.storyboard.plan import Block
from blockvid_cli.training.chunk_noise import CHUNK_NOISES, chunk_sigmas
from blockvid_cli.training.objectives import Losses
from blockvid_cli.training.objectives.block_forcing import FlowTarget

EVALUATED = 4  # held-out batches


@dataclass(frozen=True)
class ForcingConfig:
    """How the blocks of a film are noised and what they attend to.

    Args:
        forcing: ``teacher`` or ``diffusion``.
        targets: blocks of a film that have a loss in a step, chosen at random; None for all.
        shift: of the sampled sigmas towards noise, as ``shift_sigmas`` has it.
        chunk_noise: the schedule of the chunks' noise levels.
        prompt_dropout: the share of prompts that are replaced by zeros, for guidance.
        chunk_dropout: the share of cached chunks or blocks that a target does not attend to.
        token_dropout: the share of cached tokens that a target does not attend to.

    Raises:
        UsageError: an unknown name, or a number out of range.
    """

    forcing: Literal["teacher", "diffusion"] = "teacher"
    targets: int | None = 2
    shift: float = 3.0
    chunk_noise: str = "cosine"
    prompt_dropout: float = 0.1
    chunk_dropout: float = 0.0
    token_dropout: float = 0.0

    def __post_init__(self) -> None:
        shares = (self.prompt_dropout, self.chunk_dropout, self.token_dropout)
        if self.forcing not in ("teacher", "diffusion") or self.chunk_noise not in CHUNK_NOISES:
            raise UsageError(
                f"forcing is teacher or diffusion, and chunk noise one of {', '.join(CHUNK_NOISES)};"
                f" not {self.forcing} and {self.chunk_noise}."
            )
        if not all(0 <= share < 1 for share in shares) or self.shift <= 0 or (self.targets or 1) < 1:
            raise UsageError("dropouts are 0 or more and below 1, the shift above 0, and targets 1 or more.")


class FlowForcing:
    """The flow-matching loss of blocks over the KV cache of the blocks before them.

    Args:
        denoiser: whose network is trained.
        recipe: its KV cache, positions and cache update are those that are trained with.
        films: where batches come from.
        target: what the velocity is compared with.
    """

    def __init__(
        self,
        denoiser: VideoDenoiser,
        recipe: Recipe,
        films: FilmSource,
        config: ForcingConfig = ForcingConfig(),
        target: FlowTarget | None = None,
        held_out: FilmSource | None = None,
        autocast: torch.dtype | None = torch.bfloat16,
    ) -> None:
        self.denoiser, self.recipe, self.films, self.config = denoiser, recipe, films, config
        self.target, self.held_out, self.autocast = target or FlowTarget(), held_out, autocast
        self.device = next(denoiser.network.parameters()).device

    def loss(self, step: int, progress: float) -> Losses:
        """The loss of each target, already divided by their number; everything random comes from ``step``."""
        batch = self.films.batch(step)
        return self.losses_of(batch, batch.random("flow", step))

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """The mean flow-matching loss on held-out films; of the same blocks and noise whenever it is called."""
        if self.held_out is None:
            return {}
        plain = copy(self)
        plain.target = FlowTarget()
        plain.config = replace(self.config, prompt_dropout=0.0, targets=None, chunk_dropout=0.0, token_dropout=0.0)
        losses = [
            torch.stack([loss for loss, _ in plain.losses_of(batch, batch.random("held-out", number))]).sum()
            for number, batch in enumerate(self.held_out.batches(EVALUATED))
        ]
        return {"flow": float(torch.stack(losses).mean())}

    def losses_of(self, batch: FilmBatch, random: BatchRandom) -> Losses:
        """The losses of a batch's targets, in the order of the film."""
        blocks = batch.plan.blocks
        learned = range(0 if batch.opening else 1, len(blocks))
        if not learned:
            raise UsageError("a window of a single block has nothing to learn; take more chunks.")
        order = torch.randperm(len(learned), generator=random.shared)[: self.config.targets].tolist()
        chosen = [learned[index] for index in order]
        levels = chunk_sigmas(self.config.chunk_noise, len(batch.plan.chunks))
        rollout, segment = self.rollout(batch)
        rollout.begin()
        for block in blocks[: max(chosen) + 1]:
            if block.number in chosen:
                loss = self._target_loss(rollout, segment, batch, block, levels[block.chunk - 1], random)
                yield loss / len(chosen), {"flow": float(loss.detach())}
            if block.number < max(chosen):
                self._add_context(rollout, segment, batch, block, random)

    def rollout(self, batch: FilmBatch, denoiser: VideoDenoiser | None = None) -> tuple[Rollout, RolloutSegment]:
        """The rollout of a batch, with an empty cache; by the network that is trained, or by another."""
        rollout = Rollout(
            plan=batch.plan,
            kv_cache=batch_cache(self.recipe.kv_cache, batch.plans),
            rope=self.denoiser.rope,
            patch=self.denoiser.patch,
            prompts=batch.prompts,
            device=str(self.device),
            batch=batch.plans[1:],
        )
        return rollout, RolloutSegment(batch.plan.blocks, self.recipe, denoiser or self.denoiser)

    def _target_loss(
        self,
        rollout: Rollout,
        segment: RolloutSegment,
        batch: FilmBatch,
        block: Block,
        level: float,
        random: BatchRandom,
    ) -> torch.Tensor:
        """‖v - target‖² of one block over the cache as it is now."""
        clean = batch.block(block).to(self.device)
        noise = random.normal(clean.shape[1:]).to(self.device)
        sigma = self._sigmas(block.frames, level, random).to(self.device)
        keep = random.uniform(1)[:, 0] >= self.config.prompt_dropout
        prompt = rollout.embeddings((block,))
        prompt = prompt * keep.to(prompt).view(-1, *[1] * (prompt.ndim - 1))
        view = drop_context(
            rollout.kv_cache.view((block,)), self.config.chunk_dropout, self.config.token_dropout, random
        )
        with self._autocast():
            noisy = add_noise(clean, noise, sigma[..., None, None, None])
            velocity, _ = rollout.denoise(segment, (block,), noisy, sigma, view, prompt)
        return (velocity.float() - self.target(batch, block, clean, noise)).square().mean()

    def _add_context(
        self, rollout: Rollout, segment: RolloutSegment, batch: FilmBatch, block: Block, random: BatchRandom
    ) -> None:
        """Caches a true block: as a render does, or at a sigma of its own."""
        clean = batch.block(block).to(self.device)
        with self._autocast():
            if self.config.forcing == "teacher":
                rollout.add_finished(segment, block, clean)
                return
            sigma = random.uniform(1).expand(-1, block.frames).to(self.device)
            noisy = add_noise(clean, random.normal(clean.shape[1:]).to(clean), sigma[..., None, None, None])
            with torch.no_grad():
                rollout.kv_cache.update(block, *rollout.encode(segment, block, noisy, sigma))

    def _sigmas(self, frames: int, level: float, random: BatchRandom) -> torch.Tensor:
        """Sigmas (B, frames), at most ``level``: one a block, or with diffusion forcing one a frame."""
        count = frames if self.config.forcing == "diffusion" else 1
        sigma = shift_sigmas(random.uniform(count), self.config.shift)
        return level * sigma.expand(-1, frames)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.autocast or torch.float32, enabled=self.autocast is not None)


def drop_context(view: KVView, chunks: float, tokens: float, random: BatchRandom) -> KVView:
    """A view without a share of its entries and without a share of the tokens of those that are left.

    Films that attend to the same frames lose the same ones.
    """
    if not chunks and not tokens:
        return view
    if isinstance(view, BatchedKVView):
        films = zip(view.views, random.films, strict=True)
        return BatchedKVView([_drop(film, chunks, tokens, generator) for film, generator in films])
    return _drop(view, chunks, tokens, random.shared)


def _drop(view: KVView, chunks: float, tokens: float, generator: torch.Generator) -> KVView:
    entries = [entry for entry in view.entries if float(torch.rand((), generator=generator)) >= chunks]
    seeds = torch.randint(2**31, (len(entries),), generator=generator).tolist()
    return KVView(_thin(entry, tokens, seed) for entry, seed in zip(entries, seeds, strict=True))


def _thin(entry: CacheEntry, share: float, seed: int) -> CacheEntry:
    """An entry without a share of its tokens, the same ones whenever a layer is read."""
    if not share:
        return entry

    def read_layer(number: int) -> TokenKV:
        tokens = entry.read_layer(number)
        keep = torch.rand(len(tokens.coordinates), generator=torch.Generator().manual_seed(seed + number)) >= share
        return tokens.select(keep.nonzero()[:, 0])

    return replace(entry, read_layer=read_layer)
