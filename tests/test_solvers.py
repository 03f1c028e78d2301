"""Solvers follow the path of their block, whatever its sigmas, or refuse it with a sentence."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import pytest
import torch

from blockvid_cli.errors import UsageError
from blockvid_cli.rollout.schedules.block import BlockSchedule
from blockvid_cli.rollout.schedules.step import Schedule, Step
from blockvid_cli.rollout.solvers import SOLVERS, UniPC
from tests import small

SIGMAS = (1.0, 0.75, 0.5, 0.25, 0.0)


def no_noise(sigma: float) -> torch.Tensor:
    return torch.zeros(1, 2, 4, 4, 6)


@dataclass(frozen=True)
class EverySecond(Schedule):
    """A schedule cut short: it leaves out every second sigma of the recipe."""

    def steps(self, blocks, sigmas, before):
        yield from BlockSchedule().steps(blocks, (*sigmas[:-1:2], 0.0), before)


@pytest.mark.parametrize("solver", ["euler", "renoise", "unipc"])
def test_a_schedule_cut_short_ends_clean(solver):
    recipe = replace(small.recipe(steps=6, solver=solver), schedule=EverySecond())
    recipe.check(small.plan().blocks)
    clean = small.film_latents(small.plan(), small.FakeDenoiser(goal=0.5), recipe)
    assert all(torch.allclose(latents, torch.full_like(latents, 0.5), atol=1e-2) for latents in clean.values())


def test_unipc_is_the_same_for_a_path_and_for_a_recipe_of_its_sigmas():
    """A recipe of six steps of which a schedule takes every second is the recipe of those three steps."""
    film, whole = small.plan(), small.recipe(steps=[1.0, 0.9, 0.8, 0.6, 0.4, 0.2], solver="unipc")
    short = small.film_latents(film, small.denoiser(), replace(whole, schedule=EverySecond()))
    listed = small.film_latents(film, small.denoiser(), small.recipe(steps=[1.0, 0.8, 0.4], solver="unipc"))
    assert all(torch.equal(short[n], listed[n]) for n in listed)


def test_unipc_refuses_a_sigma_it_was_not_begun_for():
    step, x = UniPC().begin(SIGMAS, no_noise), torch.zeros(1, 2, 4, 4, 6)
    x = step(x, x, 1.0, 0.75)
    with pytest.raises(UsageError, match=r"cannot step from 0\.5 to 0\.25"):
        step(x, x, 0.5, 0.25)


def test_unipc_refuses_to_step_on_after_its_last_sigma():
    step, x = UniPC().begin((1.0, 0.0), no_noise), torch.zeros(1, 2, 4, 4, 6)
    step(x, x, 1.0, 0.0)
    with pytest.raises(UsageError, match="cannot step"):
        step(x, x, 0.5, 0.25)


@pytest.mark.parametrize("path", [(1.0, 0.5), (1.0, 0.5, 0.75, 0.0)])
def test_unipc_refuses_a_path_that_does_not_fall_to_0(path):
    with pytest.raises(UsageError, match="fall to 0"):
        UniPC().begin(path, no_noise)


@dataclass(frozen=True)
class Listed(Schedule):
    """The sigmas of a block, whatever the recipe says."""

    path: tuple[float, ...]

    def steps(self, blocks, sigmas, before):
        for block in blocks:
            for sigma, sigma_next in itertools.pairwise(self.path):
                yield Step((block.number,), (sigma,), (sigma_next,))


@pytest.mark.parametrize(
    ("path", "solver", "words"),
    [
        ((1.0, 0.5), "euler", "from sigma 1 to 0; its steps are 1, 0.5"),
        ((0.8, 0.0), "euler", "from sigma 1 to 0; its steps are 0.8, 0"),
        ((1.0,), "euler", "its steps are nothing"),
        ((1.0, 0.5, 0.75, 0.0), "unipc", "fall to 0; the schedule asks for 1, 0.5, 0.75, 0"),
    ],
)
def test_a_plan_that_cannot_be_followed_is_refused_before_anything_is_denoised(path, solver, words):
    recipe = replace(small.recipe(solver=solver), schedule=Listed(path))
    with pytest.raises(UsageError, match=words) as refusal:
        recipe.check(small.plan().blocks)
    assert refusal.value.exit_code == 2


@pytest.mark.parametrize("solver", ["euler", "renoise"])
def test_sigmas_that_are_not_in_the_recipe_are_followed(solver):
    recipe = replace(small.recipe(steps=2, solver=solver), schedule=Listed((1.0, 0.83, 0.31, 0.0)))
    recipe.check(small.plan().blocks)
    film, fake = small.plan((1,)), small.FakeDenoiser()
    results = list(small.rollout(film, fake, recipe.kv_cache()).run(small.segments(film, recipe, fake)))
    progress = [result.progress for result in results]
    assert [sigmas[0] for sigmas in fake.sigmas] == [1.0, 0.83, 0.31, 0.0]
    assert progress == sorted(progress) and 0 < progress[0] < progress[1] < 1 and progress[2] == 1
    assert results[-1].finished


def test_progress_is_even_over_the_recipes_steps():
    recipe = small.recipe(steps=4, shift=3.0)
    assert [recipe.progress(sigma) for sigma in recipe.sigmas] == pytest.approx([0, 0.25, 0.5, 0.75, 1])


@pytest.mark.parametrize("name", SOLVERS)
def test_a_batch_is_stepped_like_its_films(name):
    generator = torch.Generator().manual_seed(0)
    x, velocities = (torch.randn(*shape, 3, 2, 4, 4, 6, generator=generator) for shape in ((), (4,)))
    noise = torch.randn(3, 2, 4, 4, 6, generator=generator)

    def solve(rows: slice) -> torch.Tensor:
        step, latents = SOLVERS[name]().begin(SIGMAS, lambda sigma: noise[rows]), x[rows]
        for velocity, pair in zip(velocities, itertools.pairwise(SIGMAS), strict=True):
            latents = step(latents, velocity[rows], *pair)
        return latents

    whole = solve(slice(None))
    assert all(torch.allclose(whole[i], solve(slice(i, i + 1))[0], atol=1e-6) for i in range(3))
