"""The passes through the network that a rollout is made of: denoising blocks, and writing them to the KV cache.

    denoise   noisy blocks, sigmas      -> view of the cache -> velocity
    encode    a finished block, a sigma -> view of the cache -> queries, keys, values of each layer -> KV cache

Latents are (B, F, C, H, W): B films whose plans have the same layout are one batch; one film is a batch of 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from blockvid_cli.models.wan.attention import LayerQKV
from blockvid_cli.models.wan.denoiser import Denoiser
from blockvid_cli.models.wan.rope import Rope, token_grid
from blockvid_cli.rollout.conditioning import NO_CONDITIONING, FrameConditioning
from blockvid_cli.rollout.films import Films, PromptSource
from blockvid_cli.rollout.kv_cache.base import KVCache, KVView
from blockvid_cli.rollout.recipe import Recipe
from blockvid_cli.rollout.schedules.step import CLEAN, Step
from blockvid_cli.storyboard.plan import Block, Plan


@dataclass(frozen=True)
class RolloutSegment:
    """Consecutive blocks that are denoised by one recipe, and the denoiser, with guidance around it or not."""

    blocks: tuple[Block, ...]
    recipe: Recipe
    denoiser: Denoiser


@dataclass
class Passes:
    """The passes of a film, or of a batch of films, and the KV cache they fill; all segments share them.

    Args:
        plan: the film's blocks; the first film's in a batch.
        kv_cache: emptied when a run begins, filled as blocks finish.
        rope: the network's rotation.
        patch: (frames, rows, columns) of latent pixels in a token.
        prompts: the prompt embeddings of some blocks of a film: (rows, L, D), or (rows, F, L, D) where prompts differ;
            two rows with guidance, the prompt's and the negative prompt's.
        device: where latents are while they are denoised.
        conditioning: latent frames that are given.
        batch: the plans of further films with the same blocks, chunks and cuts.
    """

    plan: Plan
    kv_cache: KVCache
    rope: Rope
    patch: tuple[int, int, int]
    prompts: PromptSource
    device: str = "cpu"
    conditioning: FrameConditioning = NO_CONDITIONING
    batch: tuple[Plan, ...] = ()

    def __post_init__(self) -> None:
        if self.batch and self.kv_cache.per_film:
            raise ValueError("films that attend to different tokens need a cache each: kv_cache.batch.batch_cache")
        self.films = Films((self.plan, *self.batch), self.prompts)
        self.clean_latents: dict[
            int, tuple[RolloutSegment, torch.Tensor]
        ] = {}  # clean latents, on the CPU, by block number
        self.finished: set[int] = set()  # the blocks of ``clean_latents`` that this run has come to

    def begin(self) -> None:
        """Empties the cache and forgets what was finished."""
        self.kv_cache.begin(self.plan.chunks, self.rope)
        self.clean_latents.clear()
        self.finished.clear()

    def denoise(
        self,
        segment: RolloutSegment,
        blocks: Sequence[Block],
        x: torch.Tensor,
        sigma: torch.Tensor,
        view: KVView,
        prompt: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, list[LayerQKV]]:
        """One pass: the velocity of blocks over a view, and what each layer computed where the view records.

        Args:
            x: (B, F, C, H, W) noisy latents of all the blocks.
            sigma: (F,) or (B, F).
            prompt: what they read instead of their own prompts, as ``embeddings`` has it.
        """
        prompt = self.embeddings(blocks) if prompt is None else prompt
        positions = view.positions(segment.recipe.positions, blocks)
        return segment.denoiser(x, sigma.to(x.device), prompt, positions, view)

    def embeddings(self, blocks: Sequence[Block]) -> torch.Tensor:
        """The prompts of blocks for all films: (rows·B, L, D) or (rows·B, F, L, D), all films' prompts first."""
        return self.films.embeddings(blocks)

    def add_finished(self, segment: RolloutSegment, block: Block, latents: torch.Tensor) -> None:
        """Takes a block's clean latents (B, F, C, H, W) as finished, and caches them."""
        self._keep(segment, block, latents)
        if self.kv_cache.needs_update:
            self.kv_cache.update(block, *self._encode(segment, block, latents, CLEAN))

    def _keep(self, segment: RolloutSegment, block: Block, latents: torch.Tensor) -> None:
        self.clean_latents[block.number] = segment, latents.detach().cpu()
        self.finished.add(block.number)

    def update_group(
        self,
        segment: RolloutSegment,
        group: tuple[Block, ...],
        step: Step,
        moved: Mapping[int, torch.Tensor],
        view: KVView,
        layers: Sequence[LayerQKV],
    ) -> None:
        """Keeps the blocks that a step finished, and caches those whose cache update is due."""
        first, total = 0, sum(block.frames for block in group)
        for block, sigma, sigma_next in zip(group, step.sigma, step.sigma_next, strict=True):
            frames = range(first, first + block.frames)
            first += block.frames
            if sigma == sigma_next:
                continue
            latents = moved[block.number].detach()
            if sigma_next == CLEAN:
                self._keep(segment, block, latents)
            update = segment.recipe.cache_update
            if not self.kv_cache.needs_update or not update.due(block, sigma, sigma_next):
                continue
            if update.source == "last-step":
                self.kv_cache.update(block, _layers_of(layers, frames, total), self._coordinates(block))
            else:
                alone = view if group == (block,) and not update.self_only else None
                self.kv_cache.update(block, *self._encode(segment, block, latents, sigma_next, view=alone))

    def recompute(
        self, block: Block, prompt: torch.Tensor | None = None, view: KVView | None = None
    ) -> tuple[list[LayerQKV], torch.Tensor]:
        """Encodes a finished block again: each layer's tokens, and their coordinates (T, 3).

        Args:
            prompt: what it reads instead of its own prompt, (rows·B, L, D); ``embeddings`` has those of any blocks.
            view: what it attends to; by default what its cache update says.
        """
        segment, clean = self.clean_latents[block.number]
        return self._encode(segment, block, clean.to(self.device), CLEAN, prompt, view)

    @torch.no_grad()
    def _encode(
        self,
        segment: RolloutSegment,
        block: Block,
        latents: torch.Tensor,
        sigma: float,
        prompt: torch.Tensor | None = None,
        view: KVView | None = None,
    ) -> tuple[list[LayerQKV], torch.Tensor]:
        """The pass of a cache update, of latents (B, F, C, H, W) at ``sigma``.

        ``view`` is what the block attended to while it was denoised, where it was denoised by itself.
        """
        update, clean = segment.recipe.cache_update, latents.detach()
        pass_sigma = torch.full((block.frames,), sigma if update.sigma is None else update.sigma, device=clean.device)
        context = torch.stack(
            [update.context_latents(p.blocks[block.number], x) for p, x in zip(self.films.plans, clean, strict=True)]
        )
        return self.encode(segment, block, context, pass_sigma, prompt, view)

    def encode(
        self,
        segment: RolloutSegment,
        block: Block,
        x: torch.Tensor,
        sigma: torch.Tensor,
        prompt: torch.Tensor | None = None,
        view: KVView | None = None,
    ) -> tuple[list[LayerQKV], torch.Tensor]:
        """What the cache is updated with: each layer's tokens of a block, and their coordinates (T, 3).

        Training calls this with gradients, and with context that has a sigma of its own in each film.

        Args:
            x: (B, F, C, H, W) latents as the network reads them, at ``sigma``, (F,) or (B, F).
            prompt: what the block reads instead of its own prompt.
            view: what it attends to; by default what its cache update says.
        """
        if view is None:
            view = KVView() if segment.recipe.cache_update.self_only else self.kv_cache.view((block,))
        view.record = True
        _, layers = self.denoise(segment, (block,), x, sigma, view, prompt)
        view.record = False
        return layers, self._coordinates(block)

    def _coordinates(self, block: Block) -> torch.Tensor:
        _, height, width = self.plan.latent
        return token_grid(block.frames, height // self.patch[1], width // self.patch[2])


def _layers_of(layers: Sequence[LayerQKV], frames: range, total: int) -> list[LayerQKV]:
    """What each layer computed of ``frames`` among ``total`` frames: (B, T, H, D), without gradients."""
    size = layers[0].keys.shape[1] // total
    return [LayerQKV(*(x[:, frames.start * size : frames.stop * size].detach() for x in layer)) for layer in layers]
