"""One KV cache for a batch of films that attend to different frames or tokens: a cache of its own for each film.

    film 0   [a a a a a b b b]     rows of the batch: prompts of films 0, 1, then, under guidance, their negative
    film 1   [c c c c d d . .]     prompts;  . padding, with a bias of -inf and 0 for keys and values

Caches whose films always attend to the same frames (``per_film`` is false) need no such thing: their tensors simply
have a row for each film.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from blockvid_cli.models.wan.attention import LayerQKV, TokenKV
from blockvid_cli.models.wan.rope import Rope
from blockvid_cli.rollout.kv_cache.base import KVCache, KVView
from blockvid_cli.storyboard.plan import Block, Plan, PlannedChunk


def batch_cache(make: Callable[[], KVCache], plans: Sequence[Plan]) -> KVCache:
    """The cache of one film, or of a batch of films of the same layout."""
    first = make()
    if len(plans) == 1 or not first.per_film:
        return first
    return BatchedKVCache([first, *(make() for _ in plans[1:])], plans)


class BatchedKVCache(KVCache):
    """Passes each film's rows to its own cache; blocks and chunks are those of the same number in each film's plan."""

    def __init__(self, caches: Sequence[KVCache], plans: Sequence[Plan]) -> None:
        self.caches, self.plans = tuple(caches), tuple(plans)

    def begin(self, chunks: Sequence[PlannedChunk], rope: Rope) -> None:
        """Begins every film's cache with its own chunks."""
        for cache, plan in zip(self.caches, self.plans, strict=True):
            cache.begin(plan.chunks, rope)
        self.version += 1

    def update(self, block: Block, layers: Sequence[LayerQKV], coordinates: torch.Tensor) -> None:
        """Every film's rows: the prompt's and, under guidance, the negative prompt's."""
        films = len(self.caches)
        for film, (cache, plan) in enumerate(zip(self.caches, self.plans, strict=True)):
            rows = [LayerQKV(*(x[film::films] for x in layer)) for layer in layers]
            cache.update(plan.blocks[block.number], rows, coordinates)
        self.version += 1

    def view(self, blocks: Sequence[Block]) -> KVView:
        """Every film's view, side by side."""
        numbers = [block.number for block in blocks]
        films = zip(self.caches, self.plans, strict=True)
        return BatchedKVView([cache.view([plan.blocks[number] for number in numbers]) for cache, plan in films])

    def max_cached_frames(self, plan: Plan) -> tuple[int, int]:
        """Of any film."""
        attended, stored = zip(*(cache.max_cached_frames(plan) for cache in self.caches), strict=True)
        return max(attended), max(stored)

    def on_prompt_change(self, block: Block) -> None:
        """Notifies every film's cache."""
        for cache, plan in zip(self.caches, self.plans, strict=True):
            cache.on_prompt_change(plan.blocks[block.number])
        self.version += 1

    def on_cut(self, block: Block) -> None:
        """Notifies every film's cache."""
        for cache, plan in zip(self.caches, self.plans, strict=True):
            cache.on_cut(plan.blocks[block.number])
        self.version += 1


class BatchedKVView(KVView):
    """The views of all films; tokens are padded to the longest film's. ``frames`` and ``shots`` are empty."""

    def __init__(self, views: Sequence[KVView]) -> None:
        super().__init__()
        self.views = tuple(views)
        self._films: dict[int, tuple[TokenKV, list[TokenKV | None]]] = {}  # the last read of a layer
        self._batched: dict[int, tuple[list[torch.Tensor | None], torch.Tensor]] = {}  # each film's keys, and all

    def positions(
        self, part: Callable[[KVView, Sequence[Block]], torch.Tensor], blocks: Sequence[Block]
    ) -> torch.Tensor:
        """Every film's positions (B, frames, heads or 1, pairs or 1), padded between the cached and the new frames."""
        new = sum(block.frames for block in blocks)
        films = [part(view, blocks) for view in self.views]
        films = [x[:, None, None] if x.ndim == 1 else x[:, None] if x.ndim == 2 else x for x in films]
        longest = max(len(x) for x in films)
        padded = [torch.cat([x[:-new], x.new_zeros(longest - len(x), *x.shape[1:]), x[-new:]]) for x in films]
        return torch.stack(padded)

    def read(self, layer: int, query: torch.Tensor | None = None) -> TokenKV | None:
        """All films' tokens; coordinates are those of the first film that has any, and no one's in particular."""
        films = len(self.views)
        parts = [view.read(layer, None if query is None else query[f::films]) for f, view in enumerate(self.views)]
        cached = [part for part in parts if part is not None]
        if not cached:
            return None
        last = self._films.get(layer)
        if last is not None and all(a is b for a, b in zip(last[1], parts, strict=True)):
            return last[0]
        like, length = cached[0], max(part.keys.shape[1] for part in cached)
        keys = _rows([None if part is None else part.keys for part in parts], like.keys, length)
        values = _rows([None if part is None else part.values for part in parts], like.values, length)
        tokens = TokenKV(keys, values, like.coordinates, _biases(parts, like, length))
        self._films[layer] = tokens, parts
        return tokens

    def rotated_keys(self, layer: int, tokens: TokenKV, rope: Rope, positions: torch.Tensor) -> torch.Tensor:
        """Every film's keys by its own positions (B, cached frames, heads or 1, pairs or 1)."""
        parts = self._films[layer][1]
        films: list[torch.Tensor | None] = [
            None if part is None else view.rotated_keys(layer, part, rope, where[: len(view.frames)])
            for view, part, where in zip(self.views, parts, positions, strict=True)
        ]
        last = self._batched.get(layer)
        if last is not None and all(a is b for a, b in zip(last[0], films, strict=True)):
            return last[1]
        keys = _rows(films, tokens.keys, tokens.keys.shape[1])
        self._batched[layer] = films, keys
        return keys


def _rows(films: Sequence[torch.Tensor | None], like: torch.Tensor, length: int) -> torch.Tensor:
    """(rows·B, length, H, D) from each film's (rows, T, H, D): all films' first rows, then all films' second."""
    rows = len(next(film for film in films if film is not None))
    padded = []
    for film in films:
        tokens = 0 if film is None else film.shape[1]
        padding = like.new_zeros(rows, length - tokens, *like.shape[2:])
        padded.append(padding if film is None else torch.cat([film, padding], 1))
    return torch.stack(padded, 1).flatten(0, 1)


def _biases(parts: Sequence[TokenKV | None], like: TokenKV, length: int) -> torch.Tensor | None:
    """(rows·B, H or 1, length): each film's bias and -inf behind its tokens; None where nothing is biased or padded."""
    if all(part is not None and part.bias is None and part.keys.shape[1] == length for part in parts):
        return None
    biases = []
    for part in parts:
        bias = like.keys.new_full((1, length), -torch.inf)
        if part is not None:
            own = part.keys.new_zeros(1, part.keys.shape[1]) if part.bias is None else part.bias
            own = own[None] if own.ndim == 1 else own
            bias = torch.cat([own, own.new_full((*own.shape[:-1], length - own.shape[-1]), -torch.inf)], -1)
        biases.append(bias)
    heads = max(len(bias) for bias in biases)
    rows = len(like.keys)
    return torch.stack([bias.expand(heads, -1) for bias in biases]).repeat(rows, 1, 1)
