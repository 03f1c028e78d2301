"""The objectives of post-training: what their gradients reach, and what they are equal to."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import softplus

from blockvid_cli.datasets.films import FilmBatch
from blockvid_cli.errors import UsageError
from blockvid_cli.models.flow_matching import add_noise
from blockvid_cli.models.wan.denoiser import WanDenoiser
from blockvid_cli.training.masked_pass import check_masked, masked_velocity
from blockvid_cli.training.objectives.block_forcing import BlockForcingTarget, FlowTarget, resample
from blockvid_cli.training.objectives.discriminator import Discriminator
from blockvid_cli.training.objectives.dmd import DistributionMatching, DmdConfig, normalised_difference
from blockvid_cli.training.objectives.flow_forcing import FlowForcing, ForcingConfig, drop_context
from blockvid_cli.training.objectives.self_forcing import SelfForcing
from blockvid_cli.training.self_rollout import own_films
from tests.small import LATENT, network, plan, recipe

CAPTIONS = ("a red cat walks", "a blue dog sleeps", "a red cat runs")
SEMANTIC = {"name": "semantic", "recent": 1, "top": 1, "tau": 0.9, "probes": 4}


def batch(films: int = 2, seed: int = 0) -> FilmBatch:
    """Films of three chunks with two blocks of two latents each, of random numbers."""
    generator = torch.Generator().manual_seed(seed)
    prompts = {text: torch.randn(1, 3, 16, generator=generator) for text in CAPTIONS}
    plans = tuple(replace(plan((2, 2, 2), captions=CAPTIONS), seed=film) for film in range(films))
    latents = torch.randn(films, 12, *LATENT, generator=generator)

    def embed(blocks):
        texts = [prompts[block.prompt] for block in blocks for _ in range(block.frames)]
        return prompts[blocks[0].prompt] if len({block.prompt for block in blocks}) == 1 else torch.stack(texts, 1)

    return FilmBatch(plans, latents, embed, numbers=tuple(range(films)))


class Films:
    """Always the same films."""

    def __init__(self, films: int = 2) -> None:
        self.films = batch(films)

    def batch(self, step: int) -> FilmBatch:
        return self.films

    def batches(self, count: int) -> Sequence[FilmBatch]:
        return [self.films]


def forcing(films: int = 2, target: FlowTarget | None = None, kv_cache: object = "full", **config) -> FlowForcing:
    return FlowForcing(
        WanDenoiser(network().train().requires_grad_(True)),
        recipe(kv_cache=kv_cache),
        Films(films),
        ForcingConfig(**{"targets": None, "prompt_dropout": 0.0, **config}),
        target,
        autocast=None,
    )


def gradients(objective: FlowForcing, losses) -> dict[str, torch.Tensor]:
    for loss, _ in losses:
        loss.backward()
    return {n: p.grad.clone() for n, p in objective.denoiser.network.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("kv_cache", ["full", SEMANTIC], ids=["full", "semantic"])
def test_block_forcing_with_gamma_0_is_flow_matching_to_the_last_bit(kv_cache):
    plain = forcing(kv_cache=kv_cache)
    anchored = forcing(kv_cache=kv_cache, target=BlockForcingTarget(gamma=0.0))
    other = forcing(kv_cache=kv_cache, target=BlockForcingTarget(gamma=0.5))
    first, second, third = (gradients(each, each.loss(3, 0.0)) for each in (plain, anchored, other))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], third[name]) for name in first)


def test_the_semantic_reference_is_the_mean_of_the_most_similar_earlier_chunks():
    films = batch()
    target = BlockForcingTarget(top=1, gamma=1.0, formula="paper")
    assert target.similar(films.plan, 3) == (1,)
    block = films.plan.chunks[2].blocks[1]
    noise = torch.zeros(2, 2, *LATENT)
    assert torch.equal(target(films, block, films.block(block), noise), -films.chunk(1)[:, 2:4])
    both = BlockForcingTarget(top=2).references(films, 3)
    assert torch.allclose(both, (films.chunk(1) + films.chunk(2)) / 2)
    assert not both.requires_grad


def test_a_chunk_without_history_has_the_target_of_flow_matching():
    films = batch()
    block = films.plan.blocks[1]
    noise = torch.randn(2, 2, *LATENT)
    for formula in ("anchored", "paper"):
        target = BlockForcingTarget(formula, gamma=0.7)
        assert torch.equal(target(films, block, films.block(block), noise), noise - films.block(block))


def test_latents_are_resampled_in_time():
    ramp = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 2, 1, 1)
    assert torch.allclose(resample(ramp, 7)[:, 0, 0, 0], torch.linspace(0, 3, 7))
    assert resample(ramp, 4) is ramp


def test_teacher_forcing_learns_from_every_target_and_not_through_the_cache():
    whole = forcing()
    total = gradients(whole, whole.loss(0, 0.0))
    assert all(value.abs().sum() > 0 for value in total.values())
    losses = list(forcing().loss(0, 0.0))
    assert len(losses) == 6
    detached = forcing()
    for loss, _ in detached.loss(0, 0.0):
        assert loss.requires_grad
    rollout, segment = detached.rollout(detached.films.batch(0))
    rollout.begin()
    block = rollout.plan.blocks[0]
    rollout.add_finished(segment, block, detached.films.films.block(block))
    assert not rollout.kv_cache.view((rollout.plan.blocks[1],)).read(0).requires_grad


def test_later_targets_depend_on_true_earlier_blocks():
    one, other = forcing(targets=None), forcing(targets=None)
    other.films.films.latents[:, :2] += 1.0
    first = [float(loss.detach()) for loss, _ in one.loss(0, 0.0)]
    second = [float(loss.detach()) for loss, _ in other.loss(0, 0.0)]
    assert all(a != b for a, b in zip(first[1:], second[1:], strict=True))


def test_dropped_context_is_not_attended_to():
    objective = forcing(films=1)
    rollout, segment = objective.rollout(objective.films.batch(0))
    rollout.begin()
    for block in rollout.plan.blocks[:3]:
        rollout.add_finished(segment, block, objective.films.films.block(block))
    view = rollout.kv_cache.view((rollout.plan.blocks[3],))
    tokens = view.read(0).keys.shape[1]
    generator = objective.films.films.random("drop")
    assert drop_context(view, 0.0, 0.0, generator) is view
    thin = drop_context(view, 0.0, 0.5, generator)
    assert 0 < thin.read(0).keys.shape[1] < tokens
    assert torch.equal(thin.read(1).keys, thin.read(1).keys)
    assert len(drop_context(view, 0.99, 0.0, generator).entries) < 3


def test_diffusion_forcing_has_a_sigma_for_every_frame():
    objective = forcing(forcing="diffusion")
    sigma = objective._sigmas(4, 0.5, objective.films.films.random(0))
    assert len(sigma.unique()) == 8 and sigma.max() <= 0.5
    assert len(forcing()._sigmas(4, 1.0, objective.films.films.random(0)).unique()) == 2
    assert gradients(objective, objective.loss(0, 0.0))


def adversarial(films: int = 2) -> SelfForcing:
    torch.manual_seed(1)
    return SelfForcing(forcing(films), Discriminator(WanDenoiser(network(seed=2).requires_grad_(True))))


@pytest.mark.parametrize("exit_step", [0, 1, 2])
def test_self_forcing_reaches_every_weight_through_the_last_step_of_each_block_alone(exit_step):
    objective = adversarial()
    rollout, segment = objective.forcing.rollout(objective.forcing.films.batch(0))
    own = own_films(rollout, segment, exit_step, learn=True)
    assert own.shape == (2, 12, *LATENT)
    gradient = torch.autograd.grad(own.sum(), objective.forcing.denoiser.network.parameters(), allow_unused=True)
    names = [n for n, _ in objective.forcing.denoiser.network.named_parameters()]
    missing = [name for name, value in zip(names, gradient, strict=True) if value is None or not value.abs().sum()]
    assert not missing
    # block 0's output and block 1's do not share a graph: the cache between them is detached
    rollout, segment = objective.forcing.rollout(objective.forcing.films.batch(0))
    leaf = own_films(rollout, segment, exit_step, learn=True)
    assert leaf[:, :2].grad_fn is not None
    for entry in rollout.kv_cache.view((rollout.plan.blocks[-1],)).entries:
        assert not entry.layer(0).requires_grad


def test_only_the_last_frames_of_a_long_film_have_gradients():
    objective = adversarial()
    rollout, segment = objective.forcing.rollout(objective.forcing.films.batch(0))
    finished = []
    from blockvid_cli.training.self_rollout import ExitSchedule, exit_recipe, first_learning_frame

    first = first_learning_frame(rollout.plan, 4)
    assert first == 8
    part = replace(segment, recipe=exit_recipe(segment.recipe, ExitSchedule(1, first)))
    for result in rollout.run_batch([part]):
        finished += [latents.requires_grad for _, latents in result.finished]
    assert finished == [False] * 4 + [True] * 2


def test_an_exit_after_the_last_step_is_the_recipe_itself():
    objective = adversarial()
    films = objective.forcing.films.batch(0)
    rollout, segment = objective.forcing.rollout(films)
    own = own_films(rollout, segment, len(segment.recipe.sigmas) - 2, learn=False)
    rollout, segment = objective.forcing.rollout(films)
    with torch.no_grad():
        plain = torch.cat([x for result in rollout.run_batch([segment]) for _, x in result.finished], 1)
    assert torch.equal(own, plain)


def test_generator_and_discriminator_train_their_own_weights_only():
    objective = adversarial()
    generator, critic = objective.forcing.denoiser.network, objective.discriminator
    for loss, _ in objective.generator_loss(0, 0.0):
        loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in generator.parameters())
    critic.zero_grad(set_to_none=True)
    generator.zero_grad(set_to_none=True)
    for loss, _ in objective.critic_loss(0, 0.0):
        loss.backward()
    assert all(p.grad is None for p in generator.parameters())
    assert all(p.grad is not None for p in objective.discriminator.heads_parameters())


def test_a_discriminator_learns_to_tell_two_kinds_of_films():
    torch.manual_seed(0)
    critic = Discriminator(WanDenoiser(network(seed=2).requires_grad_(True)))
    optimizer = torch.optim.AdamW(critic.parameters(), 1e-3)
    sigma, prompt = torch.full((8, 4), 0.3), torch.zeros(8, 3, 16)
    for _ in range(40):
        real = torch.randn(4, 1, *LATENT).expand(-1, 4, -1, -1, -1)
        films = torch.cat([real, torch.randn(4, 4, *LATENT)])
        logits = critic(add_noise(films, torch.randn_like(films), 0.3), sigma, prompt)
        loss = softplus(-logits[:4]).mean() + softplus(logits[4:]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert (logits[:4] > 0).float().mean() + (logits[4:] < 0).float().mean() > 1.7


class Pixel:
    """A denoiser of films of two pixels: predicts that the clean film is ``value``."""

    def __init__(self, value: float) -> None:
        self.value, self.network = value, network()

    def __call__(self, x, sigma, prompt, positions, view):
        at = sigma.expand(len(x), -1)[..., None, None, None]
        return (x - self.value * (1 + prompt.mean())) / at, []


def test_dmd_gradient_equals_one_written_by_hand():
    objective = forcing()
    matching = DistributionMatching(objective, Pixel(2.0), Pixel(0.5), DmdConfig(guidance=3.0))
    films = objective.films.batch(0)
    films = replace(films, prompts=lambda blocks: torch.ones(1, 3, 16))
    own = torch.tensor([[1.0, -1.0]]).view(1, 1, 2, 1, 1).expand(2, 12, 2, 1, 1)
    gradient = matching.gradient(films, own, films.random(0))
    real, fake = 4.0 + 3.0 * (4.0 - 2.0), 1.0
    expected = (fake - real) / ((abs(1.0 - real) + abs(-1.0 - real)) / 2)
    assert torch.allclose(gradient, torch.full_like(gradient, expected), atol=1e-4)
    assert normalised_difference(own, own, own).abs().sum() == 0


@pytest.mark.parametrize("score", ["joint", "causal"])
def test_dmd_moves_the_generator_and_trains_the_critic_on_its_films(score):
    objective = forcing()
    teacher = WanDenoiser(network(seed=3))
    critic = WanDenoiser(deepcopy(network(seed=3)).requires_grad_(True))
    matching = DistributionMatching(objective, teacher, critic, DmdConfig(score=score))
    for loss, _ in matching.generator_loss(0, 0.0):
        loss.backward()
    assert all(p.grad is not None for p in objective.denoiser.network.parameters())
    assert all(p.grad is None for p in critic.network.parameters())
    for loss, _ in matching.critic_loss(0, 0.0):
        loss.backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in critic.network.parameters())
    assert all(p.grad is None for p in teacher.network.parameters())


@pytest.mark.parametrize("kv_cache", ["full", {"name": "window", "window": 6, "sink": 2}], ids=["full", "window"])
@pytest.mark.parametrize("cuts", [(), (False, True)], ids=["one shot", "a cut"])
def test_the_masked_pass_equals_the_cached_rollout(kv_cache, cuts):
    objective = forcing(kv_cache=kv_cache)
    films = batch()
    plans = tuple(replace(plan((2, 2, 2), captions=CAPTIONS, cuts=cuts), seed=film) for film in range(2))
    films = replace(films, plans=plans)
    sigma = torch.rand(2, 6, generator=torch.Generator().manual_seed(1)).repeat_interleave(2, 1)
    noisy = torch.randn(films.latents.shape, generator=torch.Generator().manual_seed(2))
    rollout, segment = objective.rollout(films)
    rollout.begin()
    with torch.no_grad():
        whole = masked_velocity(objective.denoiser, films, noisy, sigma, objective.recipe)
        for block in films.plan.blocks:
            span = slice(block.first, block.first + block.frames)
            view = rollout.kv_cache.view((block,))
            alone, _ = rollout.denoise(segment, (block,), noisy[:, span], sigma[:, span], view)
            assert torch.allclose(whole[:, span], alone, atol=1e-5)
            rollout.add_finished(segment, block, films.block(block))


def test_a_recipe_whose_context_moves_is_not_trained_in_one_pass():
    objective = forcing(kv_cache=SEMANTIC)
    with pytest.raises(UsageError, match="one masked pass needs"):
        check_masked(objective.recipe)


def test_the_first_block_of_a_window_from_the_middle_is_given_and_not_learned():
    objective = forcing()
    objective.films.films = replace(objective.films.films, opening=False)
    assert len(list(objective.loss(0, 0.0))) == 5
    films = objective.films.batch(0)
    rollout, segment = objective.rollout(films)
    own = own_films(rollout, segment, 1, learn=True, given=films.given())
    assert torch.equal(own[:, :2], films.latents[:, :2])


def test_held_out_losses_are_of_plain_flow_matching_and_the_same_at_each_call():
    objective, other = forcing(target=BlockForcingTarget(gamma=0.9), prompt_dropout=0.5), forcing()
    assert objective.evaluate() == {}
    for each in (objective, other):
        each.held_out = Films()
    assert objective.evaluate() == objective.evaluate() == other.evaluate()


def test_a_film_is_noised_alike_whatever_films_are_beside_it():
    two = batch(2)
    second = replace(two, plans=two.plans[1:], latents=two.latents[1:], numbers=(1,))
    both, alone = two.random("x", 3), second.random("x", 3)
    assert torch.equal(both.normal((4,))[1:], alone.normal((4,)))
    assert torch.equal(both.uniform(2)[1:], alone.uniform(2))
    assert two.with_seeds(both).plans[1:] == second.with_seeds(alone).plans
    assert torch.equal(torch.rand(3, generator=both.shared), torch.rand(3, generator=alone.shared))
