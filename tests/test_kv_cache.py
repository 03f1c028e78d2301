"""KV caches: what each stores and what a block attends to, on plans made by hand."""

from __future__ import annotations

import pytest
import torch

from blockvid_cli.errors import UsageError
from blockvid_cli.models.sentence_encoder import top_k_similar
from blockvid_cli.models.wan.attention import LayerQKV
from blockvid_cli.models.wan.rope import Rope, token_grid
from blockvid_cli.rollout.kv_cache.base import CacheEntry, FullCache, TokenKV
from blockvid_cli.rollout.kv_cache.semantic import SemanticCache, attention_mass, probe_rows, top_p_tokens
from blockvid_cli.rollout.kv_cache.window import WindowCache
from blockvid_cli.rollout.recipe import KV_CACHES, make_recipe
from tests import small

ROWS, COLUMNS = 2, 3


def layers(block, heads: int = 2, width: int = 24, rows: int = 1) -> list[LayerQKV]:
    """Two layers of random queries, keys and values, a pure function of the block."""
    generator = torch.Generator().manual_seed(block.number)
    count = block.frames * ROWS * COLUMNS
    return [
        LayerQKV(*(torch.randn(rows, count, heads, width, generator=generator) for _ in range(3))) for _ in range(2)
    ]


def filled(cache, film, upto: int):
    """A cache after blocks 0..upto-1."""
    cache.begin(film.chunks, Rope(24))
    for block in film.blocks[:upto]:
        cache.update(block, layers(block), token_grid(block.frames, ROWS, COLUMNS))
    return cache


def test_full_attends_to_all_earlier_blocks():
    film = small.plan((2, 2))
    cache = filled(FullCache(), film, 3)
    assert cache.view(film.blocks[3:]).frames == (0, 1, 2, 3, 4, 5)
    assert cache.view(film.blocks[1:2]).frames == (0, 1)
    assert cache.view(film.blocks[:1]).read(0) is None


@pytest.mark.parametrize(
    ("window", "sink", "frames"),
    [
        (None, 0, (0, 1, 2, 3, 4, 5, 6, 7)),
        (10, 0, (0, 1, 2, 3, 4, 5, 6, 7)),
        (6, 2, (0, 1, 6, 7)),
        (6, 1, (0, 5, 6, 7)),
        (5, 0, (5, 6, 7)),
        (4, 3, (0, 1, 2)),
        (2, 1, (0,)),
    ],
)
def test_window_attends_to_sink_and_recent_frames(window, sink, frames):
    film = small.plan((1, 1, 1, 1, 1))
    view = filled(WindowCache(window, sink), film, 4).view(film.blocks[4:])
    assert view.frames == frames
    tokens = view.read(1)
    assert tokens.keys.shape[1] == len(frames) * ROWS * COLUMNS
    assert tokens.coordinates[:, 0].unique().tolist() == list(range(len(frames)))
    whole = torch.cat([layers(block)[1].keys for block in film.blocks[:4]], 1).unflatten(1, (-1, ROWS * COLUMNS))
    assert torch.equal(tokens.keys, whole[:, list(frames)].flatten(1, 2))


def test_window_forgets_what_it_will_never_attend_to():
    film = small.plan((1,) * 12)
    cache = WindowCache(6, 2)
    cache.begin(film.chunks, Rope(24))
    for block in film.blocks:
        past = range(block.first)
        assert cache.view((block,)).frames == tuple(past if block.first <= 4 else [*past[:2], *past[-2:]])
        cache.update(block, layers(block), token_grid(block.frames, ROWS, COLUMNS))
    assert len(cache.entries) <= 5


@pytest.mark.parametrize("limit", [99, None])
def test_window_that_is_large_enough_gives_the_film_of_full(limit):
    film = small.plan((2, 2))
    full = small.film_latents(film, small.denoiser(), small.recipe())
    window = small.film_latents(
        film, small.denoiser(), small.recipe(kv_cache={"name": "window", "window": limit, "sink": 0})
    )
    assert all(torch.equal(full[n], window[n]) for n in full)


def test_a_window_must_hold_more_than_its_sink():
    with pytest.raises(UsageError, match="sink"):
        WindowCache(3, 3)


@pytest.fixture
def numeric_captions(monkeypatch):
    """Captions are lists of numbers, which are their embeddings."""
    monkeypatch.setattr(
        "blockvid_cli.rollout.kv_cache.semantic.embed",
        lambda captions, model: torch.tensor([[float(x) for x in c.split()] for c in captions]),
    )


def test_semantic_attends_to_retrieved_recent_and_its_own_blocks(numeric_captions):
    captions = ["1 0", "0 1", "1 0.1", "0.7 0.7", "0 1", "1 0"]
    film = small.plan((1, 1, 1, 1, 1, 2), captions=captions)
    cache = filled(SemanticCache(recent=2, top=2, tau=1.0), film, 6)
    assert cache.retrieve(6) == ((1, 3), (4, 5))
    assert cache.view(film.blocks[5:6]).frames == (0, 1, 4, 5, 6, 7, 8, 9)
    assert cache.view(film.blocks[6:]).frames == (0, 1, 4, 5, 6, 7, 8, 9, 10, 11)
    assert SemanticCache(recent=1, top=1).last_blocks is None


@pytest.mark.parametrize(
    ("upto", "chunk", "retrieved", "recent"),
    [(0, 1, (), ()), (1, 2, (), (1,)), (2, 3, (), (1, 2)), (3, 4, (1,), (2, 3)), (5, 6, (1, 2), (4, 5))],
)
def test_short_histories(numeric_captions, upto, chunk, retrieved, recent):
    film = small.plan((1,) * 6, captions=["1 0"] * 6)
    assert filled(SemanticCache(recent=2, top=2), film, upto).retrieve(chunk) == (retrieved, recent)


def test_ties_go_to_the_earlier_chunk_and_zero_embeddings_raise_nothing():
    same = torch.ones(6, 3)
    assert top_k_similar(same, [0, 1, 2], 5, 2) == (0, 1)
    assert top_k_similar(torch.tensor([[1.0, 0], [0, 1], [1, 0], [1, 0.001]]), [0, 1, 2], 3, 1) == (0,)
    assert top_k_similar(torch.zeros(4, 3), [0, 1], 3, 1) == (0,)
    assert top_k_similar(same, [], 0, 2) == ()


def test_a_cut_ends_what_is_recent_and_captions_retrieve_across_it(numeric_captions):
    film = small.plan((1,) * 5, captions=["1 0", "0 1", "0 1", "1 0", "1 0"], cuts=(False, True, False, True, False))
    cache = SemanticCache(recent=2, top=1)
    cache.begin(film.chunks, Rope(24))
    seen = [cache.retrieve(chunk, range(1, chunk)) for chunk in range(1, 6)]
    assert seen == [((), ()), ((1,), ()), ((1,), (2,)), ((1,), ()), ((1,), (4,))]


def both(entry: CacheEntry) -> list[TokenKV]:
    return [entry.layer(0), entry.layer(1)]


def test_other_shots_only_retrieves_no_chunk_of_this_shot(numeric_captions):
    film = small.plan((1,) * 5, captions=["1 0", "0 1", "1 0", "1 0", "1 0"], cuts=(False, True, False, True, False))
    cache = SemanticCache(recent=1, top=2, other_shots_only=True)
    cache.begin(film.chunks, Rope(24))
    seen = [cache.retrieve(chunk, range(1, chunk)) for chunk in range(1, 6)]
    assert seen == [((), ()), ((1,), ()), ((1,), (2,)), ((1, 3), ()), ((1, 3), (4,))]


def test_tau_of_one_keeps_all_and_less_keeps_fewer_in_place(numeric_captions):
    film = small.plan((2, 1), captions=["1 0", "0 1"])
    whole = filled(SemanticCache(tau=1.0), film, 2).entries[1]
    assert all(kept.keys.shape[1] == 4 * ROWS * COLUMNS for kept in both(whole))
    assert torch.equal(whole.layer(0).keys[:, :12], layers(film.blocks[0])[0].keys)
    sparse = filled(SemanticCache(tau=0.5), film, 2).entries[1]
    for number, kept in enumerate(both(sparse)):
        count = kept.keys.shape[1]
        assert 0 < count < 24
        every = whole.layer(number)
        for token in range(count):
            place = (every.coordinates == kept.coordinates[token]).all(1).nonzero()[0, 0]
            assert torch.equal(every.keys[:, place], kept.keys[:, token])
            assert torch.equal(every.values[:, place], kept.values[:, token])
    assert sparse.frames == whole.frames == (0, 1, 2, 3)


def test_exactly_the_salient_tokens_are_cached(numeric_captions):
    """Keys that every query points at get all attention: tokens 2 and 9 of 12, and no other."""
    film = small.plan((1, 1), captions=["1 0", "0 1"])
    seen = []
    for _ in range(2):
        queries = torch.zeros(1, 12, 2, 24)
        keys = torch.zeros(1, 12, 2, 24)
        queries[..., 23] = keys[:, [2, 9], :, 23] = 12.0  # the slowest pair of the columns: barely rotated
        seen.append(LayerQKV(queries, keys, torch.randn(1, 12, 2, 24)))
    cache = SemanticCache(tau=0.98, probes=4)
    cache.begin(film.chunks, Rope(24))
    cache.update(film.blocks[0], seen, token_grid(2, ROWS, COLUMNS))
    for kept in both(cache.entries[1]):
        assert kept.coordinates.tolist() == token_grid(2, ROWS, COLUMNS)[[2, 9]].tolist()


def test_only_the_last_blocks_of_a_chunk_are_cached(numeric_captions):
    film = small.plan((3, 3), captions=["1 0", "0 1"])
    cache = filled(SemanticCache(tau=1.0, last_blocks=1), film, 5)
    assert cache.entries[1].frames == (4, 5)
    assert cache.view(film.blocks[5:]).frames == (4, 5, 8, 9)


def test_the_conditional_row_decides_for_both(numeric_captions):
    film = small.plan((1, 1), captions=["1 0", "0 1"])
    one, two = SemanticCache(tau=0.6), SemanticCache(tau=0.6)
    for cache, rows in ((one, 1), (two, 2)):
        cache.begin(film.chunks, Rope(24))
        seen = layers(film.blocks[0])
        if rows == 2:
            seen = [LayerQKV(*(torch.cat([x, torch.randn_like(x)]) for x in layer)) for layer in seen]
        cache.update(film.blocks[0], seen, token_grid(2, ROWS, COLUMNS))
    for a, b in zip(both(one.entries[1]), both(two.entries[1]), strict=True):
        assert torch.equal(a.coordinates, b.coordinates) and torch.equal(a.keys[0], b.keys[0])
        assert b.keys.shape[0] == 2


def test_probes_are_the_last_rows_and_as_many_random_others():
    rows = probe_rows(200, 64, seed=3)
    assert len(rows) == 128 == len(set(rows.tolist()))
    assert rows[-64:].tolist() == list(range(136, 200)) and rows[:64].max() < 136
    assert torch.equal(rows, probe_rows(200, 64, seed=3))
    assert not torch.equal(rows, probe_rows(200, 64, seed=4))
    assert probe_rows(10, 64, seed=1).tolist() == list(range(10))


def test_attention_mass_counts_only_probes_that_can_see_a_token():
    """Two blocks of one token: the first is seen by both probes, the second by one; the mean is per probe that sees."""
    queries, keys = torch.zeros(2, 1, 4), torch.zeros(2, 1, 4)
    visible = torch.tensor([[True, False], [True, True]])
    assert attention_mass(queries, keys, visible).tolist() == [0.75, 0.5]


@pytest.mark.parametrize(
    ("mass", "tau", "indices"),
    [
        ([0.5, 0.3, 0.15, 0.05], 0.5, [0]),
        ([0.5, 0.3, 0.15, 0.05], 0.8, [0, 1]),
        ([0.05, 0.15, 0.3, 0.5], 0.9, [1, 2, 3]),
        ([0.25, 0.25, 0.25, 0.25], 0.5, [0, 1]),
        ([0.0, 1.0, 0.0], 0.98, [1]),
        ([0.0, 1.0, 0.0], 1.0, [0, 1, 2]),
    ],
)
def test_the_fewest_tokens_that_cover_tau(mass, tau, indices):
    assert top_p_tokens(torch.tensor(mass), tau).tolist() == indices


@pytest.mark.parametrize("name", sorted(KV_CACHES))
def test_every_cache_generates_a_film(name, numeric_captions):
    film = small.plan((2, 1, 2), captions=["1 0", "0 1", "1 1"])
    latents = small.film_latents(film, small.denoiser(), small.recipe(kv_cache=name, positions="packed"))
    assert sorted(latents) == [0, 1, 2, 3, 4]
    assert all(torch.isfinite(block).all() for block in latents.values())


@pytest.mark.parametrize(
    ("cache", "message"),
    [
        ("elephant", "full, none, semantic, window"),
        ("sematic", "semantic"),
        ({"name": "semantic", "taus": 0.9}, "tau"),
        ({"name": "semantic", "tau": 1.5}, "tau"),
        ({"name": "semantic", "last_blocks": 0}, "last_blocks"),
        ({"name": "window", "sink": "three"}, "recipe.kv_cache.sink"),
        ({"name": "window", "window": True}, "recipe.kv_cache.window"),
        (["semantic"], "recipe.kv_cache"),
        ({"top": 2}, "recipe.kv_cache"),
    ],
)
def test_a_wrong_cache_gets_a_sentence(cache, message):
    with pytest.raises(UsageError, match=message):
        make_recipe({**small.RECIPE, "kv_cache": cache})
