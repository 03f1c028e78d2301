"""diffusers' Wan network behind blockvid's denoiser contract; its modules and weights stay as they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, cast

import torch
from torch import nn

from blockvid_cli.errors import lookup
from blockvid_cli.models.flow_matching import velocity_from_x0
from blockvid_cli.models.wan.attention import (
    AttentionContext,
    CachedSelfAttnProcessor,
    CrossAttnProcessor,
    KVSource,
    LayerQKV,
    RotaryContextModule,
)
from blockvid_cli.models.wan.rope import Rope, split_positions, token_grid

if TYPE_CHECKING:
    from diffusers.models.transformers.transformer_skyreels_v2 import SkyReelsV2Transformer3DModel
    from diffusers.models.transformers.transformer_wan import WanTransformer3DModel

NUM_TRAIN_TIMESTEPS = 1000  # of the network: a sigma of 1 is timestep 1000


class Denoiser(Protocol):
    """What a rollout asks of a network.

    Args:
        x: (B, F, C, H, W) noisy latents of one or more neighbouring blocks.
        sigma: (F,) or (B, F) noise levels; 1 is noise, 0 is clean.
        prompt: (B, L, D) one prompt for all frames, or (B, F, L, D) one a frame.
        positions: (cached frames + F,) the temporal position of each frame, or with more axes (``models/wan/rope.py``).
        view: the cached tokens to attend to.

    Returns:
        The velocity (B, F, C, H, W), noise minus clean, and each layer's un-rotated queries, keys and values; none of
        these where the view does not record, because they are many times what a pass needs.
    """

    def __call__(
        self, x: torch.Tensor, sigma: torch.Tensor, prompt: torch.Tensor, positions: torch.Tensor, view: KVSource
    ) -> tuple[torch.Tensor, list[LayerQKV]]: ...


class VideoDenoiser(Denoiser, Protocol):
    """A denoiser with what else is used of a network: its rotation, its patch (frames, rows, columns), its modules."""

    @property
    def rope(self) -> Rope: ...

    @property
    def patch(self) -> tuple[int, int, int]: ...

    @property
    def network(self) -> nn.Module: ...


Parameterization = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]  # (x, output, sigma) -> velocity
PARAMETERIZATIONS: dict[str, Parameterization] = {"velocity": lambda x, out, sigma: out, "clean": velocity_from_x0}


class AttentionModule(Protocol):
    """An attention of diffusers, whose processor can be replaced."""

    def set_processor(self, processor: CachedSelfAttnProcessor | CrossAttnProcessor) -> None: ...


class WanDenoiser:
    """A ``WanTransformer3DModel`` with its rotary module and self-attention processors replaced from outside.

    A network with more channels in than out gets fixed coordinate channels beside the latents (the bundled model).

    Args:
        network: modified: its rotary module and processors are replaced.
        predicts: what the network's output is: the "velocity", or the "clean" latents it leads to.

    Raises:
        UsageError: there is no such parameterization.
    """

    def __init__(
        self, network: WanTransformer3DModel | SkyReelsV2Transformer3DModel, predicts: str = "velocity"
    ) -> None:
        self.network = network
        self.parameterization = lookup("transformer.predicts", PARAMETERIZATIONS, predicts)
        config = network.config
        self.patch: tuple[int, int, int] = tuple(config["patch_size"])
        self.rope = Rope(config["attention_head_dim"])
        self.extra_channels: int = config["in_channels"] - config["out_channels"]
        self.rotary = RotaryContextModule()
        network.add_module("rope", self.rotary)
        for layer in range(config["num_layers"]):
            for name, processor in (("attn1", CachedSelfAttnProcessor(layer)), ("attn2", CrossAttnProcessor())):
                attention = cast("AttentionModule", network.get_submodule(f"blocks.{layer}.{name}"))
                attention.set_processor(processor)

    def __call__(
        self, x: torch.Tensor, sigma: torch.Tensor, prompt: torch.Tensor, positions: torch.Tensor, view: KVSource
    ) -> tuple[torch.Tensor, list[LayerQKV]]:
        """One pass of the network; the context of its attention is gone when it ends, also by an error."""
        context = self._context(x, positions, view)
        latents = self._with_coordinates(x).transpose(1, 2).to(self.dtype)
        self.rotary.context = context
        try:
            out = self.forward(latents, sigma.expand(len(x), -1), prompt.to(self.dtype))
        finally:
            self.rotary.context = None
        velocity = self.parameterization(x, out.transpose(1, 2).float(), sigma.view(*sigma.shape, 1, 1, 1))
        return velocity, [context.recorded[layer] for layer in sorted(context.recorded)]

    def forward(self, latents: torch.Tensor, sigma: torch.Tensor, prompt: torch.Tensor) -> torch.Tensor:
        """The network's output (B, C, F, H, W) for latents of that shape, sigmas (B, F) and prompts."""
        tokens = latents.shape[3] * latents.shape[4] // (self.patch[1] * self.patch[2])
        return self.network(latents, timestep(sigma, tokens), prompt, return_dict=False)[0]

    def _context(self, x: torch.Tensor, positions: torch.Tensor, view: KVSource) -> AttentionContext:
        """The rotation of the new tokens, and what the pass attends to."""
        frames, height, width = x.shape[1], x.shape[3] // self.patch[1], x.shape[4] // self.patch[2]
        cached, new = split_positions(positions, frames)
        cos, sin = self.rope.cos_sin(token_grid(frames, height, width), new, x.device)
        if cos.ndim == 4:  # one a film; under guidance a film has more rows than one
            rows = len(x) // len(cos)
            cos, sin = cos.repeat(rows, 1, 1, 1), sin.repeat(rows, 1, 1, 1)
        return AttentionContext(self.rope, (cos, sin), view, cached)

    @property
    def dtype(self) -> torch.dtype:
        """What the network computes in; its sensitive modules may still be in float32."""
        return self.network.patch_embedding.weight.dtype

    def _with_coordinates(self, x: torch.Tensor) -> torch.Tensor:
        if not self.extra_channels:
            return x
        channels = coordinate_channels(self.extra_channels, *x.shape[3:]).to(x)
        return torch.cat([x, channels.expand(*x.shape[:2], -1, -1, -1)], 2)


def timestep(sigma: torch.Tensor, tokens: int) -> torch.Tensor:
    """Sigmas (B, F) as timesteps: (B,) where a row's frames share one, else one a token (B, F·tokens)."""
    timesteps = sigma.float() * NUM_TRAIN_TIMESTEPS
    if torch.equal(timesteps, timesteps[:, :1].expand_as(timesteps)):
        return timesteps[:, 0]
    return timesteps.repeat_interleave(tokens, 1)


def coordinate_channels(count: int, height: int, width: int) -> torch.Tensor:
    """Fixed channels (count, H, W) that say where in the frame a latent lies: sines and cosines of x and y."""
    y = torch.linspace(-1, 1, height)[:, None].expand(height, width)
    x = torch.linspace(-1, 1, width)[None].expand(height, width)
    angles = [axis * torch.pi * (k + 0.5) for k in range(-(-count // 4)) for axis in (x, y)]
    return torch.stack([wave(angle) for angle in angles for wave in (torch.sin, torch.cos)][:count])
