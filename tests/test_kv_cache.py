"""KV caches: what each stores and what a block attends to, on plans made by hand."""

from __future__ import annotations

import pytest
import torch

from blockvid_cli.errors import UsageError
from blockvid_cli.models.sentence_encoder import top_k_similar
from blockvid_cli.models.wan.attention import LayerQKV, TokenKV
from blockvid_cli.models.wan.rope import Rope, apply_rope, token_grid
from blockvid_cli.rollout.kv_cache.base import CacheEntry, FullCache, KVView, resident_entry
from blockvid_cli.rollout.kv_cache.batch import BatchedKVCache, batch_cache
from blockvid_cli.rollout.kv_cache.semantic import SemanticCache, attention_mass, probe_rows, top_p_tokens
from blockvid_cli.rollout.kv_cache.window import WindowCache
from blockvid_cli.rollout.recipe import KV_CACHES, make_recipe
from blockvid_cli.rollout.rollout import Rollout, RolloutSegment
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


CUT = (False, False, True, False)
CACHES = ["full", {"name": "window", "window": 6, "sink": 1}, {"name": "window", "window": None, "sink": 0}]


@pytest.mark.parametrize("cache", CACHES)
def test_nothing_of_the_shot_before_reaches_a_block_behind_a_cut(cache):
    """Another caption in the first shot changes every later film but one: the shot behind the cut stays bit for bit."""
    how = small.recipe(kv_cache=cache)
    films = [small.plan((1, 2, 2, 1), captions=[first, "b", "c", "d"], cuts=CUT) for first in ("a", "z")]
    one, other = (small.film_latents(film, small.denoiser(), how) for film in films)
    assert not torch.equal(one[0], other[0]) and not torch.equal(one[2], other[2])
    assert all(torch.equal(one[number], other[number]) for number in (3, 4, 5))
    whole = small.film_latents(small.plan((1, 2, 2, 1), captions=["a", "b", "c", "d"]), small.denoiser(), how)
    assert torch.equal(whole[2], one[2]) and not torch.equal(whole[3], one[3])


def test_a_sink_is_the_shots_first_frames():
    film = small.plan((2, 2, 2, 4), captions=["a", "b", "c", "d"], cuts=CUT)
    cache = WindowCache(6, 2)
    cache.begin(film.chunks, Rope(24))
    attended = []
    for block in film.blocks:
        attended.append(cache.view((block,)).frames)
        cache.update(block, layers(block), token_grid(block.frames, ROWS, COLUMNS))
    assert attended[:4] == [(), (0, 1), (0, 1, 2, 3), (0, 1, 4, 5)]
    assert attended[4:] == [(), (8, 9), (8, 9, 10, 11), (8, 9, 12, 13), (8, 9, 14, 15), (8, 9, 16, 17)]


@pytest.mark.parametrize(
    ("make", "most"), [(FullCache, 8), (lambda: WindowCache(6, 2), 6), (lambda: WindowCache(99), 8)]
)
def test_what_is_cached_never_exceeds_what_was_announced(make, most):
    film = small.plan((2, 2, 2, 1), cuts=CUT)
    cache = make()
    assert cache.max_cached_frames(film) == (most, most)
    cache.begin(film.chunks, Rope(24))
    for block in film.blocks:
        view = cache.view((block,))
        assert set(view.shots) <= {block.shot} and len(view.frames) + block.frames <= most
        cache.update(block, layers(block), token_grid(block.frames, ROWS, COLUMNS))
        assert sum(len(entry.frames) for entry in cache.entries.values()) <= most
    assert not cache.entries  # the film is over


def test_a_block_finished_ahead_of_its_turn_is_attended_to_and_nothing_needed_is_forgotten():
    film = small.plan((5,))
    cache = WindowCache(8, 2)
    cache.begin(film.chunks, Rope(24))
    for number in (0, 4, 1, 2):
        block = film.blocks[number]
        cache.update(block, layers(block), token_grid(block.frames, ROWS, COLUMNS))
    assert cache.view((film.blocks[3],)).frames == (0, 1, 4, 5, 8, 9)
    assert cache.view((film.blocks[1],)).frames == (0, 1, 8, 9)  # again as it was when block 1 was finished


def test_every_update_makes_earlier_views_stale():
    film = small.plan((2, 2), captions=["1 0", "0 1"])
    for cache in (FullCache(), WindowCache(6, 2)):
        cache.begin(film.chunks, Rope(24))
        before = cache.version
        cache.update(film.blocks[0], layers(film.blocks[0]), token_grid(2, ROWS, COLUMNS))
        assert cache.version > before


@pytest.mark.parametrize("last_blocks", [None, 1, 2])
def test_only_the_probes_queries_are_stored_of_an_unfinished_chunk(numeric_captions, last_blocks):
    """A chunk of six blocks stored every query of every layer: 2.6 GB for Wan 1.3B at 480p."""
    film = small.plan((6, 1), captions=["1 0", "0 1"])
    cache = SemanticCache(probes=4, last_blocks=last_blocks)
    cache.begin(film.chunks, Rope(24))
    for block in film.blocks[:5]:
        cache.update(block, layers(block), token_grid(block.frames, ROWS, COLUMNS))
        assert max(sum(len(part.probes[layer]) for part in cache._open.values()) for layer in (0, 1)) <= 8


def test_probes_that_are_stored_block_by_block_are_those_of_the_whole_chunk(numeric_captions):
    """The tokens cached are those that all queries of the chunk at once would choose."""
    film = small.plan((3, 1), captions=["1 0", "0 1"])
    cache = filled(SemanticCache(probes=3, tau=0.7), film, 3)
    parts = [layers(block) for block in film.blocks[:3]]
    where = torch.cat([token_grid(2, ROWS, COLUMNS) + torch.tensor([2 * i, 0, 0]) for i in range(3)])
    cos, sin = Rope(24).cos_sin(where)
    rows = probe_rows(36, 3, film.chunks[0].seed)
    visible = torch.arange(36)[rows][:, None] // 12 >= torch.arange(36)[None] // 12
    for number in (0, 1):
        queries, keys = (torch.cat([part[number][i] for part in parts], 1) for i in (0, 1))
        probes = apply_rope(queries[:, rows], (cos[rows], sin[rows]))[0]
        chosen = top_p_tokens(attention_mass(probes, apply_rope(keys, (cos, sin))[0], visible), 0.7)
        assert torch.equal(cache.entries[1].layer(number).coordinates, where[chosen])
        assert torch.equal(cache.entries[1].layer(number).keys, keys[:, chosen])


def biased(block, bias: torch.Tensor | None) -> CacheEntry:
    where = token_grid(block.frames, ROWS, COLUMNS)
    tokens = [TokenKV(layer.keys, layer.values, where, bias) for layer in layers(block)]
    return resident_entry(block.frame_indices, tokens, block.shot)


def test_a_bias_survives_selection_slicing_and_concatenation():
    film = small.plan((1, 1, 1))
    plain, shared, by_head = (
        biased(block, bias)
        for block, bias in zip(film.blocks, (None, torch.arange(12.0), torch.arange(24.0).view(2, 12)), strict=True)
    )
    assert KVView([plain, plain]).read(0).bias is None
    assert KVView([plain, shared.last(1)]).read(0).bias.tolist() == [0.0] * 12 + list(range(6, 12))
    bias = KVView([plain, shared, by_head.first(1)]).read(0).bias
    assert bias.shape == (2, 30)
    assert bias[1].tolist() == [0.0] * 12 + list(range(12)) + list(range(12, 18))
    assert by_head.layer(0).select(torch.tensor([3, 5])).bias.tolist() == [[3, 5], [15, 17]]


def test_a_view_over_two_films_is_each_films_own_view(numeric_captions):
    """Films of a batch retrieve different chunks and keep different tokens, yet each is what it is alone."""
    how = small.recipe(
        kv_cache={"name": "semantic", "recent": 1, "top": 1, "tau": 0.6, "probes": 3}, positions="absolute"
    )
    films = [
        small.plan((1, 2, 1, 2), captions=captions)
        for captions in (["1 0", "0 1", "1 1", "1 0"], ["0 1", "1 0", "0 1", "1 0.1"])
    ]
    alone = [small.film_latents(film, small.denoiser(), how) for film in films]
    cache = batch_cache(how.kv_cache, films)
    assert isinstance(cache, BatchedKVCache)
    denoiser = small.denoiser()
    run = Rollout(films[0], cache, denoiser.rope, (1, 2, 2), small.read, batch=(films[1],))
    with torch.inference_mode():
        steps = list(run.run_batch([RolloutSegment(films[0].blocks, how, denoiser)]))
    both = {block.number: latents for step in steps for block, latents in step.finished}
    retrieved = [[part.retrieve(4, range(1, 4)) for part in cache.caches]]
    assert retrieved == [[((1,), (3,)), ((2,), (3,))]]
    for index, latents in enumerate(alone):
        assert max(float((both[n][index] - latents[n]).abs().max()) for n in latents) < 1e-5


def test_one_film_and_caches_that_treat_films_alike_need_no_batched_cache():
    films = [small.plan((1, 1)), small.plan((1, 1))]
    assert isinstance(batch_cache(lambda: SemanticCache(), films[:1]), SemanticCache)
    assert isinstance(batch_cache(FullCache, films), FullCache)


def test_a_batch_refuses_one_cache_for_films_that_attend_to_different_tokens():
    films = [small.plan((1, 1)), small.plan((1, 1))]
    with pytest.raises(ValueError, match="batch_cache"):
        Rollout(films[0], SemanticCache(), Rope(24), (1, 2, 2), small.read, batch=(films[1],))
