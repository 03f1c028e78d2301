"""Semantic sparse KV memory: the salient tokens of past chunks, recalled by what their captions say.

    bank    chunk 1   chunk 2   chunk 3   chunk 4   chunk 5   (6: being drawn)
            :.:. .    .. ::     :  .:.    :.: .     .:::.         tokens that cover tau of the probes' attention
    seen    [top-l alike: 1, 3]           [recent: 4, 5]  [finished blocks of 6] + the block itself

BlockVid section 3.4, Eq. 6-10, Algorithms 1 and 2. A chunk of several blocks enters the bank when its last block is
finished; until then its finished blocks are seen whole. A cut ends what is recent: chunks of another shot are seen only
if a caption recalls them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch

from blockvid_cli.errors import UsageError
from blockvid_cli.models.sentence_encoder import DEFAULT, embed
from blockvid_cli.models.similarity import top_k_similar
from blockvid_cli.models.wan.attention import LayerQKV
from blockvid_cli.models.wan.rope import Rope, apply_rope
from blockvid_cli.rollout.kv_cache.base import CacheEntry, TokenKV, KVCache, KVView, block_tokens
from blockvid_cli.rollout.noise import gaussian
from blockvid_cli.storyboard.plan import Block, Plan, PlannedChunk


class SemanticCache(KVCache):
    """Args:
    recent: how many of the latest finished chunks of the same shot are always seen.
    top: how many other chunks are recalled by their captions' likeness (l).
    tau: the share of the probes' attention that the kept tokens of a chunk cover; 1 keeps all.
    probes: query rows that look for salient tokens: this many of the chunk's last, and as many random others.
    last_blocks: a chunk is remembered by this many of its last blocks; None for all (a long chunk then costs more).
    other_shots_only: recall chunks of other shots only; what this shot looks like, the recent chunks show.
    sentence_model: the sentence-transformers model that compares captions.
    """

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
                "a semantic memory needs recent and top of 0 or more, probes and blocks of 1 or more,"
                f" and tau above 0 and at most 1; not {recent}, {top}, {probes}, {last_blocks} and {tau}."
            )
        self.recent, self.top, self.tau, self.probes, self.blocks = recent, top, tau, probes, last_blocks
        self.other_shots_only, self.sentence_model = other_shots_only, sentence_model
        self._shares: dict[int, tuple[int, int]] = {}
        self.bank: dict[int, CacheEntry] = {}  # by chunk
        self._unfinished: list[tuple[Block, CacheEntry, list[torch.Tensor]]] = []  # with each layer's queries (T, H, D)

    @property
    def token_counts(self) -> Mapping[int, tuple[int, int]]:
        """See ``Memory``; in the mean over layers."""
        return self._shares

    def begin(self, chunks: Sequence[PlannedChunk], rope: Rope) -> None:
        """See ``Memory``."""
        self.bank, self._unfinished, self.rope = {}, [], rope
        self._shares.clear()
        self.last = {chunk.number: chunk.blocks[-1].number for chunk in chunks}
        self.seeds = {chunk.number: chunk.seed for chunk in chunks}
        self.shots = {chunk.number: chunk.shot for chunk in chunks}
        self.embeddings = embed([chunk.retrieval_text for chunk in chunks], self.sentence_model)

    def update(self, block: Block, layers: Sequence[LayerQKV], coordinates: torch.Tensor) -> None:
        """See ``Memory``; the last block of a chunk makes the chunk's entry."""
        own = self.storage.store(*block_tokens(block, layers, coordinates), [block])
        self._unfinished.append((block, own, [layer.queries[0].cpu() for layer in layers]))
        if block.number != self.last[block.chunk]:
            self._unfinished = self._unfinished[-(self.blocks or 0) :]
            return
        parts = [part for part in self._unfinished if part[0].chunk == block.chunk][-(self.blocks or 0) :]
        self._unfinished = [part for part in self._unfinished if part[0].chunk != block.chunk]
        frames, kept = self._sparse(parts, self.seeds[block.chunk])
        whole = sum(len(queries[0]) for _, _, queries in parts)
        self._shares[block.chunk] = round(sum(len(tokens.coordinates) for tokens in kept) / len(kept)), whole
        self.bank[block.chunk] = self.storage.store(frames, kept, [part[0] for part in parts])

    def view(self, blocks: Sequence[Block]) -> KVView:
        """See ``Memory``: recalled chunks, recent chunks, then the finished blocks of the chunk being drawn."""
        recalled, recent = self.retrieve(blocks[0].chunk)
        own = [entry for block, entry, _ in self._unfinished if block.number < blocks[0].number]
        return KVView([*(self.bank[chunk] for chunk in (*recalled, *recent)), *own[-(self.blocks or 0) :]])

    def retrieve(self, chunk: int, finished: Iterable[int] | None = None) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The chunks that ``chunk`` recalls by caption, and the recent ones it sees (Eq. 8 and 9).

        ``finished`` are the chunks to choose from; the bank's when not given.
        """
        past = [number for number in sorted(self.bank if finished is None else finished) if number < chunk]
        split = max(len(past) - self.recent, 0)
        recent = tuple(number for number in past[split:] if self.shots[number] == self.shots[chunk])
        here = self.shots[chunk] if self.other_shots_only else None
        others = [number - 1 for number in past if number not in recent and self.shots[number] != here]
        alike = top_k_similar(self.embeddings, others, chunk - 1, self.top)
        return tuple(number + 1 for number in alike), recent

    def max_cached_frames(self, plan: Plan) -> tuple[int, int]:
        """See ``Memory``; as if no token were left out."""
        frames = [sum(block.frames for block in chunk.blocks[-(self.blocks or 0) :]) for chunk in plan.chunks]
        return sum(sorted(frames)[-(self.recent + self.top + 1) :]), sum(frames)

    def _sparse(
        self, parts: Sequence[tuple[Block, CacheEntry, list[torch.Tensor]]], seed: int
    ) -> tuple[tuple[int, ...], list[TokenKV]]:
        """Algorithm 2 over a chunk's blocks: a layer keeps the fewest tokens that cover tau."""
        whole = KVView([entry for _, entry, _ in parts])
        of_block = torch.cat([torch.full((len(queries[0]),), i) for i, (_, _, queries) in enumerate(parts)])
        rows = probe_rows(len(of_block), self.probes, seed)
        kept = []
        for number in range(len(parts[0][2])):
            tokens = whole.tokens(number)
            queries = torch.cat([queries[number] for _, _, queries in parts])[rows].to(tokens.keys.device)
            turns = self.rope.cos_sin(tokens.coordinates, tokens.keys.device)
            keys = apply_rope(tokens.keys[:1], turns)[0]
            probes = apply_rope(queries[None], tuple(t[rows.to(t.device)] for t in turns))[0]
            mass = attention_mass(probes, keys, (of_block[rows][:, None] >= of_block[None]).to(keys.device))
            kept.append(tokens.select(top_p_tokens(mass, self.tau).cpu()))
        return whole.frames, kept


def retrieved_chunks(plan: Plan, memory: KVCache) -> list[tuple[int, ...]]:
    """For each chunk of a plan, the numbers (from 1) of the earlier chunks that a memory will recall for it."""
    if not isinstance(memory, SemanticCache):
        return [() for _ in plan.chunks]
    memory.begin(plan.chunks, Rope(6))
    return [memory.retrieve(chunk.number, range(1, chunk.number))[0] for chunk in plan.chunks]


def probe_rows(tokens: int, probes: int, seed: int) -> torch.Tensor:
    """Which of a chunk's query rows probe: the last ``probes``, and as many random others (Algorithm 2, line 6)."""
    recent = min(probes, tokens)
    others = gaussian((tokens - recent,), "probes", seed).argsort()[:probes].sort().values
    return torch.cat([others, torch.arange(tokens - recent, tokens)])


def attention_mass(queries: torch.Tensor, keys: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
    """How much each token is looked at (T,): attention summed over heads and probes, over the probes that can see it.

    Args:
        queries: (P, H, D) of the probes, rotated.
        keys: (T, H, D), rotated.
        visible: (P, T), the chunk-level causal mask: a block sees itself and those before it (Eq. 6).
    """
    logits = torch.einsum("phd,thd->hpt", queries.float(), keys.float()) * queries.shape[-1] ** -0.5
    share = logits.masked_fill(~visible, -torch.inf).softmax(-1)
    return share.sum((0, 1)) / visible.sum(0).clamp(min=1)


def top_p_tokens(mass: torch.Tensor, tau: float) -> torch.Tensor:
    """Indices, in order, of the fewest tokens whose mass covers ``tau`` of all (Eq. 7); the earlier wins ties."""
    if tau >= 1:
        return torch.arange(len(mass), device=mass.device)
    ranked, order = mass.double().sort(descending=True, stable=True)
    count = int((ranked.cumsum(0) < tau * (1 - 1e-6) * ranked.sum()).sum()) + 1
    return order[:count].sort().values
