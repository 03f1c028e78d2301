"""The rollout: cached = recomputed under a mask, lazy, deterministic by seed, resumed = uninterrupted."""

from __future__ import annotations

import pytest
import torch
from diffusers.models.transformers.transformer_wan import WanAttnProcessor
from torch.nn.functional import scaled_dot_product_attention

from blockvid_cli.models.card import find_card
from blockvid_cli.models.wan.attention import LayerQKV, CachedSelfAttnProcessor, attend
from blockvid_cli.models.wan.rope import apply_rope
from blockvid_cli.rollout.guidance import GuidedDenoiser
from blockvid_cli.rollout.recipe import make_recipe, merge_recipes
from blockvid_cli.rollout.rollout import RolloutSegment, settled_blocks
from blockvid_cli.rollout.schedules.diagonal import DiagonalSchedule
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

        def turn(x):
            return torch.stack(
                [x[..., 0::2] * cos - x[..., 1::2] * sin, x[..., 0::2] * sin + x[..., 1::2] * cos], -1
            ).flatten(-2)

        q, k, v = (y.transpose(1, 2) for y in (turn(q), turn(k), v))
        out = scaled_dot_product_attention(q, k, v, attn_mask=self.mask).transpose(1, 2).flatten(2)
        return attn.to_out[0](out)


def recomputed(film, how, tokens: int) -> dict[int, torch.Tensor]:
    """The same film by one masked full forward a step: block j sees blocks up to j, nothing is cached."""
    network, clean = small.network(), {}
    for block in film.blocks:
        frames = block.first + block.frames
        owner = torch.arange(frames).div(block.frames, rounding_mode="floor").repeat_interleave(tokens)
        for layer in network.blocks:
            layer.attn1.set_processor(MaskedSelfAttention(owner[:, None] >= owner[None]))
        span = film.chunks[block.chunk - 1].blocks
        chunk = range(span[0].first, span[-1].first + span[-1].frames)
        x = how.noise(block, chunk, film.seed, film.latent)
        for now, then in zip(how.levels[:-1], how.levels[1:], strict=True):
            whole = torch.cat([*clean.values(), x])[None].transpose(1, 2)
            level = torch.cat([torch.zeros(block.first), torch.full((block.frames,), now)]) * 1000
            velocity = network(
                whole, level.repeat_interleave(tokens)[None], small.read(film.blocks[:1]), return_dict=False
            )[0].transpose(1, 2)[0, block.first :]
            x = x + (then - now) * velocity
        clean[block.number] = x
    return clean


def test_cached_rollout_equals_one_masked_full_forward():
    film = small.plan((2, 2), frames=2, captions=["the same", "the same"])
    how = small.recipe(steps=3)
    cached = small.film_latents(film, small.denoiser(), how)
    whole = recomputed(film, how, tokens=6)
    worst = max((cached[n] - whole[n]).abs().max() for n in cached)
    assert set(cached) == {0, 1, 2, 3} and worst < 1e-5
    assert cached[3].std() > 0.1


def test_without_memory_the_film_is_another():
    film = small.plan((2, 2), captions=["the same", "the same"])
    all_seen = small.film_latents(film, small.denoiser(), small.recipe())
    little = small.film_latents(film, small.denoiser(), small.recipe(kv_cache={"name": "window", "window": 2, "sink": 0}))
    assert torch.equal(all_seen[0], little[0])
    assert not torch.allclose(all_seen[3], little[3], atol=1e-3)


@pytest.mark.parametrize("solver", ["euler", "renoise", "unipc"])
@pytest.mark.parametrize("cache_update", ["clean", {"name": "context-noise", "sigma": 0.1}])
def test_same_seed_same_film(solver, cache_update):
    film, how = small.plan(), small.recipe(solver=solver, cache_update=cache_update, positions="packed")
    first = small.film_latents(film, small.denoiser(), how)
    second = small.film_latents(film, small.denoiser(), how)
    assert all(torch.equal(first[n], second[n]) for n in first)


@pytest.mark.parametrize("memory", ["full", "window", {"name": "semantic", "recent": 1, "top": 1}])
def test_another_caption_leaves_earlier_chunks_untouched(memory, monkeypatch):
    monkeypatch.setattr("blockvid_cli.rollout.kv_cache.semantic.embed", fake_embed)
    film = small.plan((1, 1, 1, 1))
    how = small.recipe(kv_cache=memory)
    before = small.film_latents(film, small.denoiser(), how)
    after = small.film_latents(small.with_caption(film, 3, "something else"), small.denoiser(), how)
    assert torch.equal(before[0], after[0]) and torch.equal(before[1], after[1])
    assert not torch.equal(before[2], after[2]) and not torch.equal(before[3], after[3])


def fake_embed(captions, model="x"):
    return torch.stack([torch.randn(8, generator=torch.Generator().manual_seed(sum(map(ord, c)))) for c in captions])


SCHEDULES = ["block", "joint", {"name": "diagonal", "lag": 1}, {"name": "diagonal", "lag": 2}]


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("solver", ["euler", "unipc", "renoise"])
@pytest.mark.parametrize("memory", ["full", {"name": "window", "window": 6, "sink": 2}])
def test_resumed_equals_uninterrupted(schedule, solver, memory):
    film, how = small.plan((2, 2)), small.recipe(schedule=schedule, solver=solver, kv_cache=memory)
    whole = small.film_latents(film, small.denoiser(), how)
    for kept in range(5):
        done = {n: whole[n] for n in range(kept)}
        again = small.film_latents(film, small.denoiser(), how, done=done)
        assert all(torch.equal(whole[n], again[n]) for n in whole), kept


@pytest.mark.parametrize("rows", [1, 2])
def test_resumed_equals_uninterrupted_by_the_bundled_recipe(rows, monkeypatch):
    monkeypatch.setattr("blockvid_cli.rollout.kv_cache.semantic.embed", fake_embed)
    values = {**find_card("storybook").recipe, "noise": "shared-base"}
    film, how, inner = small.plan((2, 1, 2, 1, 2)), make_recipe({**values, "steps": 3}), small.denoiser()
    drawn_by = GuidedDenoiser(inner, 2.0) if rows == 2 else inner
    whole = small.film_latents(film, drawn_by, how, rows, inner)
    for kept in (1, 4, 7):
        again = small.film_latents(film, drawn_by, how, rows, inner, done={n: whole[n] for n in range(kept)})
        assert all(torch.equal(whole[n], again[n]) for n in whole), kept


class RotatingOnWriting(CachedSelfAttnProcessor):
    """Keys are remembered already rotated to the times at which they were drawn, as the published systems do."""

    def __call__(self, attn, hidden_states, encoder_hidden_states, attention_mask, looking):
        split = (attn.heads, -1)
        query = attn.norm_q(attn.to_q(hidden_states)).unflatten(2, split)
        key = apply_rope(attn.norm_k(attn.to_k(hidden_states)).unflatten(2, split), looking.turns)
        value = attn.to_v(hidden_states).unflatten(2, split)
        looking.layers.append(LayerQKV(query, key, value))
        recalled, keys, values = looking.memory.read(self.layer), key, value
        if recalled is not None:
            keys, values = torch.cat([recalled.keys, key], 1), torch.cat([recalled.values, value], 1)
        return attn.to_out[0](attend(apply_rope(query, looking.turns), keys, values).flatten(2))


@pytest.mark.parametrize("memory", ["full", {"name": "window", "window": 6, "sink": 2}])
def test_keys_rotated_on_reading_draw_the_film_of_keys_rotated_on_writing(memory):
    film, how = small.plan((2, 2)), small.recipe(kv_cache=memory, positions="absolute")
    on_reading, writer = small.film_latents(film, small.denoiser(), how), small.denoiser()
    for number, block in enumerate(writer.network.blocks):
        block.attn1.set_processor(RotatingOnWriting(number))
    on_writing = small.film_latents(film, writer, how)
    assert max((on_reading[n] - on_writing[n]).abs().max() for n in on_reading) < 1e-5
    packed = small.film_latents(film, writer, small.recipe(kv_cache=memory, positions="packed"))
    if memory != "full":
        assert (on_reading[3] - packed[3]).abs().max() > 1e-3


def test_resuming_draws_only_what_is_missing():
    film, fake = small.plan((2, 2)), small.FakeDenoiser()
    whole = small.film_latents(film, fake, small.recipe(steps=3))
    assert len(fake.levels) == 4 * (3 + 1)  # three steps and a commit a block
    fake = small.FakeDenoiser()
    small.film_latents(film, fake, small.recipe(steps=3), done={n: whole[n] for n in (0, 1, 2)})
    assert len(fake.levels) == 3 * 1 + 4


def test_settled_blocks_of_a_staircase():
    steps = list(DiagonalSchedule(2).steps(3, (1.0, 0.75, 0.5, 0.25, 0.0)))
    assert settled_blocks(steps, {0, 1}) == set()
    assert settled_blocks(steps, {0, 1, 2}) == {0, 1, 2}
    assert settled_blocks(list(DiagonalSchedule(4).steps(3, (1.0, 0.75, 0.5, 0.25, 0.0))), {0, 1}) == {0, 1}


def test_moments_come_as_they_are_drawn():
    film, fake = small.plan((2, 2)), small.FakeDenoiser()
    moments = small.rollout(film, fake, small.recipe().kv_cache()).run([RolloutSegment(film.blocks, small.recipe(), fake)])
    first = next(moments)
    assert len(fake.levels) == 1 and first.blocks[0].number == 0 and not first.finished
    second, third = next(moments), next(moments)
    assert [round(m.progress, 2) for m in (first, second, third)] == [0.33, 0.67, 1.0]
    assert third.finished[0][0].number == 0 and len(fake.levels) == 4


def test_euler_lands_where_the_velocity_points():
    film = small.plan()
    drawn = small.film_latents(film, small.FakeDenoiser(goal=0.5), small.recipe(steps=4))
    assert all(torch.allclose(latents, torch.full_like(latents, 0.5), atol=1e-4) for latents in drawn.values())


@pytest.mark.parametrize("solver", ["renoise", "unipc"])
def test_other_solvers_land_there_too(solver):
    drawn = small.film_latents(small.plan(), small.FakeDenoiser(goal=0.5), small.recipe(steps=4, solver=solver))
    assert all(torch.allclose(latents, torch.full_like(latents, 0.5), atol=1e-2) for latents in drawn.values())


def test_guidance_of_one_draws_the_same_film_as_none():
    film, how = small.plan(), small.recipe()
    none = small.film_latents(film, small.denoiser(), how)
    inner = small.denoiser()
    one = small.film_latents(film, GuidedDenoiser(inner, 1.0), how, rows=2, inner=inner)
    more = small.film_latents(film, GuidedDenoiser(inner, 4.0), how, rows=2, inner=inner)
    assert all(torch.allclose(none[n], one[n], atol=1e-5) for n in none)
    assert not torch.allclose(none[0], more[0], atol=1e-2)


def test_a_chunk_may_have_a_recipe_of_its_own():
    film, plain = small.plan((2, 2)), small.recipe(steps=3)
    finer, fake = small.recipe(steps=5), small.FakeDenoiser()
    runs = [RolloutSegment(film.chunks[0].blocks, plain, fake), RolloutSegment(film.chunks[1].blocks, finer, fake)]
    moments = list(small.rollout(film, fake, plain.kv_cache()).run(runs))
    assert [len([m for m in moments if m.blocks[0].number == n]) for n in range(4)] == [3, 3, 5, 5]


def test_a_commit_alone_sees_nothing_but_itself():
    film = small.plan((1, 1, 1))
    seen = []

    class Watching(small.FakeDenoiser):
        def __call__(self, x, level, context, times, memory):
            seen.append((float(level[0]), memory.read(0) is not None))
            return super().__call__(x, level, context, times, memory)

    small.film_latents(film, Watching(), small.recipe(steps=1, cache_update={"name": "clean", "self_only": True}))
    assert [looked for level, looked in seen if level == 0] == [False, False, False]
    assert [looked for level, looked in seen if level > 0] == [False, True, True]


def test_memory_hears_of_captions_and_cuts():
    from dataclasses import replace

    film = small.plan((1, 2, 1))
    chunks = (*film.chunks[:2], replace(film.chunks[2], cut=True))
    film, heard = replace(film, chunks=chunks), []
    memory = small.recipe().kv_cache()
    memory.on_prompt_change = lambda block: heard.append(("caption", block.number))
    memory.on_cut = lambda block: heard.append(("cut", block.number))
    fake = small.FakeDenoiser()
    list(small.rollout(film, fake, memory).run([RolloutSegment(film.blocks, small.recipe(), fake)]))
    assert heard == [("caption", 1), ("caption", 3), ("cut", 3)]


def test_recipes_are_laid_over_each_other():
    card = {"kv_cache": {"name": "semantic", "top": 2, "tau": 0.98}, "steps": 6, "solver": "euler"}
    assert merge_recipes(card, {"kv_cache": {"top": 3}})["kv_cache"] == {"name": "semantic", "top": 3, "tau": 0.98}
    assert merge_recipes(card, {"kv_cache": {"name": "window", "sink": 1}})["kv_cache"] == {
        "name": "window",
        "sink": 1,
    }
    assert merge_recipes(card, {"kv_cache": "window"}, {"steps": 4})["kv_cache"] == {"name": "window"}
    assert merge_recipes(card, {"kv_cache": "semantic"}) == card
    assert merge_recipes(card, {"solver": {"order": 1}})["solver"] == {"name": "euler", "order": 1}
