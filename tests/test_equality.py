"""Ours = theirs on the same weights: diffusers' networks, Self Forcing without a cache, SkyReels' step matrix."""

from __future__ import annotations

import pytest
import torch
from diffusers import WanTransformer3DModel

from blockvid_cli.models.card import find_card
from blockvid_cli.models.flow_matching import shifted
from blockvid_cli.models.skyreels import SkyReelsDenoiser
from blockvid_cli.models.wan.denoiser import WanDenoiser
from blockvid_cli.rollout.kv_cache.base import View
from blockvid_cli.rollout.noise import gaussian
from blockvid_cli.rollout.recipe import make_recipe, merge_recipes
from blockvid_cli.rollout.rollout import Rollout, RolloutSegment
from blockvid_cli.rollout.schedules.matrix import MatrixSchedule
from tests import tiny_wan
from tests.small import plan

ROWS, COLUMNS = 4, 6  # latent pixels
LATENT = (16, ROWS, COLUMNS)


def tokens(rows: int = 1) -> torch.Tensor:
    return torch.randn(rows, 7, 32, generator=torch.Generator().manual_seed(4))


@torch.inference_mode()
@pytest.mark.parametrize("levels", [(0.8, 0.8, 0.8, 0.8), (1.0, 0.75, 0.5, 0.02)])
def test_a_wan_network_is_diffusers(levels):
    x = torch.randn(2, 4, *LATENT)
    level = torch.tensor(levels)
    times = (1000 * level).repeat_interleave(ROWS * COLUMNS // 4).expand(2, -1)
    theirs = tiny_wan.network()(x.transpose(1, 2), times, tokens(2), return_dict=False)[0].transpose(1, 2)
    ours, _ = WanDenoiser(tiny_wan.network())(x, level, tokens(2), torch.arange(4.0), View())
    assert torch.allclose(ours, theirs, atol=1e-5)


@torch.inference_mode()
@pytest.mark.parametrize("fps", [16, 24])
@pytest.mark.parametrize("levels", [(0.8, 0.8, 0.8, 0.8), (1.0, 0.75, 0.5, 0.02)])
def test_a_skyreels_network_is_diffusers(levels, fps):
    x = torch.randn(2, 4, *LATENT)
    level = torch.tensor(levels)
    theirs = tiny_wan.network("skyreels")(
        x.transpose(1, 2),
        (1000 * level).expand(2, -1),
        tokens(2),
        enable_diffusion_forcing=True,
        fps=[0 if fps == 16 else 1],
        return_dict=False,
    )[0].transpose(1, 2)
    drawn_by = SkyReelsDenoiser(tiny_wan.network("skyreels"), fps=fps)
    ours, _ = drawn_by(x, level, tokens(2), torch.arange(4.0), View())
    assert torch.allclose(ours, theirs, atol=1e-5)
    other, _ = SkyReelsDenoiser(tiny_wan.network("skyreels"), fps=40 - fps)(
        x, level, tokens(2), torch.arange(4.0), View()
    )
    assert not torch.allclose(ours, other, atol=1e-4)


def test_self_forcings_steps_are_its_warped_timesteps():
    listed = find_card("self-forcing").recipe["steps"]
    warped = [1000 * shifted(step / 1000, 5.0) for step in (1000, 750, 500, 250)]
    assert warped == pytest.approx([1000, 937.5, 833.3333, 625], abs=1e-3)
    assert [1000 * level for level in listed] == pytest.approx(warped, abs=1e-9)


class Uncached:
    """Self Forcing told plainly: every pass shows the whole past again, clean, in one sequence under a causal mask."""

    def __init__(self, network: WanTransformer3DModel, block: int, window: int) -> None:
        self.network, self.block, self.window = network, block, window

    def velocity(self, past: list[torch.Tensor], x: torch.Tensor, level: float, context: torch.Tensor) -> torch.Tensor:
        """Of a block ``x`` (F, C, H, W) after clean blocks: each block sees those before it inside the window."""
        blocks = [*past, x]
        levels = torch.tensor([0.0] * len(past) + [level])
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

        timestep = (1000 * levels).repeat_interleave(self.block * per_frame)[None]
        torch.nn.functional.scaled_dot_product_attention = masked
        try:
            out = self.network(frames, timestep, context, return_dict=False)[0]
        finally:
            torch.nn.functional.scaled_dot_product_attention = original
        return out[0].transpose(0, 1)[-self.block :]


@torch.inference_mode()
@pytest.mark.parametrize("window", [21, 9])
def test_self_forcing_is_its_recipe_without_a_cache(window):
    film = plan((5, 4), 3, ["a swan", "a swan"])
    film = type(film)(film.chunks, film.blocks, 16.0, (48, 32), LATENT, film.frames, film.seed, ())
    values = merge_recipes(find_card("self-forcing").recipe, {"kv_cache": {"window": window}})
    recipe, ours = make_recipe(values), WanDenoiser(tiny_wan.network())
    rollout = Rollout(film, recipe.kv_cache(), ours.rope, ours.patch, lambda blocks: tokens())
    moments = rollout.run([RolloutSegment(film.blocks, recipe, ours)])
    drawn = {block.number: latents for moment in moments for block, latents in moment.finished}

    theirs = Uncached(tiny_wan.network(), 3, window)
    past: list[torch.Tensor] = []
    for block in film.blocks:
        chunk = film.chunks[block.chunk - 1].blocks
        x = recipe.noise(block, range(chunk[0].first, chunk[-1].first + 3), film.seed, LATENT)
        for now, then in zip(recipe.sigmas, recipe.sigmas[1:], strict=False):
            clean = x - now * theirs.velocity(past, x, now, tokens())
            noise = gaussian(tuple(x.shape), "renoise", block.seed, block.number, round(then, 6))
            x = (1 - then) * clean + then * noise if then else clean
        assert torch.allclose(drawn[block.number], x, atol=1e-4), f"block {block.number}"
        past.append(x)


def rows(schedule: MatrixSchedule, blocks: int, ready: int = 0) -> list[str]:
    """The schedule as SkyReels writes it: a digit a block, 0 is untouched noise, 5 done; four steps."""
    levels = (1.0, 0.75, 0.5, 0.25, 0.0)
    state = ["5"] * ready + ["0"] * (blocks - ready)
    out = []
    for step in schedule.steps(blocks, levels):
        for block, then in zip(step.blocks, step.sigma_next, strict=True):
            if block in step.moving:
                state[block] = str(levels.index(then) + 1) if then else "5"
        for block, now in zip(step.blocks, step.sigma, strict=True):
            if block in step.moving:
                state[block] = str(levels.index(now) + 1)
        out.append("".join(state))
        for block, then in zip(step.blocks, step.sigma_next, strict=True):
            if block in step.moving and then == 0:
                state[block] = "5"
    return out


def test_skyreels_matrix_has_its_golden_rows():
    assert rows(MatrixSchedule(6, 0), 6) == ["111111", "222222", "333333", "444444"]
    golden = "100000 200000 310000 420000 531000 542000 553100 554200 555310 555420 555531 555542 555553 555554"
    assert rows(MatrixSchedule(6, 0, lag=2), 6) == golden.split()
    later = rows(MatrixSchedule(6, 2), 10)[4:]
    assert [row[4:] for row in later] == ["551111", "552222", "553333", "554444"]


def test_a_window_of_the_matrix_is_never_wider_than_it_says():
    levels = tuple(1 - i / 8 for i in range(9))
    for schedule in (MatrixSchedule(5, 1), MatrixSchedule(5, 2), MatrixSchedule(4, 0, lag=2), MatrixSchedule(5, 0, lag=3)):
        steps = list(schedule.steps(17, levels))
        assert max(len(step.blocks) for step in steps) <= schedule.window
        assert all(list(step.blocks) == list(range(step.blocks[0], step.blocks[-1] + 1)) for step in steps)
        reached = {b for s in steps for b, then in zip(s.blocks, s.sigma_next, strict=True) if then == 0 and b in s.moving}
        assert reached == set(range(17))


@torch.inference_mode()
def test_a_held_block_is_shown_and_not_moved():
    film = plan((4, 3), 2, ["a", "a"])
    film = type(film)(film.chunks, film.blocks, 24.0, (48, 32), LATENT, film.frames, film.seed, ())
    shown = []

    class Watching(SkyReelsDenoiser):
        def __call__(self, x, level, context, times, memory):
            shown.append((x.clone(), level.clone(), times.clone()))
            return super().__call__(x, level, context, times, memory)

    ours = Watching(tiny_wan.network("skyreels"))
    how = {"schedule": {"name": "matrix", "window": 4, "overlap": 1, "context_sigma": 0.02}, "steps": 3}
    recipe = make_recipe(merge_recipes(find_card("skyreels-v2-df-1.3b").recipe, how))
    rollout = Rollout(film, recipe.kv_cache(), ours.rope, ours.patch, lambda blocks: tokens())
    drawn = {}
    for moment in rollout.run([RolloutSegment(film.blocks, recipe, ours)]):
        drawn |= {block.number: latents for block, latents in moment.finished}
    assert sorted(drawn) == list(range(7)) and len(shown) == 6  # two windows of three steps, nothing committed
    x, level, times = shown[3]
    assert level.tolist()[:2] == pytest.approx([0.02, 0.02]) and level[2] == 1 and times.tolist() == list(range(8))
    assert torch.allclose(x[0, :2], drawn[3], atol=0.1) and not torch.equal(x[0, :2], shown[4][0][0, :2])


@torch.inference_mode()
def test_a_resumed_matrix_is_the_uninterrupted_one():
    film = plan((4, 3), 2, ["a", "a"])
    film = type(film)(film.chunks, film.blocks, 24.0, (48, 32), LATENT, film.frames, film.seed, ())
    ours = SkyReelsDenoiser(tiny_wan.network("skyreels"))
    how = {"schedule": {"name": "matrix", "window": 4, "overlap": 1, "context_sigma": 0.02}, "steps": 3}
    recipe = make_recipe(merge_recipes(find_card("skyreels-v2-df-1.3b").recipe, how))

    def draw(done):
        rollout = Rollout(film, recipe.kv_cache(), ours.rope, ours.patch, lambda blocks: tokens())
        moments = rollout.run([RolloutSegment(film.blocks, recipe, ours)], done)
        return {block.number: latents for moment in moments for block, latents in moment.finished}

    whole = draw({})
    again = draw({number: whole[number] for number in range(4)})
    assert all(torch.equal(again[number], whole[number]) for number in whole)
