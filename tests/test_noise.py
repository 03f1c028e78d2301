"""Noise: pure functions of seeds; the shared base with its shuffled borders; the chunk-level schedules of the paper."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from blockvid_cli.errors import UsageError
from blockvid_cli.rollout.noise import Independent, SharedBase, gaussian
from blockvid_cli.training.chunk_noise import EPS_MAX, chunk_sigmas
from tests import small

FILM = small.plan((3, 3, 3), frames=3)


def chunk_noise(noise, number: int, film=FILM) -> torch.Tensor:
    blocks = film.chunks[number - 1].blocks
    return torch.cat([noise(block, film, {}) for block in blocks])


def test_gaussian_is_named_and_normal():
    assert torch.equal(gaussian((3, 4), "a", 1), gaussian((3, 4), "a", 1))
    assert not torch.equal(gaussian((3, 4), "a", 1), gaussian((3, 4), "a", 2))
    many = gaussian((200_000,), "b")
    assert abs(float(many.mean())) < 0.01 and abs(float(many.std()) - 1) < 0.01


def test_independent_frames_differ_everywhere():
    noise = torch.cat([chunk_noise(Independent(), n) for n in (1, 2, 3)])
    flat = noise.flatten(1)
    likeness = (flat @ flat.T / flat.shape[1]).fill_diagonal_(0).abs().max()
    assert likeness < 0.5
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


def test_eps_max_has_the_published_signal_to_noise_ratio():
    assert pytest.approx(0.003) == ((1 - EPS_MAX) / EPS_MAX) ** 2
    assert pytest.approx(0.948, abs=1e-3) == EPS_MAX


@pytest.mark.parametrize("name", ["cosine", "linear"])
def test_schedules_go_from_min_to_max(name):
    levels = chunk_sigmas(name, 7)
    assert levels[0] == pytest.approx(0.4) and levels[-1] == pytest.approx(EPS_MAX)
    assert all(a < b for a, b in itertools.pairwise(levels))


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
