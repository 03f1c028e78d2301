"""The latents of many stories, with what a teacher-forced step needs to know of them; made once, kept on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn.functional import avg_pool2d

from blockvid_cli.models.sentence_encoder import embed
from blockvid_cli.models.sentence_encoder import top_k_similar
from blockvid_cli.models.sentence_encoder import TextEncoder
from blockvid_cli.models.tiny_vae import PATCH, TinyVAE, fold
from blockvid_cli.storybook.rendering import render_story
from blockvid_cli.storybook.edition import Edition
from blockvid_cli.storybook.stories import Story
from blockvid_cli.training import checkpoints

RECENT, TOP = 1, 2  # of the bundled recipe's memory


@dataclass(frozen=True)
class StoryLatents:
    """N stories of L latent frames, C channels: latents (N, L, C, h, w) half, subject's share (N, L, 1, h, w) half.

    ``captions`` (captions, tokens, D) half are all distinct captions; ``caption`` (N, blocks) says which a block has;
    ``chunk`` (N, blocks) which chunk, from 0; ``alike`` for each story and chunk the chunks it is reminded of;
    ``cuts`` for each story which chunks begin a shot; a story's first does not.
    """

    latents: torch.Tensor
    subject: torch.Tensor
    captions: torch.Tensor
    caption: torch.Tensor
    chunk: torch.Tensor
    alike: list[list[tuple[int, ...]]]
    cuts: list[list[bool]]
    block: int

    def blocks(self, stories: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        """Latents (B, F, C, h, w) of block numbers[i] of stories[i]."""
        return _cut(self.latents, stories, numbers, self.block)

    def subjects(self, stories: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        """The subject's share (B, F, 1, h, w) of the same."""
        return _cut(self.subject, stories, numbers, self.block)

    def reads(self, stories: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        """Caption tokens (B, tokens, D) of the same."""
        return self.captions[self.caption[stories, numbers]].float()


def _cut(values: torch.Tensor, stories: torch.Tensor, numbers: torch.Tensor, block: int) -> torch.Tensor:
    frames = numbers[:, None] * block + torch.arange(block)
    return values[stories[:, None], frames].float()


def story_latents(
    edition: Edition,
    codec: TinyVAE,
    encoder: TextEncoder,
    stories: list[Story],
    file: Path,
    tell_progress: Callable,
) -> StoryLatents:
    """Draws and encodes stories, or reads them back from ``file`` if it was made of the same stories and codec."""
    made_of = _made_of(edition, codec, stories)
    state = checkpoints.load(file)
    if state is None or state["made_of"] != made_of:
        state = {**_encode(edition, codec, stories, tell_progress), "made_of": made_of}
        checkpoints.save(file, state)
    words = sorted({chunk.caption for story in stories for chunk in story.chunks})
    index = {caption: number for number, caption in enumerate(words)}
    return StoryLatents(
        latents=state["latents"],
        subject=state["subject"],
        captions=torch.cat([encoder(words[i : i + 256]) for i in range(0, len(words), 256)]).half(),
        caption=torch.tensor([[index[c.caption] for c in s.chunks for _ in range(c.blocks)] for s in stories]),
        chunk=torch.tensor([[n for n, c in enumerate(s.chunks) for _ in range(c.blocks)] for s in stories]),
        alike=_alike(stories),
        cuts=[[chunk.cut for chunk in story.chunks] for story in stories],
        block=edition.block,
    )


def recent_chunks(cuts: Sequence[bool], chunk: int) -> range:
    """The ``RECENT`` chunks before a chunk that are of its shot; ``cuts`` says which chunks begin one."""
    first = max((number for number in range(1, chunk + 1) if cuts[number]), default=0)
    return range(max(chunk - RECENT, first), chunk)


def _made_of(edition: Edition, codec: TinyVAE, stories: list[Story]) -> str:
    """A hash of all that decides the latents."""
    digest = hashlib.sha256(repr((edition, stories)).encode())
    for value in codec.state_dict().values():
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _alike(stories: list[Story]) -> list[list[tuple[int, ...]]]:
    """For each story and chunk, the ``TOP`` chunks it is reminded of beside its ``RECENT`` most recent."""
    words = [chunk.caption for story in stories for chunk in story.chunks]
    embeddings = embed(words)
    out, first = [], 0
    for story in stories:
        mine = embeddings[first : first + len(story.chunks)]
        cuts = [chunk.cut for chunk in story.chunks]
        out.append(
            [
                top_k_similar(mine, [n for n in range(c) if n not in recent_chunks(cuts, c)], c, TOP)
                for c in range(len(story.chunks))
            ]
        )
        first += len(story.chunks)
    return out


@torch.no_grad()
def _encode(
    edition: Edition, codec: TinyVAE, stories: list[Story], tell_progress: Callable
) -> dict[str, torch.Tensor]:
    mean, std, device = codec.mean.view(-1, 1, 1), codec.std.view(-1, 1, 1), codec.mean.device
    latents, subjects = [], []
    for number, story in enumerate(stories):
        frames, share = render_story(story, edition, str(device))
        with torch.autocast(device.type, torch.bfloat16):
            z, _ = codec.encoder(fold(frames[None])[0].contiguous(memory_format=torch.channels_last), 1, [])
        latents.append(((z.float() - mean) / std).half().cpu())
        folded = torch.cat([share[:1].expand(3, -1, -1, -1), share]).unflatten(0, (-1, 4)).mean(1)
        subjects.append(avg_pool2d(folded, PATCH).half().cpu())
        if number % 100 == 0:
            tell_progress({"stories": number, "of": len(stories)})
    return {"latents": torch.stack(latents), "subject": torch.stack(subjects)}
