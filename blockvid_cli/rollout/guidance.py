"""Guidance: how many rows of the batch a film takes, and what the denoiser's velocities of these rows are made into.

    v = v_neg + scale·(v_text - v_neg)      classifier-free guidance: row 0 reads the prompt, row 1 the negative prompt

A row is a film of its own to the network, so the KV cache holds both. Without a cache the rows know nothing of each
other and are denoised one after the other, in half the memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from blockvid_cli.errors import UsageError
from blockvid_cli.models.wan.attention import KVSource, LayerQKV
from blockvid_cli.models.wan.denoiser import Denoiser


@dataclass(frozen=True)
class GuidedDenoiser:
    """Denoises B films by 2·B rows: prompts (2·B, L, D) or (2·B, F, L, D), the films' first, then the negatives."""

    denoiser: Denoiser
    scale: float
    in_turn: bool = False

    def __call__(
        self, x: torch.Tensor, sigma: torch.Tensor, prompt: torch.Tensor, positions: torch.Tensor, view: KVSource
    ) -> tuple[torch.Tensor, list[LayerQKV]]:
        """x and the velocity have B rows, queries, keys and values 2·B."""
        if self.in_turn:
            passes = (self.denoiser(x, sigma, rows, positions, view) for rows in prompt.chunk(2))
            (text, layers), (negative, _) = passes
        else:
            both = sigma.repeat(2, 1) if sigma.ndim == 2 else sigma
            velocity, layers = self.denoiser(torch.cat([x, x]), both, prompt, positions, view)
            text, negative = velocity.chunk(2)
        return negative + self.scale * (text - negative), layers


class Guidance:
    """Rows of the batch a film takes, and the denoiser that makes one film of them."""

    @property
    def rows(self) -> int:
        """1: the prompt; 2: the negative prompt as well."""
        return 1

    def wrap(self, denoiser: Denoiser, rows: int, in_turn: bool) -> Denoiser:
        """A denoiser that reads prompts of ``rows`` rows a film: the most that any chunk of the film asks for.

        Args:
            in_turn: one row after the other, where no KV cache needs both.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class NoGuidance(Guidance):
    """The prompt alone decides."""

    def wrap(self, denoiser: Denoiser, rows: int, in_turn: bool) -> Denoiser:
        """The denoiser itself, or guidance of scale 1 where the KV cache needs two rows."""
        return denoiser if rows == 1 else GuidedDenoiser(denoiser, 1.0, in_turn)


@dataclass(frozen=True)
class ClassifierFree(Guidance):
    """Away from the negative prompt, ``scale`` times as far as the prompt (Ho and Salimans 2022); 1 is no guidance."""

    scale: float = 5.0

    def __post_init__(self) -> None:
        if not 0 <= self.scale <= 100:
            raise UsageError(f"recipe.guidance: this is a number from 0 to 100; not {self.scale!r}.")

    @property
    def rows(self) -> int:
        """Two rows, but for a scale of 1."""
        return 1 if self.scale == 1 else 2

    def wrap(self, denoiser: Denoiser, rows: int, in_turn: bool) -> Denoiser:
        """The denoiser with both rows made into one velocity."""
        return denoiser if rows == 1 else GuidedDenoiser(denoiser, self.scale, in_turn)


GUIDANCES: dict[str, Callable[..., Guidance]] = {"none": NoGuidance, "cfg": ClassifierFree}
