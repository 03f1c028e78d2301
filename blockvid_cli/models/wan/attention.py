"""Self-attention over what is remembered beside what is being drawn.

    keys     [ remembered, rotated to the times they are said to be | the block's own ]
    queries                                                          [ the block's   ]

The network is diffusers', unmodified. Its rotary module is replaced by ``Places``, which hands every self-attention a
``Looking``: what to rotate by and what to look at. The processors do the rest and leave the un-rotated queries, keys
and values of each layer behind.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import torch
from diffusers.models.transformers.transformer_wan import WanAttention
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from blockvid_cli.models.wan.rope import Rope, apply_rope


class LayerQKV(NamedTuple):
    """What one layer's self-attention saw of the tokens being drawn, un-rotated: each (B, T, H, D)."""

    queries: torch.Tensor
    keys: torch.Tensor
    values: torch.Tensor


class Recalled:
    """The remembered tokens a layer may look at; keys are rotated once for as long as their times stay the same.

    Args:
        keys, values: (B, T, H, D), keys un-rotated.
        coordinates: (T, 3): index of the remembered frame, row, column.
        bias: (T,) added to the logits, or None.
        angles: what layers of the same coordinates share of the rotation, by ``id`` of the coordinates and times.
    """

    def __init__(
        self,
        keys: torch.Tensor,
        values: torch.Tensor,
        coordinates: torch.Tensor,
        bias: torch.Tensor | None = None,
        angles: dict[tuple[int, bytes], tuple[torch.Tensor, torch.Tensor]] | None = None,
    ) -> None:
        self.keys, self.values, self.coordinates, self.bias = keys, values, coordinates, bias
        self._angles = {} if angles is None else angles
        self._turned: tuple[torch.Tensor, torch.Tensor] | None = None

    def turned(self, rope: Rope, times: torch.Tensor) -> torch.Tensor:
        """The keys as they look when remembered frame i is at times[i]."""
        if self._turned is None or not torch.equal(self._turned[0], times):
            now = id(self.coordinates), times.double().numpy().tobytes()
            if now not in self._angles:
                self._angles[now] = rope.cos_sin(located(self.coordinates, times), self.keys.device)
            self._turned = times, apply_rope(self.keys, self._angles[now])
        return self._turned[1]


class KVSource(Protocol):
    """What an attention may look back at; ``recording`` when it is told what the layers see of the new tokens."""

    record: bool

    def read(self, layer: int) -> Recalled | None:
        """The remembered tokens of a layer, or None when there are none."""


def located(coordinates: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
    """Coordinates (T, 3) with the index of the frame replaced by that frame's time."""
    return torch.cat([times[coordinates[:, :1].long()].double(), coordinates[:, 1:].double()], 1)


@dataclass
class AttentionContext:
    """One pass through the network: the new tokens' rotation, the memory and its times, and what it recorded."""

    rope: Rope
    turns: tuple[torch.Tensor, torch.Tensor]
    memory: KVSource
    times: torch.Tensor
    layers: list[LayerQKV] = field(default_factory=list)


class RotaryContextModule(nn.Module):
    """Stands where the network's rotary module stood and passes ``looking`` on to every self-attention."""

    looking: AttentionContext | None = None

    def forward(self, hidden_states: torch.Tensor) -> AttentionContext | None:
        return self.looking


class CachedSelfAttnProcessor:
    """Self-attention processor: attends to memory and block, and records the layer."""

    def __init__(self, layer: int) -> None:
        self.layer = layer

    def __call__(
        self,
        attn: WanAttention,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None,
        attention_mask: torch.Tensor | None,
        looking: AttentionContext,
    ) -> torch.Tensor:
        split = (attn.heads, -1)
        query = attn.norm_q(attn.to_q(hidden_states)).unflatten(2, split)
        key = attn.norm_k(attn.to_k(hidden_states)).unflatten(2, split)
        value = attn.to_v(hidden_states).unflatten(2, split)
        if looking.memory.record:
            looking.layers.append(LayerQKV(query, key, value))
        seen, values, bias = apply_rope(key, looking.turns), value, None
        recalled = looking.memory.read(self.layer)
        if recalled is not None:
            seen = torch.cat([recalled.turned(looking.rope, looking.times), seen], 1)
            values = torch.cat([recalled.values, value], 1)
            bias = _padded(recalled.bias, key.shape[1])
        out = attend(apply_rope(query, looking.turns), seen, values, bias).flatten(2)
        return attn.to_out[1](attn.to_out[0](out))


class CrossAttnProcessor:
    """Cross-attention processor: one caption for all frames (B, L, C), or one a frame (B, F, L, C)."""

    def __call__(
        self,
        attn: WanAttention,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        rotary_emb: None = None,
    ) -> torch.Tensor:
        shape, split = hidden_states.shape, (attn.heads, -1)
        if encoder_hidden_states.ndim == 4:
            frames = encoder_hidden_states.shape[1]
            hidden_states = hidden_states.unflatten(1, (frames, -1)).flatten(0, 1)
            encoder_hidden_states = encoder_hidden_states.flatten(0, 1)
        query = attn.norm_q(attn.to_q(hidden_states)).unflatten(2, split)
        key = attn.norm_k(attn.to_k(encoder_hidden_states)).unflatten(2, split)
        value = attn.to_v(encoder_hidden_states).unflatten(2, split)
        out = attend(query, key, value).flatten(2)
        return attn.to_out[1](attn.to_out[0](out)).reshape(shape)


def attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """softmax(q kᵀ / √d + bias) v for (B, T, H, D); bias (T of the keys,)."""
    query, key, value = (x.transpose(1, 2) for x in (query, key, value))
    if query.requires_grad and query.device.type == "cpu":  # the fused kernel's backward is slow on a CPU
        logits = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
        share = (logits if bias is None else logits + bias).softmax(-1)
        return (share.to(value.dtype) @ value).transpose(1, 2)
    mask = None if bias is None else bias.to(query.dtype).expand(query.shape[2], -1)
    return scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2)


def _padded(bias: torch.Tensor | None, new: int) -> torch.Tensor | None:
    """A bias over remembered tokens, with zeros for ``new`` tokens behind it."""
    return None if bias is None else torch.cat([bias, bias.new_zeros(new)])
