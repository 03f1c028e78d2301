"""Semantic sparse KV cache: the salient tokens of past chunks, retrieved by the similarity of their captions.

    cached       chunk 1   chunk 2   chunk 3   chunk 4   chunk 5   (6: being denoised)
                 :.:. .    .. ::     :  .:.    :.: .     .:::.        tokens that cover tau of the probes' attention
    attended to  [top-l similar: 1, 3]         [recent: 4, 5]    [finished blocks of 6] + the block itself

BlockVid section 3.4, Eq. 6-10, Algorithms 1 and 2. A chunk of several blocks becomes one entry when its last block is
finished; until then its finished blocks are attended to whole. A cut ends what is recent: chunks of another shot are
attended to only if their captions are retrieved.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from blockvid_cli.errors import UsageError
from blockvid_cli.models.sentence_encoder import DEFAULT, embed, top_k_similar
from blockvid_cli.models.wan.attention import LayerQKV, TokenKV
from blockvid_cli.models.wan.rope import Rope, apply_rope
from blockvid_cli.rollout.kv_cache.base import CacheEntry, KVCache, KVView, block_tokens
from blockvid_cli.rollout.noise import gaussian
from blockvid_cli.storyboard.plan import Block, Plan, PlannedChunk


@dataclass(frozen=True)
class FinishedBlock:
    """A finished block of an unfinished chunk: its tokens, and each layer's queries (P, H, D) at the probe rows."""

    block: Block
    entry: CacheEntry
    probes: list[torch.Tensor]
    tokens: int


class SemanticCache(KVCache):
    """Args:
    recent: how many of the latest finished chunks of the same shot are always attended to.
    top: how many other chunks are retrieved by their captions' similarity (l).
    tau: the share of the probes' attention that the cached tokens of a chunk cover; 1 keeps all tokens.
    probes: query rows that look for salient tokens: this many of the chunk's last, and as many random others.
    last_blocks: a chunk is cached by this many of its last blocks; None for all (a long chunk then costs more).
    other_shots_only: retrieve chunks of other shots only; the recent chunks show what this shot looks like.
    sentence_model: the sentence-transformers model that compares captions.
    """

    per_film: ClassVar[bool] = True

    def __init__(
        self,
        recent: int = 2,
        top: int = 2,
        tau: float = 0.98,
        probes: int = 64,
        last_blocks: int | None = None,
        other_shots_only: bool = False,
        sentence_model: str = DEFAULT,
    ) -> None:
        if recent < 0 or top < 0 or probes < 1 or (last_blocks is not None and last_blocks < 1) or not 0 < tau <= 1:
            raise UsageError(
                "a semantic KV cache needs recent and top of 0 or more, probes and last_blocks of 1 or more,"
                f" and tau above 0 and at most 1; not {recent}, {top}, {probes}, {last_blocks} and {tau}."
            )
        self.recent, self.top, self.tau, self.probes = recent, top, tau, probes
        self.last_blocks = last_blocks
        self.other_shots_only, self.sentence_model = other_shots_only, sentence_model
        self.entries: dict[int, CacheEntry] = {}  # by chunk
        self._token_counts: dict[int, tuple[int, int]] = {}
        self._chunks: dict[int, PlannedChunk] = {}
        self._open: dict[int, FinishedBlock] = {}  # by number of the block
        self._unfinished: dict[int, set[int]] = {}  # numbers of blocks, by chunk

    @property
    def token_counts(self) -> Mapping[int, tuple[int, int]]:
        """The mean over layers."""
        return self._token_counts

    def begin(self, chunks: Sequence[PlannedChunk], rope: Rope) -> None:
        """Embeds all captions."""
        self.entries, self._open, self.rope = {}, {}, rope
        self._token_counts.clear()
        self._chunks = {chunk.number: chunk for chunk in chunks}
        self._unfinished = {chunk.number: {block.number for block in chunk.blocks} for chunk in chunks}
        self.embeddings = embed([chunk.retrieval_text for chunk in chunks], self.sentence_model)
        self.version += 1

    def update(self, block: Block, layers: Sequence[LayerQKV], coordinates: torch.Tensor) -> None:
        """Stores the block whole; the last block of a chunk to finish makes the chunk's entry."""
        self.version += 1
        entry = self.storage.store(*block_tokens(block, layers, coordinates), [block])
        rows = self._probe_rows(block, len(coordinates) // block.frames)
        probes = [layer.queries[0, rows.to(layer.queries.device)].cpu() for layer in layers]
        self._open[block.number] = FinishedBlock(block, entry, probes, len(coordinates))
        unfinished, cached = self._unfinished[block.chunk], self._cached_blocks(block.chunk)
        unfinished.discard(block.number)
        finished = [number for number, part in self._open.items() if part.block.chunk == block.chunk]
        if unfinished:
            latest = sorted(finished)[-(self.last_blocks or 0) :]
            stale = set(finished) - set(latest) - {part.number for part in cached}
        else:
            self._close(block.chunk, [self._open[part.number] for part in cached])
            stale = set(finished)
        for number in stale:
            del self._open[number]

    def view(self, blocks: Sequence[Block]) -> KVView:
        """Retrieved chunks, recent chunks, then the finished blocks of the chunk being generated."""
        retrieved, recent = self.retrieve(blocks[0].chunk)
        numbers, shots = {block.number for block in blocks}, {block.shot for block in blocks}
        before = sorted(itertools.takewhile(lambda number: number not in numbers, self._open))  # as they were finished
        own = [self._open[number].entry for number in before if self._open[number].block.shot in shots]
        return KVView([*(self.entries[chunk] for chunk in (*retrieved, *recent)), *own[-(self.last_blocks or 0) :]])

    def retrieve(self, chunk: int, finished: Iterable[int] | None = None) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The chunks that ``chunk`` retrieves by caption, and the recent ones it attends to (Eq. 8 and 9).

        ``finished`` are the chunks to choose from; the cached ones by default.
        """
        past = [number for number in sorted(self.entries if finished is None else finished) if number < chunk]
        split, shot = max(len(past) - self.recent, 0), self._chunks[chunk].shot
        recent = tuple(number for number in past[split:] if self._chunks[number].shot == shot)
        excluded = shot if self.other_shots_only else None
        others = [number - 1 for number in past if number not in recent and self._chunks[number].shot != excluded]
        similar = top_k_similar(self.embeddings, others, chunk - 1, self.top)
        return tuple(number + 1 for number in similar), recent

    def max_cached_frames(self, plan: Plan) -> tuple[int, int]:
        """As if no token were left out."""
        frames = [sum(block.frames for block in chunk.blocks[-(self.last_blocks or 0) :]) for chunk in plan.chunks]
        return sum(sorted(frames)[-(self.recent + self.top + 1) :]), sum(frames)

    def _cached_blocks(self, chunk: int) -> tuple[Block, ...]:
        """The blocks that a chunk is cached by."""
        return self._chunks[chunk].blocks[-(self.last_blocks or 0) :]

    def _probe_rows(self, block: Block, frame_tokens: int) -> torch.Tensor:
        """Which of a block's query rows are probes of its chunk; known beforehand, so that no other row is kept."""
        blocks = self._cached_blocks(block.chunk)
        if self.tau >= 1 or block.number not in {part.number for part in blocks}:
            return torch.empty(0, dtype=torch.long)
        total = frame_tokens * sum(part.frames for part in blocks)
        first = frame_tokens * sum(part.frames for part in blocks if part.number < block.number)
        rows = probe_rows(total, self.probes, self._chunks[block.chunk].seed) - first
        return rows[(rows >= 0) & (rows < frame_tokens * block.frames)]

    def _close(self, chunk: int, parts: Sequence[FinishedBlock]) -> None:
        """Makes a finished chunk's entry."""
        frames, tokens = self._sparse(parts, self._chunks[chunk].seed)
        total = sum(part.tokens for part in parts)
        self._token_counts[chunk] = round(sum(len(layer.coordinates) for layer in tokens) / len(tokens)), total
        self.entries[chunk] = self.storage.store(frames, tokens, [part.block for part in parts])

    def _sparse(self, parts: Sequence[FinishedBlock], seed: int) -> tuple[tuple[int, ...], list[TokenKV]]:
        """Algorithm 2 over a chunk's blocks: a layer keeps the fewest tokens that cover tau."""
        whole = KVView([part.entry for part in parts])
        of_block = torch.cat([torch.full((part.tokens,), i) for i, part in enumerate(parts)])
        rows = probe_rows(len(of_block), self.probes, seed)
        sparse = []
        for layer in range(len(parts[0].probes)):
            tokens = whole.read(layer)
            if tokens is None:
                raise ValueError("a finished chunk has frames")
            if self.tau >= 1:
                sparse.append(tokens)
                continue
            device = tokens.keys.device
            cos_sin = self.rope.cos_sin(tokens.coordinates, device=device)
            keys = apply_rope(tokens.keys[:1], cos_sin)[0]
            queries = torch.cat([part.probes[layer] for part in parts]).to(device)
            cos, sin = (table[rows.to(device)] for table in cos_sin)
            probes = apply_rope(queries[None], (cos, sin))[0]
            mass = attention_mass(probes, keys, (of_block[rows][:, None] >= of_block[None]).to(device))
            sparse.append(tokens.select(top_p_tokens(mass, self.tau)))
        return whole.frames, sparse


def retrieved_chunks(plan: Plan, cache: KVCache) -> list[tuple[int, ...]]:
    """For each chunk of a plan, the numbers (from 1) of the earlier chunks that a cache will retrieve for it."""
    if not isinstance(cache, SemanticCache):
        return [() for _ in plan.chunks]
    cache.begin(plan.chunks, Rope(6))
    return [cache.retrieve(chunk.number, range(1, chunk.number))[0] for chunk in plan.chunks]


def probe_rows(tokens: int, probes: int, seed: int) -> torch.Tensor:
    """Which of a chunk's query rows are probes: the last ``probes``, and as many random others, in ascending order.

    Algorithm 2, line 6.
    """
    recent = min(probes, tokens)
    others = gaussian((tokens - recent,), "probes", seed).argsort()[:probes].sort().values
    return torch.cat([others, torch.arange(tokens - recent, tokens)])


def attention_mass(queries: torch.Tensor, keys: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
    """How much each token is attended to (T,): summed over heads and probes, over the probes that can see it.

    Args:
        queries: (P, H, D) of the probes, rotated.
        keys: (T, H, D), rotated.
        visible: (P, T), the chunk-level causal mask: a block sees itself and those before it (Eq. 6).
    """
    logits = torch.einsum("phd,thd->hpt", queries.float(), keys.float()) * queries.shape[-1] ** -0.5
    share = logits.masked_fill(~visible, -torch.inf).softmax(-1)
    return share.sum((0, 1)) / visible.sum(0).clamp(min=1)


def top_p_tokens(mass: torch.Tensor, tau: float) -> torch.Tensor:
    """Indices (on the CPU), in order, of the fewest tokens whose mass covers ``tau`` of all (Eq. 7).

    The earlier wins ties. Not every device has float64, so that masses are added on the CPU.
    """
    if tau >= 1:
        return torch.arange(len(mass))
    ranked, order = mass.cpu().double().sort(descending=True, stable=True)
    count = int((ranked.cumsum(0) < tau * (1 - 1e-6) * ranked.sum()).sum()) + 1
    return order[:count].sort().values
