"""The rollout's contracts: parts written only to try them, with no change outside themselves and a table; gradients."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from functools import partial

import pytest
import torch

from blockvid_cli.errors import UsageError
from blockvid_cli.models.wan.attention import TokenKV
from blockvid_cli.models.wan.denoiser import WanDenoiser
from blockvid_cli.rollout import recipe as tables
from blockvid_cli.rollout.cache_updates import Clean
from blockvid_cli.rollout.kv_cache.base import FullCache, KVView
from blockvid_cli.rollout.positions import Absolute
from blockvid_cli.rollout.rollout import Rollout
from blockvid_cli.rollout.schedules.block import BlockSchedule
from blockvid_cli.rollout.schedules.step import Schedule
from blockvid_cli.rollout.solvers import Euler
from blockvid_cli.rollout.verifiers import AcceptAll
from tests import small

# Seven parts.


@dataclass(frozen=True)
class MoreStepsFirst(Schedule):
    """The film's first block takes more steps, at sigmas between the recipe's (First-Frame Enhancement)."""

    def steps(self, blocks, sigmas, before):
        halves = [(a + b) / 2 for a, b in itertools.pairwise(sigmas)]
        finer = sorted({*sigmas, *halves}, reverse=True)
        for block in blocks:
            yield from BlockSchedule().steps([block], sigmas if block.number else finer, before)


@dataclass(frozen=True)
class KeyframesFirst(Schedule):
    """The first block of each chunk, then the blocks between them, which attend to the keyframe after them (MMPL)."""

    def steps(self, blocks, sigmas, before):
        keyframes = [block for block in blocks if block.planned.blocks[0] == block]
        order = [*keyframes, *(block for block in blocks if block not in keyframes)]
        yield from BlockSchedule().steps(order, sigmas, before)

    def needs(self, chunk, chunks):
        return [number for number in range(1, chunks + 1) if number != chunk]


class BiasedCache(FullCache):
    """A bias for each head and cached token: half of the heads attend less to older frames (heads that forget)."""

    def __init__(self, slopes: tuple[float, ...] = (0.0, 5.0)) -> None:
        super().__init__()
        self.slopes = slopes

    def view(self, blocks):
        slopes = torch.tensor(self.slopes)

        class View(KVView):
            def read(self, layer, query=None):
                tokens = super().read(layer, query)
                if tokens is None:
                    return None
                age = len(self.frames) - tokens.coordinates[:, 0]
                return TokenKV(tokens.keys, tokens.values, tokens.coordinates, -slopes[:, None] * age)

        return View(self.visible(blocks))


class QueriedCache(FullCache):
    """A layer attends to the quarter of the cached tokens that are most like the new ones' mean query (routed)."""

    def view(self, blocks):
        class View(KVView):
            def read(self, layer, query=None):
                tokens = super().read(layer, query)
                if tokens is None:
                    return None
                likeness = torch.einsum("bthd,bhd->t", tokens.keys, query.mean(1))
                return tokens.select(likeness.topk(max(len(likeness) // 4, 1)).indices.sort().values.cpu())

        return View(self.visible(blocks))


@dataclass(frozen=True)
class Stretched(Absolute):
    """Positions scaled by a factor for each head."""

    factors: tuple[float, ...] = (0.5, 1.0)

    def __call__(self, view, blocks):
        return super().__call__(view, blocks)[:, None, None] * torch.tensor(self.factors, dtype=torch.float64)[:, None]


@dataclass(frozen=True)
class Striding(Euler):
    """Below a sigma no step is made but the last one."""

    above: float = 0.4

    def stride(self, sigmas):
        return tuple(sigma for sigma in sigmas if sigma > self.above or sigma == 0)


@dataclass(frozen=True)
class OnceMore(AcceptAll):
    """Refuses the first attempt at each block."""

    attempts: int = 2

    def accept(self, block, latents, attempt):
        return False


PARTS = [
    ("SCHEDULES", "schedule", MoreStepsFirst, {}),
    ("SCHEDULES", "schedule", KeyframesFirst, {}),
    ("KV_CACHES", "kv_cache", BiasedCache, {"slopes": [0.0, 2.0]}),
    ("KV_CACHES", "kv_cache", QueriedCache, {}),
    ("POSITIONS", "positions", Stretched, {"factors": [0.5, 0.75]}),
    ("SOLVERS", "solver", Striding, {"above": 0.5}),
    ("VERIFIERS", "verifier", OnceMore, {}),
]


def with_part(monkeypatch, table, key, part, options):
    """A recipe with a part that is added to a table by one line."""
    monkeypatch.setitem(getattr(tables, table), "new", part)
    return small.recipe(**{"steps": 4, key: {"name": "new", **options}})


@pytest.mark.parametrize(("table", "key", "part", "options"), PARTS, ids=[part.__name__ for _, _, part, _ in PARTS])
def test_a_new_part_needs_a_table_entry_and_nothing_else(monkeypatch, table, key, part, options):
    film, recipe = small.plan((2, 2, 2)), with_part(monkeypatch, table, key, part, options)
    recipe.check(film.blocks)
    plain = small.film_latents(film, small.denoiser(), small.recipe(steps=4))
    new = small.film_latents(film, small.denoiser(), recipe)
    assert sorted(new) == sorted(plain) and all(torch.isfinite(latents).all() for latents in new.values())
    assert any(not torch.allclose(plain[n], new[n], atol=1e-3) for n in plain)
    resumed = small.film_latents(film, small.denoiser(), recipe, done={n: new[n] for n in (0, 1, 2)})
    assert all(torch.equal(new[n], resumed[n]) for n in new)


def passes(film, recipe) -> list[tuple[tuple[float, ...], int]]:
    """The sigmas of each pass, and how many cached frames it attended to."""
    counts = []

    class Watching(small.FakeDenoiser):
        def __call__(self, x, sigma, prompt, positions, view):
            counts.append((float(sigma[0]), len(view.frames)))
            return super().__call__(x, sigma, prompt, positions, view)

    small.film_latents(film, Watching(), recipe)
    return counts


def test_the_first_block_takes_more_steps(monkeypatch):
    recipe = with_part(monkeypatch, "SCHEDULES", "schedule", MoreStepsFirst, {})
    counts = passes(small.plan((1, 1)), recipe)
    assert [cached for _, cached in counts] == [0] * (8 + 1) + [2] * (4 + 1)


def test_blocks_between_keyframes_attend_to_both(monkeypatch):
    recipe = with_part(monkeypatch, "SCHEDULES", "schedule", KeyframesFirst, {})
    film = small.plan((2, 2))
    fake = small.FakeDenoiser()
    results = list(small.rollout(film, fake, recipe.kv_cache()).run(small.segments(film, recipe, fake)))
    assert [block.number for result in results for block, _ in result.finished] == [0, 2, 1, 3]
    whole = small.film_latents(film, small.denoiser(), recipe)
    other = small.film_latents(small.with_caption(film, 2, "else"), small.denoiser(), recipe)
    assert not torch.equal(whole[1], other[1])  # chunk 2 decides the second block of chunk 1, as needs says


def test_a_striding_solver_skips_passes(monkeypatch):
    recipe = with_part(monkeypatch, "SOLVERS", "solver", Striding, {"above": 0.5})
    plain = small.recipe(steps=4)
    assert recipe.sigmas == tuple(s for s in plain.sigmas if s > 0.5 or s == 0) and len(recipe.sigmas) < 5


def test_a_refused_block_is_generated_again_once_and_cached_once(monkeypatch):
    recipe = with_part(monkeypatch, "VERIFIERS", "verifier", OnceMore, {})
    counts = passes(small.plan((1, 1)), recipe)
    assert [sigma for sigma, _ in counts if sigma == 0] == [0, 0]  # a cache update a block
    assert len(counts) == 2 * (4 + 4 + 1)


@pytest.mark.parametrize("noise", ["independent", {"name": "shared-base", "shuffle": 0}])
@pytest.mark.parametrize("schedule", ["block", "joint"])
def test_another_attempt_is_another_noise(monkeypatch, noise, schedule):
    film = small.plan((1, 1))
    starts = []

    class Watching(small.FakeDenoiser):
        def __call__(self, x, sigma, prompt, positions, view):
            if float(sigma[0]) == 1:
                starts.append(x.clone())
            return super().__call__(x, sigma, prompt, positions, view)

    monkeypatch.setitem(tables.VERIFIERS, "once-more", OnceMore)
    recipe = small.recipe(steps=2, noise=noise, schedule=schedule, verifier="once-more")
    small.film_latents(film, Watching(), recipe)
    assert len(starts) == (4 if schedule == "block" else 2)
    assert all(not torch.allclose(a, b) for a, b in itertools.pairwise(starts))


def test_blocks_finished_one_by_one_beside_others_cannot_be_verified():
    recipe = small.recipe(schedule={"name": "diagonal", "lag": 1}, verifier="not-empty")
    with pytest.raises(UsageError, match="verifier"):
        recipe.check(small.plan((3,)).blocks)


def test_an_empty_block_is_generated_again():
    film, recipe = small.plan((1, 1)), small.recipe(steps=2, verifier={"name": "not-empty", "attempts": 3})
    fake = small.FakeDenoiser(goal=0.0)
    small.film_latents(film, fake, recipe)
    assert len(fake.sigmas) == 2 * (3 * 2 + 1)  # all latents are 0, so each block is generated three times
    varied = small.FakeDenoiser(goal=torch.randn(1, 1, *small.LATENT))
    small.film_latents(film, varied, recipe)
    assert len(varied.sigmas) == 2 * (2 + 1)


def test_options_of_the_wrong_kind_in_a_list_are_refused(monkeypatch):
    with pytest.raises(UsageError, match=r"recipe\.kv_cache\.slopes"):
        with_part(monkeypatch, "KV_CACHES", "kv_cache", BiasedCache, {"slopes": [0.5, "much"]})


@pytest.mark.parametrize(
    ("value", "rows", "scale"),
    [(1.0, 1, None), (3, 2, 3), ({"name": "cfg", "scale": 4.0}, 2, 4.0), ("none", 1, None)],
)
def test_guidance_is_a_number_or_a_part(value, rows, scale):
    guidance = small.recipe(guidance=value).guidance
    assert guidance.rows == rows and (scale is None or guidance.scale == scale)


@pytest.mark.parametrize("value", [101, -1, True, [2], {"name": "cfg", "scale": 1000}, "much"])
def test_guidance_that_makes_no_sense_is_refused(value):
    with pytest.raises(UsageError, match="guidance"):
        small.recipe(guidance=value)


# A finished block can be encoded again under another prompt.


class Recached(FullCache):
    """At a new prompt, everything cached is encoded again under it, from the first block on (LongLive's re-cache)."""

    rollout: Rollout

    def on_prompt_change(self, block):
        prompt, older = self.rollout.embeddings((block,)), dict(sorted(self.entries.items()))
        self.entries = {}
        for number in older:
            past = self.rollout.plan.blocks[number]
            self.update(past, *self.rollout.recompute(past, prompt, self.view((past,))))


def test_a_cache_may_encode_finished_blocks_again_under_another_prompt():
    film, recipe, caches = small.plan((2, 1)), small.recipe(), []

    def latents(make):
        denoiser, cache = small.denoiser(), make()
        caches.append(cache)
        rollout = small.rollout(film, denoiser, cache)
        cache.rollout = rollout
        with torch.inference_mode():
            results = list(rollout.run(small.segments(film, recipe, denoiser)))
        return {block.number: x for result in results for block, x in result.finished}

    plain, recached = latents(FullCache), latents(Recached)
    assert all(torch.equal(plain[n], recached[n]) for n in (0, 1)) and not torch.equal(plain[2], recached[2])
    assert sorted(caches[1].entries) == sorted(caches[0].entries)


# A cache may be updated at other sigmas than that of clean latents.


@dataclass(frozen=True)
class EachStep(Clean):
    """After every step, a block is cached as it is, at the sigma it has reached (HiAR)."""

    sigma = None
    resumable = False

    def due(self, block, sigma, sigma_next):
        return True


@dataclass(frozen=True)
class StepFirst(Schedule):
    """All blocks take the first step, then all the second."""

    def steps(self, blocks, sigmas, before):
        for pair in itertools.pairwise(sigmas):
            yield from BlockSchedule().steps(blocks, pair, before)

    def settled(self, steps, done):
        return done if done.issuperset(number for step in steps for number in step.moving) else set()


def test_a_step_first_film_caches_each_block_at_the_sigma_it_reached():
    film = small.plan((3,))
    recipe = replace(small.recipe(steps=2, shift=1.0), schedule=StepFirst(), cache_update=EachStep())
    counts = passes(film, recipe)
    assert [sigma for sigma, _ in counts] == [1, 0.5, 1, 0.5, 1, 0.5, 0.5, 0, 0.5, 0, 0.5, 0]
    whole = small.film_latents(film, small.denoiser(), recipe)
    resumed = small.film_latents(film, small.denoiser(), recipe, done={0: whole[0]})
    assert all(torch.equal(whole[n], resumed[n]) for n in whole)


# Gradients.


@dataclass(frozen=True)
class Learning(BlockSchedule):
    """The block schedule; the last step of the blocks ``learns`` names keeps its graph."""

    learns: tuple[int, ...] = ()

    def steps(self, blocks, sigmas, before):
        for step in super().steps(blocks, sigmas, before):
            yield replace(step, learn=step.blocks[0] in self.learns and step.sigma_next == (0.0,))


def trained_rollout(learns, solver="euler", **options):
    """A network that is trained, and what its rollout finished."""
    network = small.network().requires_grad_(True)
    if options.get("checkpointing"):
        network.enable_gradient_checkpointing()
    film, denoiser = small.plan((1, 2)), WanDenoiser(network)
    recipe = replace(small.recipe(solver=solver), schedule=Learning(learns))
    rollout = small.rollout(film, denoiser, recipe.kv_cache())
    results = list(rollout.run(small.segments(film, recipe, denoiser)))
    return network, rollout, {block.number: latents for result in results for block, latents in result.finished}


@pytest.mark.parametrize("solver", ["euler", "renoise", "unipc"])
def test_a_loss_on_the_last_block_reaches_every_weight_and_no_earlier_block(solver):
    network, rollout, finished = trained_rollout((1, 2), solver)
    assert finished[0].grad_fn is None and finished[1].grad_fn is not None and finished[2].grad_fn is not None
    finished[1].retain_grad()
    (finished[2] ** 2).mean().backward()
    assert finished[1].grad is None
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().any()] == []
    assert not any(latents.requires_grad for _, latents in rollout.clean_latents.values())


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_without_learning_nothing_holds_a_graph(mode):
    with mode():
        _, rollout, finished = trained_rollout(())
    assert not any(latents.requires_grad for latents in finished.values())
    entries = rollout.kv_cache.entries.values()
    assert not any(entry.layer(0).keys.requires_grad for entry in entries)


def test_cached_keys_hold_no_graph_where_blocks_learn():
    _, rollout, _ = trained_rollout((0, 1, 2))
    assert not any(entry.layer(0).keys.requires_grad for entry in rollout.kv_cache.entries.values())


def test_checkpointing_gives_the_same_gradients():
    gradients = []
    for checkpointing in (False, True):
        network, _, finished = trained_rollout((2,), checkpointing=checkpointing)
        (finished[2] ** 2).mean().backward()
        gradients.append({name: p.grad for name, p in network.named_parameters() if p.grad is not None})
    plain, checkpointed = gradients
    assert plain.keys() == checkpointed.keys()
    assert all(torch.allclose(plain[name], checkpointed[name], atol=1e-6) for name in plain)


# Films of equal layout in one batch.


def films(count: int):
    """Plans of one layout with other prompts and seeds."""
    plans = []
    for number in range(count):
        film = small.plan((1, 2), captions=[f"film {number} begins", f"film {number} ends"])
        chunks = tuple(replace(chunk, seed=chunk.seed + 1000 * number) for chunk in film.chunks)
        plans.append(replace(film, chunks=chunks, seed=film.seed + number))
    return plans


@pytest.mark.parametrize("schedule", ["block", "joint", {"name": "matrix", "window": 2, "overlap": 1}])
@pytest.mark.parametrize(
    ("solver", "noise"), [("euler", "independent"), ("renoise", "shared-base"), ("unipc", "independent")]
)
@pytest.mark.parametrize("rows", [1, 2])
@torch.inference_mode()
def test_a_batch_of_films_is_the_films_one_by_one(schedule, solver, noise, rows):
    plans, inner = films(3), small.denoiser()
    update = {"name": "context-noise", "sigma": 0.1}
    recipe = small.recipe(schedule=schedule, solver=solver, noise=noise, cache_update=update, guidance=float(rows))
    denoiser = recipe.guidance.wrap(inner, rows, in_turn=False)
    rollout = Rollout(
        plans[0], recipe.kv_cache(), inner.rope, (1, 2, 2), partial(small.read, rows=rows), batch=tuple(plans[1:])
    )
    results = list(rollout.run_batch(small.segments(plans[0], recipe, denoiser)))
    batch = {block.number: latents for result in results for block, latents in result.finished}
    for number, plan in enumerate(plans):
        alone = small.film_latents(plan, denoiser, recipe, rows, inner)
        assert all(torch.allclose(batch[n][number], alone[n], atol=1e-4) for n in alone)
    assert not torch.allclose(batch[2][0], batch[2][1], atol=1e-2)


def test_films_of_another_layout_are_refused():
    cut = small.plan((1, 2), cuts=[False, True])
    with pytest.raises(ValueError, match="same blocks"):
        Rollout(small.plan((1, 2)), FullCache(), small.denoiser().rope, (1, 2, 2), small.read, batch=(cut,))
