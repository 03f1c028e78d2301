"""What a film is drawn from: hashes that say when a chunk must be drawn anew, and all it takes to draw it again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from importlib import metadata
from typing import Any

from blockvid_cli import __version__
from blockvid_cli.job import RenderJob
from blockvid_cli.models.hub import fingerprint
from blockvid_cli.project.cache_keys import ChunkKeys, chain
from blockvid_cli.storyboard.plan import PlannedChunk
from blockvid_cli.storyboard.presentation import Audio
from blockvid_cli.storyboard.storyboard import Storyboard
from blockvid_cli.video.reference_images import ReferenceImage


def content(job: RenderJob) -> ChunkKeys:
    """A content hash a chunk: it changes when anything that decides its latents does, or an earlier chunk's does.

    Where blocks are drawn beside later ones, the whole film decides.
    """
    base = {
        "weights": fingerprint(job.card),
        "recipe": job.recipe_values,
        "size": list(job.plan.size),
        "seed": job.plan.seed,
        "text": job.card.text.model_dump(),
        "precision": job.preset.precision.name,
        "memory": job.preset.kv_dtype,
        "guided": job.guided,
    }
    joint = any(2 in recipe.schedule.needs(1, 2) for recipe in job.recipes)
    parts = [
        {
            "caption": chunk.prompt,
            "compared": chunk.retrieval_text,
            "negative": chunk.negative_prompt,
            "seed": chunk.seed,
            "cut": chunk.cut,
            "first": chunk.blocks[0].first,
            "blocks": len(chunk.blocks) if joint or recipe.noise.whole_chunk else None,
            "recipe": written.recipe,
            **_given(job, chunk, lambda guide: guide.sha256),
        }
        for chunk, written, recipe in zip(job.plan.chunks, job.storyboard.chunks, job.recipes, strict=True)
    ]
    return chain(parts, {**base, "film": parts if joint else None}, {} if joint else job.takes)


def _given(job: RenderJob, chunk: PlannedChunk, told: Callable[[ReferenceImage], Any]) -> dict[str, Any]:
    """What is told of a chunk's pictures, by latent frame of the chunk; nothing where it has none."""
    given = {str(frame): told(guide) for frame, guide in job.chunk_images(chunk).items()}
    return {"given": given} if given else {}


def manifest(job: RenderJob) -> dict[str, Any]:
    """Everything needed to draw the film again."""
    board = job.storyboard
    chunks = [
        {
            "caption": chunk.caption,
            "start": chunk.start,
            "end": chunk.end,
            "seed": chunk.seed,
            "take": chunk.take,
            "cut": chunk.cut,
            "negative": written.negative,
            "recipe": written.recipe,
            **_given(job, chunk, lambda guide: {"file": str(guide.file), "sha256": guide.sha256}),
        }
        for chunk, written in zip(job.plan.chunks, board.chunks, strict=True)
    ]
    return {
        "blockvid": __version__,
        "libraries": {name: metadata.version(name) for name in ("torch", "diffusers", "transformers")},
        "title": board.title,
        "model": job.card.name,
        "weights": fingerprint(job.card),
        "seed": job.plan.seed,
        "size": list(job.plan.size),
        "fps": job.plan.fps,
        "frames": job.plan.frames,
        "device": job.device.split(":")[0],
        "precision": job.preset.precision.name,
        "profile": job.preset.name,
        "style": board.style,
        "negative": board.negative,
        "dress": _dress(board),
        "recipe": job.recipe_values,
        "chunks": chunks,
    }


def _dress(board: Storyboard) -> dict[str, Any]:
    """How the film looks and sounds, given its pictures: nothing of it decides what is drawn."""
    words = ("subtitle", "transition", "transition_seconds")
    chunks = [{**{n: getattr(chunk, n) for n in words}, "audio": _sound(chunk.audio)} for chunk in board.chunks]
    return {
        "audio": _sound(board.audio),
        "subtitles": board.subtitles,
        "title_card": asdict(board.title_card) if board.title_card else None,
        "end_card": asdict(board.end_card) if board.end_card else None,
        "font": str(board.font) if board.font else None,
        "chunks": chunks,
    }


def _sound(audio: Audio | None) -> dict[str, Any] | None:
    return {**asdict(audio), "file": str(audio.file)} if audio else None
