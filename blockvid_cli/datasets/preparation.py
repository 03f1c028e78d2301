"""Prepares a dataset for a model: what it takes on disk, then latents and prompt embeddings, resumable."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from blockvid_cli.datasets.cache import LatentCache, PromptCache, video_format
from blockvid_cli.datasets.films import plan_video
from blockvid_cli.datasets.folder import Dataset, VideoRow
from blockvid_cli.errors import lookup
from blockvid_cli.job import REWRITERS
from blockvid_cli.models.card import ModelCard
from blockvid_cli.models.loading import load_text_encoder, load_vae
from blockvid_cli.storyboard.plan import Plan

BYTES_A_PROMPT = 60_000  # about, of a sentence by a large encoder

Report = Callable[[str, int, int], None]


@dataclass(frozen=True)
class PreparationEstimate:
    """What is still to be done: videos, prompts, and bytes on disk."""

    videos: int
    prompts: int
    bytes: int


def missing_videos(dataset: Dataset, latents: LatentCache) -> int:
    """How many videos have no latents, or have changed since."""
    return sum(len(latents.missing(split)) for split in dataset.splits.values())


def estimate(dataset: Dataset, card: ModelCard) -> PreparationEstimate:
    """What preparing a dataset takes; nothing is decoded."""
    latents = LatentCache(dataset.root, card, video_format(dataset.settings, card))
    prompts = PromptCache(dataset.root, card)
    videos = size = 0
    texts: set[str] = set()
    for split in dataset.splits.values():
        for number in latents.missing(split):
            videos += 1
            size += latents.bytes_of(_seconds(split[number]))
        texts.update(text for row in split for text in (span.caption for span in row.spans()))
    missing = len(prompts.missing(sorted(texts))) if card.text.rewriter == "none" else len(texts)
    return PreparationEstimate(videos, missing, size + missing * BYTES_A_PROMPT)


def _seconds(row: VideoRow) -> float:
    return row.duration or (row.chunks[-1].end if row.chunks else 0.0)


def prepare_dataset(
    dataset: Dataset, card: ModelCard, device: str, report: Report, rank: int = 0, ranks: int = 1
) -> None:
    """Encodes what is missing; called again, it goes on.

    Raises:
        MissingModelError: the model's VAE or text encoder is not on this machine.
        UsageError: a video cannot be decoded.
        BlockvidError: the cache cannot be written to (``PartialError``: the disk is full).
    """
    latents = LatentCache(dataset.root, card, video_format(dataset.settings, card))
    if missing_videos(dataset, latents):
        vae = load_vae(card, device, tiled=True)
        for name, split in dataset.splits.items():
            latents.fill(split, vae, partial(report, f"{name}: latents"), rank, ranks)
        del vae
    prompts = PromptCache(dataset.root, card)
    texts = sorted(dataset_prompts(dataset, card, latents))
    if prompts.missing(texts):
        encoder = load_text_encoder(card, device)
        prompts.fill(texts, encoder, partial(report, "prompts"), rank, ranks)


def dataset_prompts(dataset: Dataset, card: ModelCard, latents: LatentCache) -> set[str]:
    """All prompts that training reads, the empty one too."""
    texts = {""}
    for split in dataset.splits.values():
        for row in split:
            plan = plan_video(row, split, card, latents.form, latents.frames(split, row))
            if plan is not None:
                texts.update(chunk.prompt for chunk in rewrite(plan, card).chunks)
    return texts


def rewrite(plan: Plan, card: ModelCard) -> Plan:
    """A plan with the prompts that the model reads, as a render rewrites captions."""
    return lookup("text.rewriter", REWRITERS, card.text.rewriter)(plan, card)
