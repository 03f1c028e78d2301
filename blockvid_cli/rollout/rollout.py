"""THE loop: blocks are denoised over a memory, committed to it, and handed on, one moment after another.

    schedule -> step -> [memory.choose -> times -> denoiser -> solver] -> finished? -> commit -> memory.remember
                                                                              |
    resumed blocks come in here, already clean ------------------------------'

Rendering, preview, evaluation and training by self-rollout are all users of this iterator (BlockVid, Figure 3).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from blockvid_cli.models.flow_matching import add_noise
from blockvid_cli.models.wan.attention import LayerQKV
from blockvid_cli.models.wan.denoiser import Denoiser
from blockvid_cli.models.wan.rope import Rope, token_grid
from blockvid_cli.rollout.conditioning import NO_CONDITIONING, FrameConditioning
from blockvid_cli.rollout.kv_cache.base import KVCache, KVView
from blockvid_cli.rollout.noise import gaussian
from blockvid_cli.rollout.recipe import Recipe
from blockvid_cli.rollout.schedules.step import Step
from blockvid_cli.rollout.solvers import Stepper
from blockvid_cli.storyboard.plan import Block, Plan

PromptSource = Callable[[Sequence[Block]], torch.Tensor]


@dataclass(frozen=True)
class RolloutSegment:
    """Consecutive blocks drawn by one recipe, and the denoiser it draws with (guided or not)."""

    blocks: tuple[Block, ...]
    recipe: Recipe
    denoiser: Denoiser


@dataclass(frozen=True)
class StepResult:
    """After a step: what was drawn, how far it is (0..1), and what is finished."""

    blocks: tuple[Block, ...]
    progress: float
    finished: tuple[tuple[Block, torch.Tensor], ...] = ()  # clean latents (F, C, H, W)
    resumed: bool = False


@dataclass
class Rollout:
    """What all runs of a film share.

    Args:
        plan: the film's blocks.
        memory: begun here, filled as blocks finish.
        rope: the network's rotation.
        patch: (frames, rows, columns) of latent pixels a token.
        read: the caption tokens of some blocks: (rows, L, D), or (rows, F, L, D) when captions differ.
        device: where latents live while they are drawn.
        given: latent frames that are not drawn but held.
    """

    plan: Plan
    kv_cache: KVCache
    rope: Rope
    patch: tuple[int, int, int]
    prompts: PromptSource
    device: str = "cpu"
    conditioning: FrameConditioning = NO_CONDITIONING
    finished: dict[int, tuple[RolloutSegment, torch.Tensor]] = field(default_factory=dict)  # clean latents, on the CPU

    def run(self, runs: Sequence[RolloutSegment], done: Mapping[int, torch.Tensor] | None = None) -> Iterator[StepResult]:
        """Every moment of the film; ``done`` are clean latents by block number from an earlier, unfinished render."""
        self.kv_cache.begin(self.plan.chunks, self.rope)
        done = done or {}
        self.finished.clear()
        self.finished |= {b.number: (run, done[b.number].cpu()) for run in runs for b in run.blocks if b.number in done}
        for run in runs:
            yield from self._run(run, done)

    def _run(self, run: RolloutSegment, done: Mapping[int, torch.Tensor]) -> Iterator[StepResult]:
        recipe, first = run.recipe, run.blocks[0].number
        steps = [_moved(step, first) for step in recipe.schedule.steps(len(run.blocks), recipe.sigmas)]
        settled = settled_blocks(steps, set(done))
        drawing: dict[int, tuple[torch.Tensor, Stepper]] = {}
        view, looked = KVView(), ()
        for step in steps:
            group = tuple(self.plan.blocks[number] for number in step.blocks)
            if settled.issuperset(step.moving):
                yield from self._resume(run, step, group, done)
                continue
            for block in group:
                if block.number in step.moving and block.number not in drawing:
                    drawing[block.number] = self._start(run, block)
            if step.blocks != looked:
                view = KVView()  # the one before goes first: views are the largest thing there is
                view, looked = self.kv_cache.view(group), step.blocks
            held = list(zip(group, step.sigma, strict=True))
            x = torch.cat(
                [drawing[b.number][0] if b.number in drawing else self._held(b, now, step) for b, now in held]
            )
            level = torch.cat([(self.conditioning if b.number in drawing else NO_CONDITIONING).sigmas(b, now) for b, now in held])
            times = self._times(run, view, group)
            velocity = run.denoiser(x[None], level.to(x.device), self.prompts(group), times, view)[0]
            parts = velocity[0].split([block.frames for block in group])
            moved = [part for part in zip(group, parts, step.sigma, step.sigma_next, strict=True) if part[0].number in drawing]
            for block, part, now, then in moved:
                latents, stepper = drawing[block.number]
                drawing[block.number] = stepper(latents, part, now, then), stepper
            clean = [block for block, _, _, then in moved if then == recipe.sigmas[-1]]
            finished = tuple((block, drawing.pop(block.number)[0]) for block in clean)
            for block, latents in finished:
                self._commit(run, block, latents, view if group == (block,) else None)
            yield StepResult(tuple(part[0] for part in moved), recipe.progress(moved[0][3]), finished)

    def _start(self, run: RolloutSegment, block: Block) -> tuple[torch.Tensor, Stepper]:
        """A block's noise and its stepper; the memory hears of captions and cuts."""
        self._announce(block)
        chunk = self.plan.chunks[block.chunk - 1].blocks
        span = range(chunk[0].first, chunk[-1].first + chunk[-1].frames)
        noise = run.recipe.noise(block, span, self.plan.seed, self.plan.latent).to(self.device)
        return self.conditioning.inpaint(block, noise, run.recipe.solver.begin(run.recipe.sigmas, (block.seed, block.number)))

    def _held(self, block: Block, level: float, step: Step) -> torch.Tensor:
        """A finished block shown again at a level, with noise of its own in every step where that is above 0."""
        clean = self.finished[block.number][1].to(self.device)
        if not level:
            return clean
        noise = gaussian(tuple(clean.shape), "held", block.seed, block.number, *step.sigma)
        return add_noise(clean, noise.to(clean), level)

    def _announce(self, block: Block) -> None:
        chunk = self.plan.chunks[block.chunk - 1]
        if block.number == chunk.blocks[0].number and block.number:
            self.kv_cache.on_prompt_change(block)
            if chunk.cut:
                self.kv_cache.on_cut(block)

    def _resume(
        self, run: RolloutSegment, step: Step, group: tuple[Block, ...], done: Mapping[int, torch.Tensor]
    ) -> Iterator[StepResult]:
        """Blocks that are already clean: remembered in the step in which they were finished, not drawn again."""
        for block, now, then in zip(group, step.sigma, step.sigma_next, strict=True):
            if now == then:
                continue
            if now == run.recipe.sigmas[0]:
                self._announce(block)
            if then == run.recipe.sigmas[-1]:
                latents = done[block.number].to(self.device)
                self._commit(run, block, latents)
                yield StepResult((block,), 1.0, ((block, latents),), resumed=True)

    def _commit(self, run: RolloutSegment, block: Block, clean: torch.Tensor, view: KVView | None = None) -> None:
        """Keeps the finished block, and what the network's layers see of it where the memory remembers."""
        self.finished[block.number] = run, clean.cpu()
        if self.kv_cache.needs_update:
            self.kv_cache.update(block, *self._shown(run, block, clean, view))

    def recompute(self, block: Block) -> tuple[list[LayerQKV], torch.Tensor]:
        """What the layers see of a block that was finished and committed alone: the same again."""
        run, clean = self.finished[block.number]
        return self._shown(run, block, clean.to(self.device))

    def _shown(
        self, run: RolloutSegment, block: Block, clean: torch.Tensor, view: KVView | None = None
    ) -> tuple[list[LayerQKV], torch.Tensor]:
        """Shows a finished block to the network once more: each layer's tokens, and their coordinates.

        ``view`` is what the block looked back at while it was drawn, where it was drawn by itself.
        """
        commit = run.recipe.cache_update
        view = KVView() if commit.self_only else view or self.kv_cache.view((block,))
        view.record = True
        level = torch.full((block.frames,), commit.sigma, device=clean.device)
        shown = commit.context_latents(block, clean)
        _, layers = run.denoiser(shown[None], level, self.prompts((block,)), self._times(run, view, (block,)), view)
        height, width = clean.shape[2] // self.patch[1], clean.shape[3] // self.patch[2]
        return layers, token_grid(block.frames, height, width)

    def _times(self, run: RolloutSegment, view: KVView, group: Sequence[Block]) -> torch.Tensor:
        new = [block.first + frame for block in group for frame in range(block.frames)]
        return run.recipe.positions(view.frames, new)


def settled_blocks(steps: Sequence[Step], done: set[int]) -> set[int]:
    """The done blocks that no undone block was ever denoised with: only these need not be drawn again."""
    undone = {number for step in steps for number in step.moving} - done
    while True:
        joined = {n for step in steps if undone.intersection(step.moving) for n in step.moving}
        if joined == undone:
            return done - undone
        undone = joined


def _moved(step: Step, first: int) -> Step:
    """A run's step, its blocks numbered as in the film."""
    return Step(tuple(number + first for number in step.blocks), step.sigma, step.sigma_next)
