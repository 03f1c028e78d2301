"""Noise: pure functions of seeds; the shared base with its shuffled borders; the chunk-level schedules of the paper."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch

from blockvid_cli.errors import UsageError
from blockvid_cli.rollout.noise import Independent, SharedBase, gaussian
from blockvid_cli.storyboard.plan import chunk_seed
from blockvid_cli.training.chunk_noise import EPS_MAX, chunk_sigmas
from tests import small

FILM = small.plan((3, 3, 3), frames=3)


def chunk_noise(noise, number: int, film=FILM) -> torch.Tensor:
    blocks = film.chunks[number - 1].blocks
    return torch.cat([noise(block, film, {}) for block in blocks])


def test_gaussian_noise_depends_on_its_name_alone():
    assert torch.equal(gaussian((3, 4), "a", 1), gaussian((3, 4), "a", 1))
    assert not torch.equal(gaussian((3, 4), "a", 1), gaussian((3, 4), "a", 2))
    many = gaussian((200_000,), "b")
    assert abs(float(many.mean())) < 0.01 and abs(float(many.std()) - 1) < 0.01


def test_independent_frames_differ_everywhere():
    noise = torch.cat([chunk_noise(Independent(), n) for n in (1, 2, 3)])
    flat = noise.flatten(1)
    similarity = (flat @ flat.T / flat.shape[1]).fill_diagonal_(0).abs().max()
    assert similarity < 0.5
    assert not torch.equal(chunk_noise(Independent(), 1), chunk_noise(Independent(), 2))


def test_shared_base_shuffles_only_the_borders():
    noise, plain = SharedBase(shuffle=4), SharedBase(shuffle=0)
    base = chunk_noise(plain, 1)
    assert torch.equal(base, chunk_noise(plain, 2))
    first, middle = noise.order(9, 1, 100), noise.order(9, 2, 101)
    assert first[:5] == [0, 1, 2, 3, 4] and sorted(first[5:]) == [5, 6, 7, 8]
    assert sorted(middle[:4]) == [0, 1, 2, 3] and middle[4] == 4 and sorted(middle[5:]) == [5, 6, 7, 8]
    assert torch.equal(chunk_noise(noise, 2), base[middle])


def test_the_two_sides_of_a_border_are_shuffled_independently():
    orders = {tuple(SharedBase(4).order(9, 2, seed)) for seed in range(60)}
    prefixes, suffixes = {order[:4] for order in orders}, {order[5:] for order in orders}
    assert len(prefixes) > 10 and len(suffixes) > 10


@pytest.mark.parametrize("frames", [1, 2, 3, 5, 7, 8])
def test_shuffle_is_clamped_to_half_the_chunk(frames):
    order = SharedBase(4).order(frames, 2, 3)
    assert sorted(order) == list(range(frames))
    half = min(4, frames // 2)
    assert sorted(order[:half]) == list(range(half))


@pytest.mark.parametrize("noise", [Independent(), SharedBase(4)])
def test_noise_of_a_chunk_depends_on_no_other(noise):
    assert torch.equal(chunk_noise(noise, 2), chunk_noise(noise, 2, film=small.with_caption(FILM, 1, "other")))


def with_take(number: int, take: int):
    """The film with another take of a chunk."""
    seed = chunk_seed(FILM.seed, number, take) if take > 1 else FILM.chunks[number - 1].seed
    chunks = tuple(replace(c, take=take, seed=seed) if c.number == number else c for c in FILM.chunks)
    return replace(FILM, chunks=chunks)


@pytest.mark.parametrize("noise", [Independent(), SharedBase(0), SharedBase(1), SharedBase(4)])
def test_another_take_is_another_noise_in_every_frame(noise):
    takes = [chunk_noise(noise, 2, film=with_take(2, take)) for take in (1, 2, 3)]
    for a, b in itertools.combinations(takes, 2):
        similarity = a.flatten(1) @ b.flatten(1).T / a[0].numel()
        assert similarity.abs().max() < 0.5
    assert torch.equal(takes[0], chunk_noise(noise, 2))
    assert torch.equal(chunk_noise(noise, 1, film=with_take(2, 2)), chunk_noise(noise, 1))


@pytest.mark.parametrize("plain", [Independent(), SharedBase(4)])
def test_only_other_takes_at_the_beginning_of_a_shot_have_mixed_noise(plain):
    """The first take, and every take inside a shot, is bit for bit what it is without one."""
    mixed = replace(plain, take_shared=0.5)
    for number in (1, 2, 3):
        assert torch.equal(chunk_noise(mixed, number), chunk_noise(plain, number))
    inside, first = with_take(2, 2), with_take(1, 2)
    cut = replace(inside, chunks=tuple(replace(c, cut=c.number == 2) for c in inside.chunks))
    assert torch.equal(chunk_noise(mixed, 2, film=inside), chunk_noise(plain, 2, film=inside))
    assert not torch.equal(chunk_noise(mixed, 2, film=cut), chunk_noise(plain, 2, film=cut))
    assert not torch.equal(chunk_noise(mixed, 1, film=first), chunk_noise(plain, 1, film=first))


def test_mixed_noise_has_a_part_that_all_frames_share_and_each_value_stays_normal():
    film = replace(with_take(1, 2), latent=(64, 12, 20))
    noise = chunk_noise(Independent(take_shared=0.5), 1, film=film)
    assert abs(float(noise.std()) - 1) < 0.01 and abs(float(noise.mean())) < 0.02
    similarity = noise.flatten(1) @ noise.flatten(1).T / noise[0].numel()
    assert torch.allclose(similarity, torch.full_like(similarity, 0.5).fill_diagonal_(1), atol=0.03)


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_what_is_no_share_gets_a_sentence(share):
    with pytest.raises(UsageError, match="take_shared is a share"):
        Independent(take_shared=share)


def test_the_first_take_has_the_noise_it_always_had():
    base = gaussian(FILM.latent, "base", FILM.seed, 0)
    assert torch.equal(chunk_noise(SharedBase(0), 3)[0], base)
    assert torch.equal(chunk_noise(Independent(), 3)[4], gaussian(FILM.latent, "frame", FILM.chunks[2].seed, 4))


def test_noise_added_by_a_solver_is_the_chunks_own():
    block = FILM.blocks[4]
    one, other = (Independent().renoise(block, FILM, {}, sigma) for sigma in (0.5, 0.25))
    assert one.shape == (3, *FILM.latent) and not torch.equal(one, other)
    assert torch.equal(one, gaussian((3, *FILM.latent), "renoise", block.seed, 4, 0.5))


def test_eps_max_has_the_published_signal_to_noise_ratio():
    assert pytest.approx(0.003) == ((1 - EPS_MAX) / EPS_MAX) ** 2
    assert pytest.approx(0.948, abs=1e-3) == EPS_MAX


@pytest.mark.parametrize("name", ["cosine", "linear"])
def test_schedules_go_from_min_to_max(name):
    sigmas = chunk_sigmas(name, 7)
    assert sigmas[0] == pytest.approx(0.4) and sigmas[-1] == pytest.approx(EPS_MAX)
    assert all(a < b for a, b in itertools.pairwise(sigmas))


def test_schedules_equal_the_printed_equations():
    low, high, n = 0.2, 0.9, 5
    for c in range(n):
        cosine = low + 0.5 * (high - low) * (1 - math.cos(math.pi * c / (n - 1)))
        linear = low + c / (n - 1) * (high - low)
        sigmoid = low + (high - low) / (1 + math.exp(-7.0 * (c / (n - 1) - 0.5)))
        assert chunk_sigmas("cosine", n, low=low, high=high)[c] == pytest.approx(cosine)
        assert chunk_sigmas("linear", n, low=low, high=high)[c] == pytest.approx(linear)
        assert chunk_sigmas("sigmoid", n, low=low, high=high, alpha=7.0)[c] == pytest.approx(sigmoid)
    assert chunk_sigmas("cosine", 3, low=0.0, high=1.0) == pytest.approx([0, 0.5, 1])
    assert chunk_sigmas("sigmoid", 3, low=0.0, high=1.0)[1] == pytest.approx(0.5)
    assert chunk_sigmas("naive", 3) == [EPS_MAX] * 3


@pytest.mark.parametrize("name", ["cosine", "linear", "sigmoid"])
def test_one_chunk_gets_the_least(name):
    assert chunk_sigmas(name, 1) == [0.4]


def test_an_unknown_schedule_gets_a_sentence():
    with pytest.raises(UsageError, match="cosine"):
        chunk_sigmas("cosinus", 3)
