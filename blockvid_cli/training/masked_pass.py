"""Teacher forcing in one pass: all clean blocks and all noisy ones side by side, under a mask.

             clean 0 1 2 3   noisy 0 1 2 3
    clean 0        x . . .         . . . .        a clean block sees itself and what its cache update sees
    clean 1        x x . .         . . . .
    noisy 0        . . . .         x . . .        a noisy block sees itself and the clean blocks its view shows
    noisy 1        x . . .         . x . .

Equal to denoising each block over the KV cache of the clean ones, as long as a cached token has the same position and
is the same token for every block: absolute positions, and a cache of whole frames (full, window). Other caches and
positions are trained through the rollout. The mask is recorded from the cache itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from blockvid_cli.datasets.films import FilmBatch
from blockvid_cli.errors import UsageError
from blockvid_cli.models.wan.attention import AttentionContext, LayerQKV, project_heads
from blockvid_cli.models.wan.denoiser import VideoDenoiser
from blockvid_cli.models.wan.rope import Rope, apply_rope
from blockvid_cli.rollout.cache_updates import Clean
from blockvid_cli.rollout.kv_cache.base import KVView
from blockvid_cli.rollout.positions import Absolute
from blockvid_cli.rollout.recipe import Recipe
from blockvid_cli.rollout.rollout import Rollout, RolloutSegment
from blockvid_cli.storyboard.plan import Plan

if TYPE_CHECKING:
    from diffusers.models.transformers.transformer_wan import WanAttention
    from torch.nn.attention.flex_attention import BlockMask


def check_masked(recipe: Recipe) -> None:
    """Makes sure that a recipe can be trained in one pass.

    Raises:
        UsageError: its cache chooses tokens or chunks, its positions shift, or its cache update is another one.
    """
    if recipe.kv_cache.make.per_film or not isinstance(recipe.positions, Absolute) or recipe.cache_update != Clean():
        raise UsageError(
            "one masked pass needs a full or window KV cache, absolute positions and the clean cache update;"
            " this recipe is trained through the rollout."
        )


def attended_frames(plan: Plan, recipe: Recipe) -> list[tuple[int, ...]]:
    """For each block of a plan the earlier latent frames that it attends to, as the recipe's KV cache shows them."""
    rollout = Rollout(replace(plan, latent=(1, 1, 1)), recipe.kv_cache(), Rope(6), (1, 1, 1), lambda blocks: _NOTHING)
    rollout.begin()
    segment = RolloutSegment(plan.blocks, recipe, _no_tokens)
    frames = []
    for block in rollout.plan.blocks:
        frames.append(rollout.kv_cache.view((block,)).frames)
        rollout.add_finished(segment, block, torch.zeros(1, block.frames, 1, 1, 1))
    return frames


_NOTHING = torch.zeros(1, 1, 1)


def _no_tokens(
    x: torch.Tensor, sigma: torch.Tensor, prompt: torch.Tensor, positions: torch.Tensor, view: object
) -> tuple[torch.Tensor, list[LayerQKV]]:
    """Stands in for a denoiser: one layer of one empty token a frame."""
    tokens = x.new_zeros(len(x), x.shape[1], 1, 6)
    return x, [LayerQKV(tokens, tokens, tokens)]


def frame_mask(plan: Plan, attended: Sequence[tuple[int, ...]]) -> torch.Tensor:
    """Which of [clean frames | noisy frames] each of them attends to: (2L, 2L) booleans."""
    frames = plan.blocks[-1].first + plan.blocks[-1].frames
    mask = torch.zeros(2 * frames, 2 * frames, dtype=torch.bool)
    for block, past in zip(plan.blocks, attended, strict=True):
        own = torch.tensor(block.frame_indices)
        for half in (0, frames):
            mask[own[:, None] + half, own + half] = True
            mask[own[:, None] + half, torch.tensor(past, dtype=torch.long)] = True
    return mask


def masked_velocity(
    denoiser: VideoDenoiser, batch: FilmBatch, noisy: torch.Tensor, sigma: torch.Tensor, recipe: Recipe
) -> torch.Tensor:
    """The velocity (B, L, C, h, w) of all blocks of films over their clean earlier blocks, in one pass.

    Args:
        noisy: latents (B, L, C, h, w) at ``sigma`` (B, L).

    Raises:
        UsageError: the recipe cannot be trained in one pass.
    """
    check_masked(recipe)
    frames = noisy.shape[1]
    clean = batch.latents.to(noisy)
    mask = _token_mask(frame_mask(batch.plan, attended_frames(batch.plan, recipe)), denoiser, noisy)
    rollout = Rollout(
        batch.plan, recipe.kv_cache(), denoiser.rope, denoiser.patch, batch.prompts, batch=batch.plans[1:]
    )
    prompt = rollout.embeddings(batch.plan.blocks).to(noisy.device)
    prompt = prompt if prompt.ndim == 4 else prompt[:, None].expand(-1, frames, -1, -1)
    positions = torch.arange(frames, dtype=torch.float64).repeat(2)
    with masked_attention(denoiser.network, mask):
        velocity, _ = denoiser(
            torch.cat([clean, noisy], 1),
            torch.cat([torch.zeros_like(sigma), sigma], 1),
            torch.cat([prompt, prompt], 1),
            positions,
            KVView(),
        )
    return velocity[:, frames:]


class MaskedSelfAttnProcessor:
    """Self-attention over the new tokens alone, each of which sees those that a mask lets it see.

    Args:
        mask: (T, T) booleans, or a mask of flex attention.
    """

    def __init__(self, mask: torch.Tensor | BlockMask) -> None:
        self.mask = mask

    def __call__(
        self,
        attn: WanAttention,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None,
        attention_mask: torch.Tensor | None,
        context: AttentionContext,
    ) -> torch.Tensor:
        query, key, value = project_heads(attn, hidden_states, hidden_states)
        rotated = (apply_rope(query, context.cos_sin), apply_rope(key, context.cos_sin), value)
        query, key, value = (x.transpose(1, 2) for x in rotated)
        if isinstance(self.mask, torch.Tensor):
            out = scaled_dot_product_attention(query, key, value, attn_mask=self.mask)
        else:
            out = cast("torch.Tensor", compiled_flex_attention()(query, key, value, block_mask=self.mask))
        return attn.to_out[1](attn.to_out[0](out.transpose(1, 2).flatten(2)))


@cache
def compiled_flex_attention() -> Callable[..., object]:
    """Flex attention as a fused kernel."""
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=False)


@contextmanager
def masked_attention(network: nn.Module, mask: torch.Tensor | BlockMask) -> Iterator[None]:
    """Gives the self-attentions of a network a mask for a while."""
    blocks = network.get_submodule("blocks").children()
    attentions: list[Any] = [block.get_submodule("attn1") for block in blocks]  # of diffusers, which are not typed
    before = [attention.processor for attention in attentions]
    for attention in attentions:
        attention.set_processor(MaskedSelfAttnProcessor(mask))
    try:
        yield
    finally:
        for attention, processor in zip(attentions, before, strict=True):
            attention.set_processor(processor)


def _token_mask(mask: torch.Tensor, denoiser: VideoDenoiser, x: torch.Tensor) -> torch.Tensor | BlockMask:
    """A mask of frames as one of tokens: dense on a CPU, of flex attention on a GPU."""
    tokens = (x.shape[3] // denoiser.patch[1]) * (x.shape[4] // denoiser.patch[2])
    if x.device.type == "cpu":
        return mask.repeat_interleave(tokens, 0).repeat_interleave(tokens, 1)
    from torch.nn.attention.flex_attention import create_block_mask

    seen = mask.to(x.device)
    return create_block_mask(
        lambda batch, head, query, key: seen[query // tokens, key // tokens],
        None,
        None,
        len(mask) * tokens,
        len(mask) * tokens,
        device=str(x.device),
    )
