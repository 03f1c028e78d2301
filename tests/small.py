"""Small stand-ins that tests share: a card, a plan, a random Wan network, a denoiser of five lines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from diffusers import WanTransformer3DModel

from blockvid_cli.models.wan.attention import LayerQKV
from blockvid_cli.models.wan.denoiser import WanDenoiser
from blockvid_cli.rollout.recipe import Recipe, make_recipe, segment_blocks
from blockvid_cli.rollout.rollout import Rollout, RolloutSegment
from blockvid_cli.storyboard.plan import Block, Plan, PlannedChunk

RECIPE = {
    "schedule": "block",
    "kv_cache": "full",
    "positions": "absolute",
    "noise": "independent",
    "solver": "euler",
    "cache_update": "clean",
    "steps": 3,
    "shift": 2.0,
    "guidance": 1.0,
}
LATENT = (4, 4, 6)  # channels, rows, columns


def recipe(**changes: object) -> Recipe:
    """The plainest recipe, changed."""
    return make_recipe({**RECIPE, **changes})


def plan(
    blocks_a_chunk: Sequence[int] = (2, 2),
    frames: int = 2,
    captions: Sequence[str] | None = None,
    cuts: Sequence[bool] = (),
) -> Plan:
    """A plan by hand: so many blocks of ``frames`` latents in each chunk; ``cuts`` says which chunks begin a shot."""
    chunks, number, shot = [], 0, 1
    for index, count in enumerate(blocks_a_chunk):
        cut = index < len(cuts) and cuts[index]
        shot += cut
        words = captions[index] if captions else f"caption {index}"
        first, last = number * frames * 4, (number + count) * frames * 4
        chunks.append(
            PlannedChunk(
                number=index + 1,
                shot=shot,
                caption=words,
                prompt=words,
                negative_prompt="",
                start=first / 12,
                end=last / 12,
                first_frame=first,
                end_frame=last,
                first_block=number,
                block_count=count,
                block_frames=frames,
                seed=100 + index,
                cut=cut,
            )
        )
        number += count
    return Plan(chunks=tuple(chunks), fps=12.0, size=(48, 32), latent=LATENT, frames=4 * number * frames - 3, seed=5)


def network(layers: int = 2, extra: int = 0, seed: int = 0) -> WanTransformer3DModel:
    """A random Wan network: 2 heads of 24, so that time, rows and columns share 4, 4 and 4 pairs."""
    torch.manual_seed(seed)
    model = WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=24,
        in_channels=LATENT[0] + extra,
        out_channels=LATENT[0],
        text_dim=16,
        freq_dim=32,
        ffn_dim=64,
        num_layers=layers,
        rope_max_seq_len=64,
    )
    return model.eval().requires_grad_(False)


def denoiser(**options: int) -> WanDenoiser:
    """The small network brought to the contract."""
    return WanDenoiser(network(**options))


def read(blocks: Sequence[Block], rows: int = 1) -> torch.Tensor:
    """Made-up caption tokens, a pure function of the caption: (rows, L, D) or (rows, F, L, D)."""

    def tokens(text: str) -> torch.Tensor:
        return torch.randn(5, 16, generator=torch.Generator().manual_seed(sum(map(ord, text))))

    words = [block.prompt for block in blocks for _ in range(block.frames)]
    if len(set(words)) == 1:
        return torch.stack([tokens(words[0]), tokens("no")][:rows])
    return torch.stack([torch.stack([tokens(w) for w in words]), torch.stack([tokens("no")] * len(words))][:rows])


class FakeDenoiser:
    """Always points at the same clean picture, so that one Euler step lands on it."""

    def __init__(self, goal: float = 0.5) -> None:
        self.goal, self.sigmas = goal, []

    def __call__(self, x, sigma, prompt, positions, view):
        self.sigmas.append(tuple(round(float(v), 4) for v in sigma))
        layer = torch.zeros(x.shape[0], x.shape[1] * 6, 1, 6)
        return (x - self.goal) / sigma.view(1, -1, 1, 1, 1).clamp(min=1e-6), [LayerQKV(layer, layer, layer)]


def rollout(film: Plan, denoiser, kv_cache, rows: int = 1) -> Rollout:
    """A rollout over a plan."""
    from blockvid_cli.models.wan.rope import Rope

    rope = denoiser.rope if isinstance(denoiser, WanDenoiser) else Rope(24)
    return Rollout(film, kv_cache, rope, (1, 2, 2), lambda blocks: read(blocks, rows))


def segments(film: Plan, recipes: Recipe | Sequence[Recipe], denoiser) -> list[RolloutSegment]:
    """The segments of a film by one recipe, or by one for each chunk."""
    each = [recipes] * len(film.chunks) if isinstance(recipes, Recipe) else recipes
    return [RolloutSegment(blocks, recipe, denoiser) for blocks, recipe in segment_blocks(film.blocks, each)]


@torch.inference_mode()
def film_latents(film: Plan, denoiser, recipes, rows: int = 1, inner=None, done=None) -> dict[int, torch.Tensor]:
    """Clean latents by block number of a whole film, by one recipe or by one for each chunk."""
    parts = segments(film, recipes, denoiser)
    results = rollout(film, inner or denoiser, parts[0].recipe.kv_cache(), rows).run(parts, done)
    return {block.number: latents for result in results for block, latents in result.finished}


def with_caption(film: Plan, chunk: int, words: str) -> Plan:
    """The plan with another caption for a chunk (from 1)."""
    chunks = (replace(c, caption=words, prompt=words) if c.number == chunk else c for c in film.chunks)
    return replace(film, chunks=tuple(chunks))
