"""The rollout: the loop over a schedule's steps in which blocks are denoised, cached and handed on.

    schedule -> step -> [KV cache -> view -> positions -> denoiser -> solver] -> finished? -> verifier -> cache update
                 ^                                                                  |                        |
                 `------------------------------------------------------------------+--- next step ----------'
    finished blocks of an earlier render enter at the cache update, and are not denoised again

Rendering, preview, evaluation and training run this one loop (BlockVid, Figure 3). Latents are (B, F, C, H, W) inside:
B films whose plans have the same layout are denoised in one batch; one film is a batch of 1.
"""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from blockvid_cli.models.flow_matching import add_noise
from blockvid_cli.models.wan.attention import LayerQKV
from blockvid_cli.rollout.conditioning import NO_CONDITIONING
from blockvid_cli.rollout.kv_cache.base import KVView
from blockvid_cli.rollout.passes import Passes, RolloutSegment
from blockvid_cli.rollout.schedules.step import CLEAN, Step, sigma_paths, split_rounds
from blockvid_cli.rollout.solvers import Stepper
from blockvid_cli.storyboard.plan import Block


@dataclass(frozen=True)
class StepResult:
    """What a step did: the blocks it denoised, how far they are (0..1), and which of them are finished.

    Args:
        finished: clean latents, (F, C, H, W) of one film or (B, F, C, H, W) of a batch; attached to the graph of a
            step that learns.
        resumed: the blocks come from an earlier render.
    """

    blocks: tuple[Block, ...]
    progress: float
    finished: tuple[tuple[Block, torch.Tensor], ...] = ()
    resumed: bool = False


@dataclass
class ActiveBlock:
    """A block that is being denoised: its latents (B, F, C, H, W), detached, and its stepper."""

    latents: torch.Tensor
    stepper: Stepper


class Rollout(Passes):
    """The loop over all steps of a film, or of a batch of films."""

    def run(
        self, segments: Sequence[RolloutSegment], done: Mapping[int, torch.Tensor] | None = None
    ) -> Iterator[StepResult]:
        """All steps of one film; latents are (F, C, H, W).

        Args:
            done: clean latents by block number from an earlier, unfinished render.
        """
        if self.batch:
            raise ValueError("run is for one film; run_batch is for a batch")
        for result in self.run_batch(segments, {number: latents[None] for number, latents in (done or {}).items()}):
            yield replace(result, finished=tuple((block, latents[0]) for block, latents in result.finished))

    def run_batch(
        self, segments: Sequence[RolloutSegment], done: Mapping[int, torch.Tensor] | None = None
    ) -> Iterator[StepResult]:
        """All steps of all films of the batch; latents, those of ``done`` as well, are (B, F, C, H, W)."""
        done = done or {}
        self.begin()
        for segment in segments:
            self.clean_latents |= {
                b.number: (segment, done[b.number].cpu()) for b in segment.blocks if b.number in done
            }
        for index, segment in enumerate(segments):
            steps = self.steps(segment)
            missing_later = any(b.number not in done for later in segments[index + 1 :] for b in later.blocks)
            settled = self._settled(segment, steps, set(done), missing_later)
            for part in split_rounds(steps):
                yield from self._round(segment, part, settled, done)

    def steps(self, segment: RolloutSegment) -> list[Step]:
        """The steps of a segment, next to all blocks that are clean now."""
        numbers = {block.number for block in segment.blocks}
        before = [self.plan.blocks[number] for number in sorted(self.clean_latents) if number not in numbers]
        return list(segment.recipe.schedule.steps(segment.blocks, segment.recipe.sigmas, before))

    def _settled(self, segment: RolloutSegment, steps: Sequence[Step], done: set[int], missing_later: bool) -> set[int]:
        """The done blocks that are not denoised again; none before a missing one if the cache needs last steps."""
        settled = segment.recipe.schedule.settled(steps, done)
        if segment.recipe.cache_update.resumable or not self.kv_cache.needs_update:
            return settled
        last = max((i for i, step in enumerate(steps) if not done.issuperset(step.moving)), default=-1)
        last = len(steps) if missing_later else last
        return settled - {number for step in steps[: last + 1] for number in step.moving}

    def _round(
        self, segment: RolloutSegment, steps: Sequence[Step], settled: set[int], done: Mapping[int, torch.Tensor]
    ) -> Iterator[StepResult]:
        """Blocks from their first step to their last, again from other noise for as long as the verifier refuses."""
        for attempt in itertools.count():
            accepted = yield from self._attempt(segment, steps, settled, done, attempt)
            if accepted:
                return

    def _attempt(
        self,
        segment: RolloutSegment,
        steps: Sequence[Step],
        settled: set[int],
        done: Mapping[int, torch.Tensor],
        attempt: int,
    ) -> Generator[StepResult, None, bool]:
        paths = sigma_paths(steps)
        active: dict[int, ActiveBlock] = {}
        view, viewed = KVView(), None
        for step in steps:
            group = tuple(self.plan.blocks[number] for number in step.blocks)
            if settled.issuperset(step.moving):
                yield from self._resume(segment, step, done)
                continue
            for block in group:
                if block.number in step.moving and block.number not in active:
                    active[block.number] = self._start(segment, block, paths[block.number], attempt)
            if viewed != (step.blocks, self.kv_cache.version):
                view = KVView()  # the one before goes first: views are the largest thing there is
                view, viewed = self.kv_cache.view(group), (step.blocks, self.kv_cache.version)
            moved, layers = self._denoise_step(segment, group, step, active, view)
            finished = tuple((block, moved[block.number]) for block in group if _ends(step, block.number))
            result = StepResult(
                tuple(block for block in group if block.number in moved), segment.recipe.progress(step.moves[0][2])
            )
            if not self._accepted(segment, finished, attempt):
                yield result
                return False
            for block, _ in finished:
                del active[block.number]
            self.update_group(segment, group, step, moved, view, layers)
            yield replace(result, finished=finished)
        return True

    def _start(self, segment: RolloutSegment, block: Block, path: Sequence[float], attempt: int) -> ActiveBlock:
        """A block's noise and its stepper; the cache is notified of a new prompt and of a cut."""
        if not attempt:
            self._notify_cache(block)
        part, finished = segment.recipe.noise, {number: self.clean_latents[number][1] for number in self.finished}
        noise = self.films.noise(part, block, finished, attempt)
        stepper = segment.recipe.solver.begin(
            path, lambda sigma: self.films.noise(part, block, finished, attempt, renoise_at=sigma)
        )
        return ActiveBlock(*self.conditioning.inpaint(block, noise.to(self.device), stepper))

    def _denoise_step(
        self,
        segment: RolloutSegment,
        group: tuple[Block, ...],
        step: Step,
        active: dict[int, ActiveBlock],
        view: KVView,
    ) -> tuple[dict[int, torch.Tensor], list[LayerQKV]]:
        """The moving blocks' latents after a step, and what the layers computed where the cache takes it from here."""
        sources = list(zip(group, step.sigma, strict=True))
        x = torch.cat(
            [active[b.number].latents if b.number in active else self._context(b, sigma, step) for b, sigma in sources],
            1,
        )
        sigma = torch.cat(
            [(self.conditioning if b.number in active else NO_CONDITIONING).sigmas(b, sigma) for b, sigma in sources]
        )
        update = segment.recipe.cache_update
        due = any(update.due(self.plan.blocks[n], a, b) for n, a, b in step.moves)
        view.record = self.kv_cache.needs_update and update.source == "last-step" and due
        with torch.set_grad_enabled(step.learn):
            velocity, layers = self.denoise(segment, group, x, sigma, view)
            parts = dict(zip(step.blocks, velocity.split([block.frames for block in group], 1), strict=True))
            moved = {n: active[n].stepper(active[n].latents, parts[n], a, b) for n, a, b in step.moves}
        for number, latents in moved.items():
            active[number].latents = latents.detach()
        return moved, layers

    def _context(self, block: Block, sigma: float, step: Step) -> torch.Tensor:
        """A finished block that is context at a sigma, with noise of its own in every step where that is above 0."""
        clean = self.clean_latents[block.number][1].to(self.device)
        return add_noise(clean, self.films.context_noise(block, step).to(clean), sigma) if sigma else clean

    def _accepted(self, segment: RolloutSegment, finished: Sequence[tuple[Block, torch.Tensor]], attempt: int) -> bool:
        """Whether the verifier accepts all finished blocks of all films; the last attempt is accepted unseen."""
        verifier = segment.recipe.verifier
        if attempt + 1 >= verifier.attempts:
            return True
        return all(
            verifier.accept(plan.blocks[block.number], latents[film].detach(), attempt)
            for block, latents in finished
            for film, plan in enumerate(self.films.plans)
        )

    def _notify_cache(self, block: Block) -> None:
        chunk = self.plan.chunks[block.chunk - 1]
        if block.number == chunk.blocks[0].number and block.number:
            self.kv_cache.on_prompt_change(block)
            if chunk.cut:
                self.kv_cache.on_cut(block)

    def _resume(self, segment: RolloutSegment, step: Step, done: Mapping[int, torch.Tensor]) -> Iterator[StepResult]:
        """Blocks that are clean already: cached in the step in which they were finished, not denoised again."""
        for number, sigma, sigma_next in step.moves:
            block = self.plan.blocks[number]
            if sigma == segment.recipe.sigmas[0]:
                self._notify_cache(block)
            if sigma_next == CLEAN:
                latents = done[number].to(self.device)
                self.add_finished(segment, block, latents)
                yield StepResult((block,), 1.0, ((block, latents),), resumed=True)


def _ends(step: Step, number: int) -> bool:
    """Whether a step finishes a block."""
    return any(n == number and sigma_next == CLEAN for n, _, sigma_next in step.moves)


class ReorderBuffer:
    """Holds finished blocks back until they are next in the film; ``first`` is the number of the first."""

    def __init__(self, first: int = 0) -> None:
        self.next_number = first
        self.waiting: dict[int, tuple[Block, torch.Tensor]] = {}

    def push(self, block: Block, latents: torch.Tensor) -> Iterator[tuple[Block, torch.Tensor]]:
        """Takes a finished block, and gives all blocks that are next in the film now, in order."""
        self.waiting[block.number] = block, latents
        while self.next_number in self.waiting:
            yield self.waiting.pop(self.next_number)
            self.next_number += 1
