"""Attention processors that let diffusers' Wan network attend to cached tokens beside the block it denoises.

    keys     [ cached tokens, rotated to their positions | the block's own ]
    queries                                              [ the block's own ]

The network is diffusers', unmodified. Its rotary module is replaced by ``RotaryContextModule``, which hands an
``AttentionContext`` to every self-attention: the rotation of the new tokens and the view of the KV cache. The
processors do the rest, and record each layer's un-rotated queries, keys and values where the view asks for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from blockvid_cli.models.wan.rope import CosSin, Rope, apply_rope

if TYPE_CHECKING:
    from diffusers.models.transformers.transformer_wan import WanAttention


class LayerQKV(NamedTuple):
    """The queries, keys and values of the new tokens in one layer's self-attention, un-rotated: each (B, T, H, D)."""

    queries: torch.Tensor
    keys: torch.Tensor
    values: torch.Tensor


@dataclass(frozen=True, eq=False)
class TokenKV:
    """Cached tokens of one layer.

    Args:
        keys, values: (B, T, H, D), keys un-rotated.
        coordinates: (T, 3), on the CPU: index of the token's frame in its entry or view, row, column.
        bias: added to the attention logits of every query: (T,), or (H, T), or (B, H or 1, T); None for none.
    """

    keys: torch.Tensor
    values: torch.Tensor
    coordinates: torch.Tensor
    bias: torch.Tensor | None = None

    @property
    def requires_grad(self) -> bool:
        """Whether gradients flow through these tokens."""
        return self.keys.requires_grad or self.values.requires_grad

    def select(self, index: torch.Tensor) -> TokenKV:
        """Only the tokens at ``index`` (K,), a tensor on the CPU."""
        at = index.to(self.keys.device)
        bias = None if self.bias is None else self.bias[..., index.to(self.bias.device)]
        return TokenKV(self.keys[:, at], self.values[:, at], self.coordinates[index], bias)

    def of_frames(self, frames: range) -> TokenKV:
        """Only the tokens of some consecutive frames, which are counted from 0 in the result."""
        frame = self.coordinates[:, 0]
        part = self.select(((frame >= frames.start) & (frame < frames.stop)).nonzero()[:, 0])
        return replace(part, coordinates=part.coordinates - torch.tensor([frames.start, 0, 0]))


def concat_bias(parts: Sequence[TokenKV]) -> torch.Tensor | None:
    """The biases of tokens that are put one after another; tokens without one get 0."""
    if all(part.bias is None for part in parts):
        return None
    biases = [part.keys.new_zeros(part.keys.shape[1]) if part.bias is None else part.bias for part in parts]
    leading = torch.broadcast_shapes(*(bias.shape[:-1] for bias in biases))
    return torch.cat([bias.expand(*leading, -1) for bias in biases], -1)


class KVSource(Protocol):
    """The cached tokens that one pass attends to; ``record`` asks for the queries, keys and values of the new ones."""

    record: bool

    def read(self, layer: int, query: torch.Tensor | None = None) -> TokenKV | None:
        """The cached tokens of a layer, or None when there are none.

        Args:
            query: (B, T, H, D) of the new tokens, un-rotated, for caches that choose by query.
        """
        ...

    def rotated_keys(self, layer: int, tokens: TokenKV, rope: Rope, positions: torch.Tensor) -> torch.Tensor:
        """The keys (B, T, H, D) of tokens this view has read, rotated to the positions of its frames."""
        ...


@dataclass
class AttentionContext:
    """One pass through the network: the rotation of the new tokens, the view, its positions, and what was recorded."""

    rope: Rope
    cos_sin: CosSin
    view: KVSource
    positions: torch.Tensor  # of the cached frames
    recorded: dict[int, LayerQKV] = field(default_factory=dict)  # by layer: a checkpointed layer runs twice


class RotaryContextModule(nn.Module):
    """Stands where the network's rotary module stood and hands ``context`` to every self-attention."""

    context: AttentionContext | None = None

    def forward(self, hidden_states: torch.Tensor) -> AttentionContext | None:
        return self.context


class CachedSelfAttnProcessor:
    """Self-attention over the cached tokens and the new ones."""

    def __init__(self, layer: int) -> None:
        self.layer = layer

    def __call__(
        self,
        attn: WanAttention,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None,
        attention_mask: torch.Tensor | None,
        context: AttentionContext,
    ) -> torch.Tensor:
        query, key, value = project_heads(attn, hidden_states, hidden_states)
        if context.view.record:
            context.recorded[self.layer] = LayerQKV(query, key, value)
        keys, values, bias = apply_rope(key, context.cos_sin), value, None
        cached = context.view.read(self.layer, query)
        if cached is not None:
            rotated = context.view.rotated_keys(self.layer, cached, context.rope, context.positions)
            keys, values = torch.cat([rotated, keys], 1), torch.cat([cached.values, value], 1)
            bias = _zero_padded(cached.bias, key.shape[1])
        out = attend(apply_rope(query, context.cos_sin), keys, values, bias).flatten(2)
        return attn.to_out[1](attn.to_out[0](out))


class CrossAttnProcessor:
    """Cross-attention to one prompt for all frames (B, L, C), or to one prompt a frame (B, F, L, C)."""

    def __call__(
        self,
        attn: WanAttention,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        rotary_emb: None = None,
    ) -> torch.Tensor:
        shape = hidden_states.shape
        if encoder_hidden_states.ndim == 4:
            frames = encoder_hidden_states.shape[1]
            hidden_states = hidden_states.unflatten(1, (frames, -1)).flatten(0, 1)
            encoder_hidden_states = encoder_hidden_states.flatten(0, 1)
        query, key, value = project_heads(attn, hidden_states, encoder_hidden_states)
        out = attend(query, key, value).flatten(2)
        return attn.to_out[1](attn.to_out[0](out)).reshape(shape)


def project_heads(attn: WanAttention, hidden_states: torch.Tensor, source: torch.Tensor) -> LayerQKV:
    """Queries of tokens (B, T, C), keys and values of ``source`` (B, S, C), by heads: (B, T or S, H, D), un-rotated."""
    query, key = attn.norm_q(attn.to_q(hidden_states)), attn.norm_k(attn.to_k(source))
    return LayerQKV(*(x.unflatten(2, (attn.heads, -1)) for x in (query, key, attn.to_v(source))))


def attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """softmax(q kᵀ / √d + bias) v for (B, T, H, D); bias over the keys: (T,), (H, T) or (B, H or 1, T)."""
    query, key, value = (x.transpose(1, 2) for x in (query, key, value))
    mask = None if bias is None else _mask(bias)
    if query.requires_grad and query.device.type == "cpu":  # the fused kernel's backward is slow on a CPU
        logits = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
        share = (logits if mask is None else logits + mask).softmax(-1)
        return (share.to(value.dtype) @ value).transpose(1, 2)
    if mask is not None:
        mask = mask.to(query.dtype).expand(-1, -1, query.shape[2], -1)
    return scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2)


def _mask(bias: torch.Tensor) -> torch.Tensor:
    """A bias over keys as it is added to logits: (B or 1, H or 1, 1, T)."""
    return bias.reshape(*(1,) * (3 - bias.ndim), *bias.shape)[:, :, None]


def _zero_padded(bias: torch.Tensor | None, new: int) -> torch.Tensor | None:
    """A bias over cached tokens, with zeros for ``new`` tokens behind it."""
    return None if bias is None else torch.cat([bias, bias.new_zeros(*bias.shape[:-1], new)], -1)
