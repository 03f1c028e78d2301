"""Positions: what each kind gives to cached and new frames, and what RoPE makes of positions per pair and per head."""

from __future__ import annotations

import pytest
import torch

from blockvid_cli.job import RenderRequest, prepare
from blockvid_cli.models.card import bundled_models, find_card, packaged_folder
from blockvid_cli.models.wan.attention import TokenKV
from blockvid_cli.models.wan.rope import Rope, apply_rope, split_positions, token_grid
from blockvid_cli.rollout.kv_cache.base import FullCache, KVView, NoCache, resident_entry
from blockvid_cli.rollout.kv_cache.semantic import SemanticCache
from blockvid_cli.rollout.kv_cache.window import WindowCache
from blockvid_cli.rollout.positions import Absolute, Packed, largest_position
from tests import small


def view_of(*frames: int) -> KVView:
    tokens = TokenKV(*(torch.randn(1, len(frames) * 6, 2, 24) for _ in range(2)), token_grid(len(frames), 2, 3))
    return KVView([resident_entry(frames, [tokens])])


def test_absolute_counts_the_film_and_packed_what_is_attended_to():
    film, view = small.plan((13,)), view_of(3, 4, 21)
    assert Absolute()(view, film.blocks[12:]).tolist() == [3, 4, 21, 24, 25]
    assert Packed()(view, film.blocks[12:]).tolist() == [0, 1, 2, 3, 4]
    assert Packed()(KVView(), film.blocks[:2]).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("positions", [Absolute(), Packed()])
@pytest.mark.parametrize("make", [FullCache, lambda: WindowCache(7, 2), NoCache, lambda: WindowCache(None, 0)])
@pytest.mark.parametrize("cuts", [(), (False, True, False)])
def test_no_position_of_a_film_exceeds_the_largest(positions, make, cuts):
    film = small.plan((2, 1, 3), cuts=cuts)
    given, cache = [], make()

    class Recorded:
        def __call__(self, view, blocks):
            given.append(positions(view, blocks))
            return given[-1]

    how = small.recipe()
    how = type(how)(**{**vars(how), "positions": Recorded(), "kv_cache": make})
    small.film_latents(film, small.denoiser(), how)
    assert max(float(each.max()) for each in given) == largest_position(film, positions, cache, 1)


def test_the_largest_position_of_a_semantic_cache_and_of_a_joint_schedule():
    film = small.plan((9,) * 8)
    assert largest_position(film, Packed(), SemanticCache(), 1) == 5 * 18 - 1
    assert largest_position(film, Packed(), SemanticCache(last_blocks=1), 1) == 5 * 2 - 1
    assert largest_position(film, Packed(), NoCache(), 5) == 9
    assert largest_position(film, Absolute(), WindowCache(), 1) == 143


def rotated_by_hand(x: torch.Tensor, coordinates: torch.Tensor, time) -> torch.Tensor:
    """x (T, H, D) rotated pair by pair; ``time(token, head, pair)`` is the temporal position."""
    out, third = x.clone(), x.shape[-1] // 6
    for t in range(x.shape[0]):
        for h in range(x.shape[1]):
            for p in range(x.shape[-1] // 2):
                axis, i = divmod(p, third)
                where = time(t, h, i) if axis == 0 else float(coordinates[t, axis])
                angle = torch.tensor(where * 10000 ** (-2 * i / (2 * third)), dtype=torch.float64)
                a, b = x[t, h, 2 * p], x[t, h, 2 * p + 1]
                out[t, h, 2 * p] = a * angle.cos() - b * angle.sin()
                out[t, h, 2 * p + 1] = a * angle.sin() + b * angle.cos()
    return out


@pytest.mark.parametrize("shape", [(2,), (2, 4), (2, 3, 1), (2, 1, 4), (2, 3, 4), (1, 2, 3, 4)])
def test_positions_per_pair_and_per_head_rotate_as_by_hand(shape):
    x = torch.randn(1, 12, 3, 24, generator=torch.Generator().manual_seed(0))
    where = token_grid(2, 2, 3)
    positions = torch.rand(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 9
    full = positions[:, None, None] if len(shape) == 1 else positions[:, None] if len(shape) == 2 else positions
    full = full.reshape(full.shape[-3:]).expand(2, 3, 4)
    ours = apply_rope(x, Rope(24).cos_sin(where, positions))
    by_hand = rotated_by_hand(x[0], where, lambda t, h, i: float(full[where[t, 0], h, i]))
    assert torch.allclose(ours[0], by_hand, atol=1e-5)


@pytest.mark.parametrize("shape", [(), (4,), (2, 1), (1, 4), (2, 4)])
def test_positions_of_any_shape_pass_through_the_network(shape):
    """The same position in every pair and head is the plain one, over cached and new frames; another is not."""
    x, text = torch.randn(1, 2, *small.LATENT), torch.randn(1, 5, 16)
    view, denoiser, sigma = view_of(0, 1, 2), small.denoiser(), torch.full((2,), 0.5)
    tokens = view.entries[0].layer(0)
    view = KVView([resident_entry((0, 1, 2), [tokens, tokens])])
    plain = torch.tensor([0.0, 1.0, 5.0, 6.0, 7.0])
    wide = plain.view(-1, *(1,) * len(shape)).expand(-1, *shape)
    same, _ = denoiser(x, sigma, text, wide, view)
    once, _ = denoiser(x, sigma, text, plain, view)
    assert torch.allclose(same, once, atol=1e-6)
    scale = torch.linspace(0.2, 1, shape[-1] if shape and shape[-1] > 1 else 1)
    scaled = wide * scale if shape and shape[-1] > 1 else wide * 0.5
    other, _ = denoiser(x, sigma, text, scaled, view)
    assert not torch.allclose(other, once, atol=1e-3)


def test_positions_are_split_along_their_frames():
    cached, new = split_positions(torch.arange(5), 2)
    assert cached.tolist() == [0, 1, 2] and new.tolist() == [3, 4]
    cached, new = split_positions(torch.arange(10).view(2, 5, 1, 1), 2)
    assert cached.shape == (2, 3, 1, 1) and new[1].flatten().tolist() == [8, 9]


SWAN = packaged_folder("storyboards") / "swan.yaml"


def position_notes(model: str, **recipe: object) -> list[str]:
    job = prepare(RenderRequest(SWAN, model=model, recipe=recipe))
    return [note for note in job.notes if "positions" in note]


@pytest.mark.parametrize("model", bundled_models())
def test_the_recipe_of_every_card_stays_within_what_its_model_was_trained_on(model):
    assert find_card(model).trained_frames
    assert not position_notes(model)


@pytest.mark.parametrize(
    ("model", "largest", "trained"), [("self-forcing", 89, 21), ("skyreels-v2-df-1.3b", 129, 25), ("causvid", 89, 21)]
)
def test_a_recipe_that_leaves_the_trained_positions_is_warned_of_with_both_numbers(model, largest, trained):
    recipe = {"schedule": "block", "kv_cache": "semantic", "positions": "packed", "solver": "euler"}
    (note,) = position_notes(model, **recipe)
    assert f"up to {largest}," in note and f"trained on {trained} latent frames (positions 0 to {trained - 1})" in note
