"""Ours = theirs on the same weights: diffusers' networks, Self Forcing without a cache, SkyReels' step matrix."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from diffusers import WanTransformer3DModel

from blockvid_cli.models.card import find_card
from blockvid_cli.models.flow_matching import shift_sigmas
from blockvid_cli.models.skyreels import SkyReelsDenoiser
from blockvid_cli.models.wan.denoiser import WanDenoiser
from blockvid_cli.rollout.kv_cache.base import KVView
from blockvid_cli.rollout.noise import gaussian
from blockvid_cli.rollout.recipe import make_recipe, merge_recipes
from blockvid_cli.rollout.rollout import Rollout
from blockvid_cli.rollout.schedules.matrix import MatrixSchedule
from tests import small, tiny_wan

ROWS, COLUMNS = 4, 6  # latent pixels
LATENT = (16, ROWS, COLUMNS)
MATRIX = {"schedule": {"name": "matrix", "window": 4, "overlap": 1, "context_sigma": 0.02}, "steps": 3}


def film_of(blocks_a_chunk: tuple[int, ...], frames: int):
    """A plan of Wan's latent size, of chunks with one caption."""
    return replace(small.plan(blocks_a_chunk, frames, ["a swan"] * len(blocks_a_chunk)), latent=LATENT)


def latents_of(film, recipe, denoiser, done=None) -> dict[int, torch.Tensor]:
    """Clean latents by block number."""
    rollout = Rollout(film, recipe.kv_cache(), denoiser.rope, denoiser.patch, lambda blocks: tokens())
    results = rollout.run(small.segments(film, recipe, denoiser), done)
    return {block.number: latents for result in results for block, latents in result.finished}


def tokens(rows: int = 1) -> torch.Tensor:
    return torch.randn(rows, 7, 32, generator=torch.Generator().manual_seed(4))


@torch.inference_mode()
@pytest.mark.parametrize("sigmas", [(0.8, 0.8, 0.8, 0.8), (1.0, 0.75, 0.5, 0.02)])
def test_a_wan_network_is_diffusers(sigmas):
    x = torch.randn(2, 4, *LATENT)
    sigma = torch.tensor(sigmas)
    timestep = (1000 * sigma).repeat_interleave(ROWS * COLUMNS // 4).expand(2, -1)
    theirs = tiny_wan.network()(x.transpose(1, 2), timestep, tokens(2), return_dict=False)[0].transpose(1, 2)
    ours, _ = WanDenoiser(tiny_wan.network())(x, sigma, tokens(2), torch.arange(4.0), KVView())
    assert torch.allclose(ours, theirs, atol=1e-5)


@torch.inference_mode()
@pytest.mark.parametrize("fps", [16, 24])
@pytest.mark.parametrize("sigmas", [(0.8, 0.8, 0.8, 0.8), (1.0, 0.75, 0.5, 0.02)])
def test_a_skyreels_network_is_diffusers(sigmas, fps):
    x = torch.randn(2, 4, *LATENT)
    sigma = torch.tensor(sigmas)
    theirs = tiny_wan.network("skyreels")(
        x.transpose(1, 2),
        (1000 * sigma).expand(2, -1),
        tokens(2),
        enable_diffusion_forcing=True,
        fps=[0 if fps == 16 else 1],
        return_dict=False,
    )[0].transpose(1, 2)
    denoiser = SkyReelsDenoiser(tiny_wan.network("skyreels"), fps=fps)
    ours, _ = denoiser(x, sigma, tokens(2), torch.arange(4.0), KVView())
    assert torch.allclose(ours, theirs, atol=1e-5)
    other, _ = SkyReelsDenoiser(tiny_wan.network("skyreels"), fps=40 - fps)(
        x, sigma, tokens(2), torch.arange(4.0), KVView()
    )
    assert not torch.allclose(ours, other, atol=1e-4)


def test_self_forcings_steps_are_its_warped_timesteps():
    listed = find_card("self-forcing").recipe["steps"]
    warped = [1000 * shift_sigmas(step / 1000, 5.0) for step in (1000, 750, 500, 250)]
    assert warped == pytest.approx([1000, 937.5, 833.3333, 625], abs=1e-3)
    assert [1000 * level for level in listed] == pytest.approx(warped, abs=1e-9)


class Uncached:
    """Self Forcing told plainly: every pass shows the whole past again, clean, in one sequence under a causal mask."""

    def __init__(self, network: WanTransformer3DModel, block: int, window: int) -> None:
        self.network, self.block, self.window = network, block, window

    def velocity(self, past: list[torch.Tensor], x: torch.Tensor, level: float, context: torch.Tensor) -> torch.Tensor:
        """Of a block ``x`` (F, C, H, W) after clean blocks: each block sees those before it inside the window."""
        blocks = [*past, x]
        sigmas = torch.tensor([0.0] * len(past) + [level])
        frames = torch.cat(blocks)[None].transpose(1, 2)
        per_frame = ROWS * COLUMNS // 4
        owner = torch.arange(len(blocks)).repeat_interleave(self.block * per_frame)
        frame = torch.arange(len(blocks) * self.block).repeat_interleave(per_frame)
        last = (owner + 1) * self.block  # of the looking block, exclusive
        mask = (owner[None] <= owner[:, None]) & (frame[None] >= last[:, None] - self.window)
        original = torch.nn.functional.scaled_dot_product_attention

        def masked(query, key, value, *rest, **options):
            options["attn_mask"] = mask if key.shape[-2] == len(owner) else options.get("attn_mask")
            return original(query, key, value, **options)

        timestep = (1000 * sigmas).repeat_interleave(self.block * per_frame)[None]
        torch.nn.functional.scaled_dot_product_attention = masked
        try:
            out = self.network(frames, timestep, context, return_dict=False)[0]
        finally:
            torch.nn.functional.scaled_dot_product_attention = original
        return out[0].transpose(0, 1)[-self.block :]


@torch.inference_mode()
@pytest.mark.parametrize("window", [21, 9])
def test_self_forcing_is_its_recipe_without_a_cache(window):
    film = film_of((5, 4), 3)
    values = merge_recipes(find_card("self-forcing").recipe, {"kv_cache": {"window": window}})
    recipe, ours = make_recipe(values), WanDenoiser(tiny_wan.network())
    clean = latents_of(film, recipe, ours)
    theirs = Uncached(tiny_wan.network(), 3, window)
    past: list[torch.Tensor] = []
    for block in film.blocks:
        x = recipe.noise(block, film, {})
        for sigma, sigma_next in itertools.pairwise(recipe.sigmas):
            x0 = x - sigma * theirs.velocity(past, x, sigma, tokens())
            noise = gaussian(tuple(x.shape), "renoise", block.seed, block.number, round(sigma_next, 6))
            x = (1 - sigma_next) * x0 + sigma_next * noise if sigma_next else x0
        assert torch.allclose(clean[block.number], x, atol=1e-4), f"block {block.number}"
        past.append(x)


def rows(schedule: MatrixSchedule, count: int) -> list[str]:
    """The schedule as SkyReels writes it: a digit a block, 0 is untouched noise, 5 finished; four steps."""
    sigmas = (1.0, 0.75, 0.5, 0.25, 0.0)
    state, out = ["0"] * count, []
    for step in schedule.steps(small.plan((count,)).blocks, sigmas, ()):
        for number, sigma, _ in step.moves:
            state[number] = str(sigmas.index(sigma) + 1)
        out.append("".join(state))
        for number, _, sigma_next in step.moves:
            state[number] = state[number] if sigma_next else "5"
    return out


def test_skyreels_matrix_has_its_golden_rows():
    assert rows(MatrixSchedule(6, 0), 6) == ["111111", "222222", "333333", "444444"]
    golden = "100000 200000 310000 420000 531000 542000 553100 554200 555310 555420 555531 555542 555553 555554"
    assert rows(MatrixSchedule(6, 0, lag=2), 6) == golden.split()
    later = rows(MatrixSchedule(6, 2), 10)[4:]
    assert [row[4:] for row in later] == ["551111", "552222", "553333", "554444"]


def test_a_window_of_the_matrix_is_never_wider_than_it_says():
    sigmas, film = tuple(1 - i / 8 for i in range(9)), small.plan((17,))
    for schedule in (
        MatrixSchedule(5, 1),
        MatrixSchedule(5, 2),
        MatrixSchedule(4, 0, lag=2),
        MatrixSchedule(5, 0, lag=3),
    ):
        steps = list(schedule.steps(film.blocks, sigmas, ()))
        assert max(len(step.blocks) for step in steps) <= schedule.window
        assert all(list(step.blocks) == list(range(step.blocks[0], step.blocks[-1] + 1)) for step in steps)
        reached = {number for step in steps for number, _, sigma_next in step.moves if sigma_next == 0}
        assert reached == set(range(17))


@torch.inference_mode()
def test_a_context_block_is_attended_to_and_does_not_move():
    film = film_of((4, 3), 2)
    passes = []

    class Watching(SkyReelsDenoiser):
        def __call__(self, x, sigma, prompt, positions, view):
            passes.append((x.clone(), sigma.clone(), positions.clone()))
            return super().__call__(x, sigma, prompt, positions, view)

    recipe = make_recipe(merge_recipes(find_card("skyreels-v2-df-1.3b").recipe, MATRIX))
    clean = latents_of(film, recipe, Watching(tiny_wan.network("skyreels")))
    assert sorted(clean) == list(range(7)) and len(passes) == 6  # two windows of three steps, and no cache update
    x, sigma, positions = passes[3]
    assert sigma.tolist()[:2] == pytest.approx([0.02, 0.02]) and sigma[2] == 1
    assert positions.tolist() == list(range(8))
    assert torch.allclose(x[0, :2], clean[3], atol=0.1) and not torch.equal(x[0, :2], passes[4][0][0, :2])


@torch.inference_mode()
def test_a_resumed_matrix_is_the_uninterrupted_one():
    film, denoiser = film_of((4, 3), 2), SkyReelsDenoiser(tiny_wan.network("skyreels"))
    recipe = make_recipe(merge_recipes(find_card("skyreels-v2-df-1.3b").recipe, MATRIX))
    whole = latents_of(film, recipe, denoiser)
    resumed = latents_of(film, recipe, denoiser, {number: whole[number] for number in range(4)})
    assert all(torch.equal(resumed[number], whole[number]) for number in whole)
