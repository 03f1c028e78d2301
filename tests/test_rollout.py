"""The rollout: cached = recomputed under a mask, lazy, deterministic by seed, resumed = uninterrupted."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from diffusers.models.transformers.transformer_wan import WanAttnProcessor
from torch.nn.functional import scaled_dot_product_attention

from blockvid_cli.models.card import find_card
from blockvid_cli.models.wan.attention import CachedSelfAttnProcessor, LayerQKV, attend
from blockvid_cli.models.wan.rope import apply_rope
from blockvid_cli.rollout.guidance import GuidedDenoiser
from blockvid_cli.rollout.recipe import make_recipe, merge_recipes, segment_blocks
from blockvid_cli.rollout.rollout import ReorderBuffer
from blockvid_cli.rollout.schedules.block import DiagonalSchedule, InfillSchedule
from tests import small


class MaskedSelfAttention(WanAttnProcessor):
    """diffusers' own processor arithmetic with a mask over the whole sequence: no cache anywhere."""

    def __init__(self, mask: torch.Tensor) -> None:
        self.mask = mask

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, rotary_emb=None):
        split = (attn.heads, -1)
        q = attn.norm_q(attn.to_q(hidden_states)).unflatten(2, split)
        k = attn.norm_k(attn.to_k(hidden_states)).unflatten(2, split)
        v = attn.to_v(hidden_states).unflatten(2, split)
        cos, sin = rotary_emb[0][..., 0::2], rotary_emb[1][..., 1::2]

        def rotate(x):
            return torch.stack(
                [x[..., 0::2] * cos - x[..., 1::2] * sin, x[..., 0::2] * sin + x[..., 1::2] * cos], -1
            ).flatten(-2)

        q, k, v = (y.transpose(1, 2) for y in (rotate(q), rotate(k), v))
        out = scaled_dot_product_attention(q, k, v, attn_mask=self.mask).transpose(1, 2).flatten(2)
        return attn.to_out[0](out)


def recomputed(film, recipe, tokens: int) -> dict[int, torch.Tensor]:
    """The same film by one masked full forward a step: block j sees blocks up to j, nothing is cached."""
    network, clean = small.network(), {}
    for block in film.blocks:
        frames = block.first + block.frames
        owner = torch.arange(frames).div(block.frames, rounding_mode="floor").repeat_interleave(tokens)
        for layer in network.blocks:
            layer.attn1.set_processor(MaskedSelfAttention(owner[:, None] >= owner[None]))
        x = recipe.noise(block, film, {})
        for sigma, sigma_next in itertools.pairwise(recipe.sigmas):
            whole = torch.cat([*clean.values(), x])[None].transpose(1, 2)
            timestep = torch.cat([torch.zeros(block.first), torch.full((block.frames,), sigma)]) * 1000
            velocity = network(
                whole, timestep.repeat_interleave(tokens)[None], small.read(film.blocks[:1]), return_dict=False
            )[0].transpose(1, 2)[0, block.first :]
            x = x + (sigma_next - sigma) * velocity
        clean[block.number] = x
    return clean


def test_cached_rollout_equals_one_masked_full_forward():
    film = small.plan((2, 2), frames=2, captions=["the same", "the same"])
    recipe = small.recipe(steps=3)
    cached = small.film_latents(film, small.denoiser(), recipe)
    whole = recomputed(film, recipe, tokens=6)
    worst = max((cached[n] - whole[n]).abs().max() for n in cached)
    assert set(cached) == {0, 1, 2, 3} and worst < 1e-5
    assert cached[3].std() > 0.1


def test_with_less_context_the_film_is_another():
    film = small.plan((2, 2), captions=["the same", "the same"])
    full = small.film_latents(film, small.denoiser(), small.recipe())
    window = small.recipe(kv_cache={"name": "window", "window": 2, "sink": 0})
    little = small.film_latents(film, small.denoiser(), window)
    assert torch.equal(full[0], little[0])
    assert not torch.allclose(full[3], little[3], atol=1e-3)


@pytest.mark.parametrize("solver", ["euler", "renoise", "unipc"])
@pytest.mark.parametrize("cache_update", ["clean", {"name": "context-noise", "sigma": 0.1}, "last-step"])
def test_same_seed_same_film(solver, cache_update):
    film, recipe = small.plan(), small.recipe(solver=solver, cache_update=cache_update, positions="packed")
    first = small.film_latents(film, small.denoiser(), recipe)
    second = small.film_latents(film, small.denoiser(), recipe)
    assert all(torch.equal(first[n], second[n]) for n in first)


@pytest.mark.parametrize("kv_cache", ["full", "window", {"name": "semantic", "recent": 1, "top": 1}])
def test_another_caption_leaves_earlier_chunks_as_they_are(kv_cache, monkeypatch):
    monkeypatch.setattr("blockvid_cli.rollout.kv_cache.semantic.embed", fake_embed)
    film, recipe = small.plan((1, 1, 1, 1)), small.recipe(kv_cache=kv_cache)
    before = small.film_latents(film, small.denoiser(), recipe)
    after = small.film_latents(small.with_caption(film, 3, "something else"), small.denoiser(), recipe)
    assert torch.equal(before[0], after[0]) and torch.equal(before[1], after[1])
    assert not torch.equal(before[2], after[2]) and not torch.equal(before[3], after[3])


def fake_embed(captions, model="x"):
    return torch.stack([torch.randn(8, generator=torch.Generator().manual_seed(sum(map(ord, c)))) for c in captions])


SCHEDULES = ["block", "joint", {"name": "diagonal", "lag": 1}, {"name": "diagonal", "lag": 2}]
MATRIX = {"name": "matrix", "window": 2, "overlap": 1}


def assert_resumes(film, recipe, counts, denoiser=None, rows=1, inner=None) -> None:
    """The film of which the first blocks come from an earlier render is the film rendered at once."""
    denoiser = denoiser or small.denoiser()
    whole = small.film_latents(film, denoiser, recipe, rows, inner)
    for count in counts:
        resumed = small.film_latents(film, denoiser, recipe, rows, inner, done={n: whole[n] for n in range(count)})
        assert all(torch.equal(whole[n], resumed[n]) for n in whole), count


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("solver", ["euler", "unipc", "renoise"])
@pytest.mark.parametrize("kv_cache", ["full", {"name": "window", "window": 6, "sink": 2}])
def test_resumed_equals_uninterrupted(schedule, solver, kv_cache):
    film = small.plan((2, 2), cuts=[False, False])
    assert_resumes(film, small.recipe(schedule=schedule, solver=solver, kv_cache=kv_cache), range(5))


@pytest.mark.parametrize("schedule", [*SCHEDULES, MATRIX])
@pytest.mark.parametrize("kv_cache", ["full", "none"])
def test_a_film_with_a_cut_resumes(schedule, kv_cache):
    film = small.plan((2, 2), cuts=[False, True])
    assert_resumes(film, small.recipe(schedule=schedule, kv_cache=kv_cache), range(5))


@pytest.mark.parametrize("schedule", ["block", "joint"])
def test_a_film_cached_from_last_steps_resumes(schedule):
    film = small.plan((2, 2))
    assert_resumes(film, small.recipe(schedule=schedule, cache_update="last-step"), range(5))


@pytest.mark.parametrize("rows", [1, 2])
def test_resumed_equals_uninterrupted_by_the_bundled_recipe(rows, monkeypatch):
    monkeypatch.setattr("blockvid_cli.rollout.kv_cache.semantic.embed", fake_embed)
    values = {**find_card("storybook").recipe, "noise": "shared-base"}
    film, recipe, inner = small.plan((2, 1, 2, 1, 2)), make_recipe({**values, "steps": 3}), small.denoiser()
    denoiser = GuidedDenoiser(inner, 2.0) if rows == 2 else inner
    assert_resumes(film, recipe, (1, 4, 7), denoiser, rows, inner)


class RotatingOnWriting(CachedSelfAttnProcessor):
    """Keys are cached already rotated to the positions at which they were generated, as the published systems do."""

    def __call__(self, attn, hidden_states, encoder_hidden_states, attention_mask, context):
        split = (attn.heads, -1)
        query = attn.norm_q(attn.to_q(hidden_states)).unflatten(2, split)
        key = apply_rope(attn.norm_k(attn.to_k(hidden_states)).unflatten(2, split), context.cos_sin)
        value = attn.to_v(hidden_states).unflatten(2, split)
        context.recorded[self.layer] = LayerQKV(query, key, value)
        cached, keys, values = context.view.read(self.layer), key, value
        if cached is not None:
            keys, values = torch.cat([cached.keys, key], 1), torch.cat([cached.values, value], 1)
        return attn.to_out[0](attend(apply_rope(query, context.cos_sin), keys, values).flatten(2))


@pytest.mark.parametrize("kv_cache", ["full", {"name": "window", "window": 6, "sink": 2}])
def test_keys_rotated_on_reading_give_the_film_of_keys_rotated_on_writing(kv_cache):
    film, recipe = small.plan((2, 2)), small.recipe(kv_cache=kv_cache, positions="absolute")
    on_reading, writer = small.film_latents(film, small.denoiser(), recipe), small.denoiser()
    for number, block in enumerate(writer.network.blocks):
        block.attn1.set_processor(RotatingOnWriting(number))
    on_writing = small.film_latents(film, writer, recipe)
    assert max((on_reading[n] - on_writing[n]).abs().max() for n in on_reading) < 1e-5
    packed = small.film_latents(film, writer, small.recipe(kv_cache=kv_cache, positions="packed"))
    if kv_cache != "full":
        assert (on_reading[3] - packed[3]).abs().max() > 1e-3


def test_resuming_denoises_only_what_is_missing():
    film, fake = small.plan((2, 2)), small.FakeDenoiser()
    whole = small.film_latents(film, fake, small.recipe(steps=3))
    assert len(fake.sigmas) == 4 * (3 + 1)  # three steps and a cache update a block
    fake = small.FakeDenoiser()
    small.film_latents(film, fake, small.recipe(steps=3), done={n: whole[n] for n in (0, 1, 2)})
    assert len(fake.sigmas) == 3 * 1 + 4


def test_a_cache_update_from_the_last_step_makes_no_pass_more():
    fake = small.FakeDenoiser()
    small.film_latents(small.plan((2, 2)), fake, small.recipe(steps=3, cache_update="last-step"))
    assert len(fake.sigmas) == 4 * 3 and (0, 0) not in fake.sigmas


def test_settled_blocks_of_a_diagonal():
    sigmas, blocks = (1.0, 0.75, 0.5, 0.25, 0.0), small.plan((3,)).blocks
    short, long = DiagonalSchedule(2), DiagonalSchedule(4)
    steps = list(short.steps(blocks, sigmas, ()))
    assert short.settled(steps, {0, 1}) == set()
    assert short.settled(steps, {0, 1, 2}) == {0, 1, 2}
    assert long.settled(list(long.steps(blocks, sigmas, ())), {0, 1}) == {0, 1}


def test_results_come_one_by_one():
    film, fake, recipe = small.plan((2, 2)), small.FakeDenoiser(), small.recipe()
    results = small.rollout(film, fake, recipe.kv_cache()).run(small.segments(film, recipe, fake))
    first = next(results)
    assert len(fake.sigmas) == 1 and first.blocks[0].number == 0 and not first.finished
    second, third = next(results), next(results)
    assert [round(m.progress, 2) for m in (first, second, third)] == [0.33, 0.67, 1.0]
    assert third.finished[0][0].number == 0 and len(fake.sigmas) == 4


def test_euler_ends_where_the_velocity_points():
    film = small.plan()
    clean = small.film_latents(film, small.FakeDenoiser(goal=0.5), small.recipe(steps=4))
    assert all(torch.allclose(latents, torch.full_like(latents, 0.5), atol=1e-4) for latents in clean.values())


@pytest.mark.parametrize("solver", ["renoise", "unipc"])
def test_other_solvers_end_there_too(solver):
    clean = small.film_latents(small.plan(), small.FakeDenoiser(goal=0.5), small.recipe(steps=4, solver=solver))
    assert all(torch.allclose(latents, torch.full_like(latents, 0.5), atol=1e-2) for latents in clean.values())


def test_guidance_of_one_gives_the_same_film_as_none():
    film, recipe = small.plan(), small.recipe()
    none = small.film_latents(film, small.denoiser(), recipe)
    inner = small.denoiser()
    one = small.film_latents(film, GuidedDenoiser(inner, 1.0), recipe, rows=2, inner=inner)
    more = small.film_latents(film, GuidedDenoiser(inner, 4.0), recipe, rows=2, inner=inner)
    assert all(torch.allclose(none[n], one[n], atol=1e-5) for n in none)
    assert not torch.allclose(none[0], more[0], atol=1e-2)


def test_a_chunk_may_have_a_recipe_of_its_own():
    film, fake, plain, finer = small.plan((2, 2)), small.FakeDenoiser(), small.recipe(steps=3), small.recipe(steps=5)
    parts = small.segments(film, [plain, finer], fake)
    results = list(small.rollout(film, fake, plain.kv_cache()).run(parts))
    assert [len([r for r in results if r.blocks[0].number == n]) for n in range(4)] == [3, 3, 5, 5]


def test_a_self_only_cache_update_attends_to_nothing_else():
    film, passes = small.plan((1, 1, 1)), []

    class Watching(small.FakeDenoiser):
        def __call__(self, x, sigma, prompt, positions, view):
            passes.append((float(sigma[0]), view.read(0) is not None))
            return super().__call__(x, sigma, prompt, positions, view)

    small.film_latents(film, Watching(), small.recipe(steps=1, cache_update={"name": "clean", "self_only": True}))
    assert [attends for sigma, attends in passes if sigma == 0] == [False, False, False]
    assert [attends for sigma, attends in passes if sigma > 0] == [False, True, True]


def test_the_cache_is_notified_of_prompts_and_cuts():
    film, events = small.plan((1, 2, 1), cuts=[False, False, True]), []
    cache, fake = small.recipe().kv_cache(), small.FakeDenoiser()
    cache.on_prompt_change = lambda block: events.append(("prompt", block.number))
    cache.on_cut = lambda block: events.append(("cut", block.number))
    list(small.rollout(film, fake, cache).run(small.segments(film, small.recipe(), fake)))
    assert events == [("prompt", 1), ("prompt", 3), ("cut", 3)]


def test_recipes_are_merged_part_by_part():
    card = {"kv_cache": {"name": "semantic", "top": 2, "tau": 0.98}, "steps": 6, "solver": "euler"}
    assert merge_recipes(card, {"kv_cache": {"top": 3}})["kv_cache"] == {"name": "semantic", "top": 3, "tau": 0.98}
    assert merge_recipes(card, {"kv_cache": {"name": "window", "sink": 1}})["kv_cache"] == {
        "name": "window",
        "sink": 1,
    }
    assert merge_recipes(card, {"kv_cache": "window"}, {"steps": 4})["kv_cache"] == {"name": "window"}
    assert merge_recipes(card, {"kv_cache": "semantic"}) == card
    assert merge_recipes(card, {"solver": {"order": 1}})["solver"] == {"name": "euler", "order": 1}


@pytest.mark.parametrize("schedule", [*SCHEDULES, MATRIX])
def test_a_cut_separates_two_shots_without_a_cache(schedule):
    plain, cut = small.plan((2, 2)), small.plan((2, 2), cuts=[False, True])
    recipe = small.recipe(schedule=schedule, kv_cache="none")
    joined, separate = (small.film_latents(film, small.denoiser(), recipe) for film in (plain, cut))
    other = small.film_latents(small.with_caption(cut, 1, "else"), small.denoiser(), recipe)
    assert all(torch.equal(separate[n], other[n]) for n in (2, 3))  # the second shot knows nothing of the first
    if schedule != "block":  # which shows nothing of one block to another without a cache
        assert not torch.equal(joined[2], separate[2])


@pytest.mark.parametrize("schedule", [MATRIX, {"name": "matrix", "window": 3, "overlap": 0, "lag": 1}, "joint"])
def test_a_recipe_of_its_own_does_not_sever_a_film_without_a_cache(schedule):
    film = small.plan((2, 2, 2))
    plain = small.recipe(schedule=schedule, kv_cache="none")
    finer = small.recipe(schedule=schedule, kv_cache="none", steps=[1.0, 0.6, 0.3])
    first = small.film_latents(film, small.denoiser(), [plain, finer, finer])
    other = small.film_latents(small.with_caption(film, 1, "else"), small.denoiser(), [plain, finer, finer])
    assert not torch.equal(first[2], other[2])  # the second recipe's first block attends to the first recipe's last


def test_chunks_of_equal_recipes_are_one_segment():
    film = small.plan((1, 1, 1, 1))
    recipes = [small.recipe(steps=steps) for steps in (3, 5, 5, 3)]
    assert recipes[1] == recipes[2] and recipes[1] is not recipes[2]
    assert [[b.number for b in blocks] for blocks, _ in segment_blocks(film.blocks, recipes)] == [[0], [1, 2], [3]]


@pytest.mark.parametrize("positions", ["absolute", "packed"])
def test_every_block_of_a_chunk_between_neighbours_attends_to_what_follows(positions):
    film, recipe = small.plan((1, 3, 1)), small.recipe(positions=positions)
    infill = replace(recipe, schedule=InfillSchedule())
    first = small.film_latents(film, small.denoiser(), recipe)
    kept = {0: first[0], 4: first[4]}
    between = small.film_latents(film, small.denoiser(), [recipe, infill, recipe], done=kept)
    other = small.film_latents(film, small.denoiser(), [recipe, infill, recipe], done={**kept, 4: first[4] + 1})
    assert not any(torch.allclose(between[n], other[n], atol=1e-3) for n in (1, 2, 3))
    assert torch.equal(between[4], first[4]) and torch.equal(between[0], first[0])


def test_what_follows_has_honest_positions():
    film, recipe = small.plan((1, 3, 1)), small.recipe(positions="packed", steps=1)
    infill, positions_of = replace(recipe, schedule=InfillSchedule()), {}

    class Watching(small.FakeDenoiser):
        def __call__(self, x, sigma, prompt, positions, view):
            if x.shape[1] == 4:
                positions_of[len(view.frames)] = (positions[len(view.frames) :]).tolist()
            return super().__call__(x, sigma, prompt, positions, view)

    done = {n: torch.zeros(2, *small.LATENT) for n in (0, 4)}
    small.film_latents(film, Watching(), [recipe, infill, recipe], done=done)
    assert positions_of == {2: [2, 3, 8, 9], 4: [4, 5, 8, 9], 6: [6, 7, 8, 9]}


def test_blocks_are_handed_on_in_the_order_of_the_film():
    blocks, buffer = small.plan((5,)).blocks, ReorderBuffer()
    handed_on = [[b.number for b, _ in buffer.push(blocks[n], torch.zeros(1))] for n in (0, 4, 2, 1, 3)]
    assert handed_on == [[0], [], [], [1, 2], [3, 4]]
