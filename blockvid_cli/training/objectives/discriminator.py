"""The discriminator of Self Forcing's GAN: registers read the layers of a video network, and one number comes out.

    noisy film -> Wan blocks ----- 0.45 ----- 0.72 ----- last      of its own copy of the network, attending to itself
                                    |          |          |
                  register 1 -> attention   register 2  register 3     query: the register; keys and values: the tokens
                                    `-- [concatenated] -> norm -> linear -> SiLU -> linear -> logit

Shape and places as in Self Forcing's code (three registers after layers 13, 21 and 29 of 30, initial deviation 0.02, a
feed-forward layer behind each attention).
"""

from __future__ import annotations

from functools import partial

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from blockvid_cli.models.wan.denoiser import VideoDenoiser
from blockvid_cli.rollout.kv_cache.base import KVView

DEPTHS = (13 / 29, 21 / 29, 1.0)  # of the layers that are read, as shares of the last one's number
UNUSED = ("proj_out", "scale_shift_table")  # of the network: its output is not looked at
HEAD_WIDTH = 64  # about; of the registers' attention


class RegisterAttention(nn.Module):
    """A register attends to the tokens of a layer, then passes a feed-forward layer; both are added to it."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.heads = max(width // HEAD_WIDTH, 1)
        while width % self.heads:
            self.heads -= 1
        self.norm, self.feed_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
        self.value, self.out = nn.Linear(width, width), nn.Linear(width, width)
        self.query_norm, self.key_norm = nn.RMSNorm(width), nn.RMSNorm(width)
        self.feed = nn.Sequential(nn.Linear(width, hidden), nn.GELU("tanh"), nn.Linear(hidden, width))

    def forward(self, register: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """The register (B, 1, D) after reading tokens (B, T, D)."""
        tokens = self.norm(tokens)
        query = self.query_norm(self.query(register)).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        key = self.key_norm(self.key(tokens)).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        value = self.value(tokens).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        read = scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        register = register + self.out(read)
        return register + self.feed(self.feed_norm(register))


class Discriminator(nn.Module):
    """Tells real films from generated ones, both at the same sigma.

    Args:
        denoiser: with a network of its own, a copy of the one that is trained; its weights are trained as well.
    """

    def __init__(self, denoiser: VideoDenoiser) -> None:
        super().__init__()
        self.denoiser, self.network = denoiser, denoiser.network
        for name, value in self.network.named_parameters():
            if name.startswith(UNUSED):
                value.requires_grad_(False)
        blocks = list(self.network.get_submodule("blocks").children())
        width = next(p for name, p in blocks[0].named_parameters() if name == "attn1.to_q.weight").shape[0]
        self.layers = tuple(dict.fromkeys(round(depth * (len(blocks) - 1)) for depth in DEPTHS))
        self.registers = nn.Parameter(0.02 * torch.randn(len(self.layers), width))
        self.register_norm = nn.RMSNorm(width)
        self.readers = nn.ModuleList(RegisterAttention(width, 4 * width) for _ in self.layers)
        self.head = nn.Sequential(
            nn.LayerNorm(len(self.layers) * width),
            nn.Linear(len(self.layers) * width, width),
            nn.SiLU(),
            nn.Linear(width, 1),
        )
        self._tokens: dict[int, torch.Tensor] = {}
        for layer in self.layers:
            blocks[layer].register_forward_hook(partial(self._keep, layer))

    def _keep(self, layer: int, block: nn.Module, inputs: tuple[object, ...], output: torch.Tensor) -> None:
        self._tokens[layer] = output

    def heads_parameters(self) -> list[nn.Parameter]:
        """All weights but the network's."""
        return [value for name, value in self.named_parameters() if not name.startswith("network.")]

    def forward(self, x: torch.Tensor, sigma: torch.Tensor, prompt: torch.Tensor) -> torch.Tensor:
        """A logit (B,) for each film, high for real ones.

        Args:
            x: noisy latents (B, F, C, H, W) of whole films.
            sigma: (B, F), the same for all frames of a film.
            prompt: (B, L, D), or (B, F, L, D) one a frame.
        """
        self._tokens.clear()
        self.denoiser(x, sigma, prompt, torch.arange(x.shape[1], dtype=torch.float64), KVView())
        registers = self.register_norm(self.registers)
        read = [
            reader(register.expand(len(x), 1, -1), self._tokens[layer].float())
            for layer, register, reader in zip(self.layers, registers, self.readers, strict=True)
        ]
        self._tokens.clear()
        return self.head(torch.cat(read, -1))[:, 0, 0]
