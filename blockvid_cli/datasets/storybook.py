"""The picture book as training data: clips for the VAE, and stories as latents with the context of every block.

    chunks     0 0 0 | 1 1 | 2 2 2 | 3 3 3     a story's blocks; the target of a window is the second block of chunk 3
    context    the blocks that the recipe's KV cache shows the target: with a semantic cache of recent 1, top 2 and
               last_blocks 1 the last blocks of chunks 0 and 1 (retrieved) and 2 (recent), then the block before

The context is recorded from a rollout of the plan itself, so retrieval, windows, sinks and cuts are those of rendering.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch.nn.functional import avg_pool2d

from blockvid_cli.errors import UsageError
from blockvid_cli.files import open_regular_file
from blockvid_cli.models.sentence_encoder import TextEncoder
from blockvid_cli.models.tiny_vae import FOLD, PATCH, TinyVAE, fold
from blockvid_cli.models.wan.attention import KVSource, LayerQKV
from blockvid_cli.models.wan.rope import Rope
from blockvid_cli.project.atomic_files import write_atomically
from blockvid_cli.rollout.positions import Absolute
from blockvid_cli.rollout.recipe import Recipe
from blockvid_cli.rollout.rollout import Rollout, RolloutSegment
from blockvid_cli.rollout.schedules.block import BlockSchedule
from blockvid_cli.rollout.solvers import Euler
from blockvid_cli.storyboard.plan import Plan, PlannedChunk
from blockvid_cli.storybook.edition import Edition
from blockvid_cli.storybook.rendering import render_story
from blockvid_cli.storybook.stories import Story, make_story

RESTING = 0.25  # the share taken of clips in which nothing moves
SHOT_STARTS = 0.15  # the share of targets that begin a shot


class StoryClips:
    """Stories ``seeds``, each ``blocks`` long, as bytes in memory; random clips of them as batches."""

    def __init__(self, edition: Edition, seeds: range, blocks: int, device: str = "cpu") -> None:
        stories = (render_story(make_story(edition, seed, blocks), edition, device) for seed in seeds)
        frames, subjects = zip(*((_to_bytes(frames), _to_bytes(subject)) for frames, subject in stories), strict=True)
        self.frames = torch.stack(frames)  # (N, F, 3, H, W)
        self.subject = torch.stack(subjects)  # (N, F, 1, H, W)

    def batch(
        self, generator: torch.Generator, clips: int, frames: int, crop: tuple[int, int] | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Random clips (B, F, 3, H, W) and subjects (B, F, 1, H, W) in 0..1; crops (h, w) contain subject pixels.

        Clips begin where a latent frame ends; of those in which nothing moves, which are easy, only a share is taken.
        """
        height, width = self.frames.shape[3:]
        chosen_frames, chosen_subjects = [], []
        while len(chosen_frames) < clips:
            story = int(torch.randint(len(self.frames), (), generator=generator))
            start = FOLD * int(torch.randint((self.frames.shape[1] - frames) // FOLD + 1, (), generator=generator))
            skip_resting = float(torch.rand((), generator=generator)) >= RESTING
            if skip_resting and torch.equal(self.subject[story, start], self.subject[story, start + frames - 1]):
                continue
            rows = columns = slice(None)
            if crop:
                pixel = self._subject_pixel(story, start, generator)
                rows, columns = (
                    _random_span(position, size, end, generator)
                    for position, size, end in zip(pixel, crop, (height, width), strict=True)
                )
            chosen_frames.append(self.frames[story, start : start + frames, :, rows, columns])
            chosen_subjects.append(self.subject[story, start : start + frames, :, rows, columns])
        return torch.stack(chosen_frames).float() / 255, torch.stack(chosen_subjects).float() / 255

    def _subject_pixel(self, story: int, frame: int, generator: torch.Generator) -> tuple[int, int]:
        """The row and column of a random pixel of the subject; of the frame, where there is none."""
        pixels = (self.subject[story, frame, 0] > 127).nonzero()
        if not len(pixels):
            pixels = torch.ones_like(self.subject[story, frame, 0]).nonzero()
        row, column = pixels[int(torch.randint(len(pixels), (), generator=generator))].tolist()
        return row, column


def _to_bytes(values: torch.Tensor) -> torch.Tensor:
    return (values.clamp(0, 1) * 255).round().to(torch.uint8)


def _random_span(position: int, size: int, end: int, generator: torch.Generator) -> slice:
    """A span of ``size`` that contains ``position``, on a grid of eight pixels, inside 0..end."""
    start = position - int(torch.randint(size, (), generator=generator))
    start = min(max(start // 8 * 8, 0), (end - size) // 8 * 8)
    return slice(start, start + size)


@dataclass(frozen=True)
class StoryLatents:
    """N stories of L latent frames with C channels, all of the same number of blocks.

    Args:
        latents: (N, L, C, h, w) half.
        subject: the subject's share of each latent pixel, (N, L, 1, h, w) half.
        prompts: the embeddings of all distinct prompts, (prompts, tokens, D) half.
        prompt_index: the row of each prompt.
        plans: one a story.
        context: for each story and block the numbers of the blocks it attends to.
    """

    latents: torch.Tensor
    subject: torch.Tensor
    prompts: torch.Tensor
    prompt_index: Mapping[str, int]
    plans: Sequence[Plan]
    context: Sequence[Sequence[Sequence[int]]]

    def block_latents(self, stories: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        """Latents (B, F, C, h, w) of block numbers[i] of stories[i]."""
        return self._block_frames(self.latents, stories, numbers)

    def block_subjects(self, stories: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        """The subject's share (B, F, 1, h, w) of the same blocks."""
        return self._block_frames(self.subject, stories, numbers)

    def embedding(self, prompt: str) -> torch.Tensor:
        """The embedding (1, tokens, D) of a prompt."""
        return self.prompts[self.prompt_index[prompt]].float()[None]

    def _block_frames(self, values: torch.Tensor, stories: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        size = self.plans[0].blocks[0].frames
        return values[stories[:, None], numbers[:, None] * size + torch.arange(size)].float()


def encode_stories(
    edition: Edition,
    vae: TinyVAE,
    encoder: TextEncoder,
    recipe: Recipe,
    stories: Sequence[Story],
    file: Path,
    notify: Callable[[dict[str, float]], None],
) -> StoryLatents:
    """Renders and encodes stories, or reads ``file`` if it was made of the same stories with the same VAE."""
    source = _source_hash(edition, vae, stories)
    tensors = _read_latents(file, source)
    if tensors is None:
        tensors = _encode(edition, vae, stories, notify)
        write_atomically(file, save(tensors, {"source": source}))
    texts = sorted({chunk.caption for story in stories for chunk in story.chunks})
    channels, height, width = tensors["latents"].shape[2:]
    plans = [plan_story(story, edition, (channels, height, width)) for story in stories]
    return StoryLatents(
        latents=tensors["latents"],
        subject=tensors["subject"],
        prompts=torch.cat([encoder(texts[i : i + 256]) for i in range(0, len(texts), 256)]).half(),
        prompt_index={caption: number for number, caption in enumerate(texts)},
        plans=plans,
        context=[attended_blocks(plan, recipe) for plan in plans],
    )


def plan_story(story: Story, edition: Edition, latent: tuple[int, int, int]) -> Plan:
    """The plan of a story, as if its captions came from a storyboard; latent is (C, h, w)."""
    chunks = [(chunk.caption, chunk.blocks, chunk.cut) for chunk in story.chunks]
    return plan_blocks(chunks, edition.block, latent, edition.size, edition.fps)


def plan_blocks(
    chunks: Iterable[tuple[str, int, bool]],
    block_frames: int,
    latent: tuple[int, int, int],
    size: tuple[int, int] = (0, 0),
    fps: float = 1.0,
    seed: int = 0,
) -> Plan:
    """A plan of chunks, each a prompt, a number of blocks, and whether it begins with a cut."""
    planned: list[PlannedChunk] = []
    block, shot = 0, 1
    for number, (prompt, count, cut) in enumerate(chunks, start=1):
        shot += cut
        first, end = (max(FOLD * block_frames * k - FOLD + 1, 0) for k in (block, block + count))
        planned.append(
            PlannedChunk(
                number=number,
                shot=shot,
                caption=prompt,
                prompt=prompt,
                negative_prompt="",
                start=first / fps,
                end=end / fps,
                first_frame=first,
                end_frame=end,
                first_block=block,
                block_count=count,
                block_frames=block_frames,
                seed=seed,
                cut=cut,
            )
        )
        block += count
    return Plan(
        chunks=tuple(planned), fps=float(fps), size=size, latent=latent, frames=planned[-1].end_frame, seed=seed
    )


def attended_blocks(plan: Plan, recipe: Recipe) -> list[tuple[int, ...]]:
    """For each block of a plan the numbers of the blocks it attends to: a rollout with a recipe's KV cache, but without
    a network, over latents of one pixel.

    Raises:
        UsageError: the cache shows a part of a block; windows are whole blocks.
    """
    small = replace(plan, latent=(1, 1, 1))
    recipe = replace(recipe, schedule=BlockSchedule(), solver=Euler(), positions=Absolute(), sigmas=(1.0, 0.0))
    recorder = _ViewRecorder()
    rollout = Rollout(small, recipe.kv_cache(), Rope(6), (1, 1, 1), lambda blocks: torch.zeros(1, 1, 1))
    for _ in rollout.run([RolloutSegment(small.blocks, recipe, recorder)]):
        pass
    contexts = [tuple(dict.fromkeys(frame // plan.blocks[0].frames for frame in frames)) for frames in recorder.frames]
    for frames, blocks in zip(recorder.frames, contexts, strict=True):
        if len(frames) != len(blocks) * plan.blocks[0].frames:
            raise UsageError("recipe.kv_cache: training attends to whole blocks; this cache shows a part of one.")
    return contexts


class _ViewRecorder:
    """Stands in for a denoiser and records the frames that each denoised block attends to."""

    def __init__(self) -> None:
        self.frames: list[tuple[int, ...]] = []

    def __call__(
        self, x: torch.Tensor, sigma: torch.Tensor, prompt: torch.Tensor, positions: torch.Tensor, view: KVSource
    ) -> tuple[torch.Tensor, list[LayerQKV]]:
        tokens = x.new_zeros(len(x), x.shape[1], 1, 6)
        if view.record:
            return x, [LayerQKV(tokens, tokens, tokens)]
        self.frames.append(tuple(positions[: -x.shape[1]].int().tolist()))  # absolute: the frames' numbers
        return x, []


def _source_hash(edition: Edition, vae: TinyVAE, stories: Sequence[Story]) -> str:
    """A hash of all that decides the latents."""
    digest = hashlib.sha256(repr((edition, stories)).encode())
    for value in vae.state_dict().values():
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _read_latents(file: Path, source: str) -> dict[str, torch.Tensor] | None:
    """The tensors of a file, or None where it is missing, damaged or made of something else."""
    try:
        with open_regular_file(file), safe_open(file, "pt") as content:
            return load_file(file) if (content.metadata() or {}).get("source") == source else None
    except (OSError, SafetensorError):
        return None


@torch.no_grad()
def _encode(
    edition: Edition, vae: TinyVAE, stories: Sequence[Story], notify: Callable[[dict[str, float]], None]
) -> dict[str, torch.Tensor]:
    mean, std, device = vae.mean.view(-1, 1, 1), vae.std.view(-1, 1, 1), vae.mean.device
    latents, subjects = [], []
    for number, story in enumerate(stories):
        frames, share = render_story(story, edition, str(device))
        with torch.autocast(device.type, torch.bfloat16):
            z, _ = vae.encoder(fold(frames[None])[0].contiguous(memory_format=torch.channels_last), 1, [])
        latents.append(((z.float() - mean) / std).half().cpu())
        folded = torch.cat([share[:1].expand(3, -1, -1, -1), share]).unflatten(0, (-1, 4)).mean(1)
        subjects.append(avg_pool2d(folded, PATCH).half().cpu())
        if number % 100 == 0:
            notify({"stories": number, "of": len(stories)})
    return {"latents": torch.stack(latents).contiguous(), "subject": torch.stack(subjects).contiguous()}


@dataclass(frozen=True)
class Windows:
    """B targets (story, block) and the blocks (B, E) they attend to, all of one E; the last is the one before."""

    stories: torch.Tensor
    targets: torch.Tensor
    context: torch.Tensor


def sample_windows(stories: StoryLatents, count: int, generator: torch.Generator, before: int = 0) -> Windows:
    """``count`` random windows whose contexts, and those of ``before`` blocks before each target, have one size."""
    sizes: list[int] | None = None
    pairs: list[tuple[int, int]] = []
    while len(pairs) < count:
        story = int(torch.randint(len(stories.plans), (), generator=generator))
        target = _sample_target(stories.plans[story], before, generator)
        candidate = [len(stories.context[story][target - back]) for back in range(before + 1)]
        sizes = sizes or candidate
        if candidate == sizes:
            pairs.append((story, target))
    return windows_at(stories, *(torch.tensor(values) for values in zip(*pairs, strict=True)))


def windows_at(stories: StoryLatents, chosen: torch.Tensor, targets: torch.Tensor) -> Windows:
    """The windows of the targets (B,) of stories ``chosen`` (B,)."""
    context = [stories.context[story][target] for story, target in zip(chosen.tolist(), targets.tolist(), strict=True)]
    return Windows(chosen, targets, torch.tensor(context, dtype=torch.long).view(len(context), -1))


def _sample_target(plan: Plan, before: int, generator: torch.Generator) -> int:
    """A block after the first: any, or, in a share of the cases, one that begins a shot; the latter only if ``before``
    is 0, because what lies before a cut is not attended to."""
    starts = [chunk.first_block for chunk in plan.chunks if chunk.cut]
    if starts and not before and float(torch.rand((), generator=generator)) < SHOT_STARTS:
        return starts[int(torch.randint(len(starts), (), generator=generator))]
    others = [number for number in range(1 + before, len(plan.blocks)) if not before or number not in starts]
    return others[int(torch.randint(len(others), (), generator=generator))]
