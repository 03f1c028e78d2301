"""diffusers' Wan network brought to blockvid's contract; its modules and weights stay as they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from diffusers import WanTransformer3DModel

from blockvid_cli.errors import lookup
from blockvid_cli.models.flow_matching import velocity_from_x0
from blockvid_cli.models.wan.attention import (
    AttentionContext,
    CachedSelfAttnProcessor,
    CrossAttnProcessor,
    KVSource,
    LayerQKV,
    RotaryContextModule,
    located,
)
from blockvid_cli.models.wan.rope import Rope, token_grid

NUM_TIMESTEPS = 1000  # the network's clock: a level of 1 is timestep 1000


class Denoiser(Protocol):
    """What a rollout asks of a network.

    Args:
        x: (B, F, C, H, W) noisy latents of one or more neighbouring blocks.
        level: (F,) or (B, F) noise levels, 1 is noise, 0 is clean.
        context: (B, L, D) one caption for all frames, or (B, F, L, D) one a frame.
        times: (frames remembered + F,) the moment each frame is said to be at.
        memory: what may be looked back at.

    Returns:
        The velocity (B, F, C, H, W), noise minus clean, and each layer's un-rotated queries, keys and values; of these
        none where the memory is not recording, for they are many times what a pass needs.
    """

    def __call__(
        self, x: torch.Tensor, level: torch.Tensor, context: torch.Tensor, times: torch.Tensor, memory: KVSource
    ) -> tuple[torch.Tensor, list[LayerQKV]]: ...


Parameterization = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
PARAMETERIZATIONS: dict[str, Parameterization] = {"velocity": lambda x, out, level: out, "clean": velocity_from_x0}


class WanDenoiser:
    """A ``WanTransformer3DModel`` with its rotary module and self-attention processors replaced from outside.

    A network with more channels in than out gets fixed coordinate channels beside the latents (the bundled model).

    Args:
        network: taken over: its rotary module and processors are replaced.
        predicts: what the network's output is: the "velocity", or the "clean" latents it leads to.
    """

    def __init__(self, network: WanTransformer3DModel, predicts: str = "velocity") -> None:
        self.network = network
        self.reading = lookup("network.predicts", PARAMETERIZATIONS, predicts)
        config = network.config
        self.patch: tuple[int, int, int] = tuple(config["patch_size"])
        self.rope = Rope(config["attention_head_dim"])
        self.extra: int = config["in_channels"] - config["out_channels"]
        self.places = RotaryContextModule()
        network.rope = self.places
        for number, block in enumerate(network.blocks):
            block.attn1.set_processor(CachedSelfAttnProcessor(number))
            block.attn2.set_processor(CrossAttnProcessor())

    def __call__(
        self, x: torch.Tensor, level: torch.Tensor, context: torch.Tensor, times: torch.Tensor, memory: KVSource
    ) -> tuple[torch.Tensor, list[LayerQKV]]:
        """See ``Denoiser``."""
        frames, height, width = x.shape[1], x.shape[3] // self.patch[1], x.shape[4] // self.patch[2]
        past = len(times) - frames
        turns = self.rope.cos_sin(located(token_grid(frames, height, width), times[past:]), x.device)
        looking = AttentionContext(self.rope, turns, memory, times[:past])
        self.places.looking = looking
        latents = self._with_coordinates(x).transpose(1, 2).to(self.dtype)
        out = self.evaluate(latents, level.expand(len(x), -1), context.to(self.dtype))
        self.places.looking = None
        return self.reading(x, out.transpose(1, 2).float(), level.view(*level.shape, 1, 1, 1)), looking.layers

    def evaluate(self, latents: torch.Tensor, level: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        """The network's output for latents (B, C, F, H, W), levels (B, F) and captions."""
        tokens = latents.shape[3] * latents.shape[4] // (self.patch[1] * self.patch[2])
        return self.network(latents, timestep(level, tokens), context, return_dict=False)[0]

    @property
    def dtype(self) -> torch.dtype:
        """What the network computes in; its sensitive modules may be in float32 all the same."""
        return self.network.patch_embedding.weight.dtype

    def _with_coordinates(self, x: torch.Tensor) -> torch.Tensor:
        if not self.extra:
            return x
        channels = coordinate_channels(self.extra, *x.shape[3:]).to(x)
        return torch.cat([x, channels.expand(*x.shape[:2], -1, -1, -1)], 2)


def timestep(level: torch.Tensor, tokens: int) -> torch.Tensor:
    """Levels (B, F) as timesteps: (B,) where a row's frames share one, else one a token (B, F·tokens)."""
    levels = level.float() * NUM_TIMESTEPS
    if torch.equal(levels, levels[:, :1].expand_as(levels)):
        return levels[:, 0]
    return levels.repeat_interleave(tokens, 1)


def coordinate_channels(count: int, height: int, width: int) -> torch.Tensor:
    """Fixed channels (count, H, W) that tell where on the picture a latent lies: sines and cosines of x and y."""
    y = torch.linspace(-1, 1, height)[:, None].expand(height, width)
    x = torch.linspace(-1, 1, width)[None].expand(height, width)
    angles = [axis * torch.pi * (k + 0.5) for k in range(-(-count // 4)) for axis in (x, y)]
    return torch.stack([wave(angle) for angle in angles for wave in (torch.sin, torch.cos)][:count])
