"""The identities and cache keys of a film's chunks, from its plan, its recipes and its numerics.

A film whose preset was lowered for lack of memory has chunks of two presets; each keeps the numerics by which it was
rendered.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from blockvid_cli.models.card import ModelCard
from blockvid_cli.models.hub import fingerprint
from blockvid_cli.project.identity import ChunkIdentity, ChunkKeys, TakeChoices, chunk_keys
from blockvid_cli.project.project import Numerics, stored_frames
from blockvid_cli.rollout.recipe import Recipe, recipe_values
from blockvid_cli.runtime.presets import ResolvedPreset
from blockvid_cli.storyboard.plan import Plan, PlannedChunk


def numerics_of(preset: ResolvedPreset) -> Numerics:
    """The numerics of a preset."""
    dtype = str(preset.vae_dtype).removeprefix("torch.")
    return Numerics(preset.precision.name, preset.kv_dtype, f"{dtype}, tiled" if preset.vae_tiling else dtype)


def guidance_rows(recipes: Sequence[Recipe]) -> int:
    """Rows of the batch: the most that any chunk needs; with guidance, the negative prompt is one."""
    return max(recipe.guidance.rows for recipe in recipes)


def film_keys(
    card: ModelCard,
    plan: Plan,
    recipes: Sequence[Recipe],
    images: Mapping[int, str],
    takes: TakeChoices,
    numerics: Sequence[Numerics],
) -> ChunkKeys:
    """The identities and cache keys of all chunks.

    Args:
        recipes, numerics: one a chunk.
        images: hashes of the images that the film is to show, by latent frame.
    """
    files = fingerprint(card), fingerprint(card, (card.vae,)) if images else ""
    identities = [_identity(card, files, plan, recipes, images, numerics, index) for index in range(len(plan.chunks))]
    needs = [recipe.schedule.needs(number, len(recipes)) for number, recipe in enumerate(recipes, start=1)]
    return chunk_keys(identities, needs, takes)


def _identity(
    card: ModelCard,
    files: tuple[str, str],
    plan: Plan,
    recipes: Sequence[Recipe],
    images: Mapping[int, str],
    numerics: Sequence[Numerics],
    index: int,
) -> ChunkIdentity:
    """All that decides the latents of one chunk, beside other chunks; ``files`` are hashes of transformer and VAE."""
    chunk, recipe, numeric, transformer = plan.chunks[index], recipes[index], numerics[index], card.transformer
    first, last = chunk.blocks[0].first, chunk.blocks[-1].frame_indices[-1]
    own_images = {str(number - first): image for number, image in images.items() if first <= number <= last}
    together = any(other > chunk.number for other in recipe.schedule.needs(chunk.number, len(recipes)))
    rows = guidance_rows(recipes)
    return ChunkIdentity(
        weights=files[0],
        model={
            "family": card.family,
            "predicts": transformer.predicts,
            "config": transformer.config,
            "lora": transformer.lora.scale if transformer.lora else None,
            "patch": list(card.patch),
            "block": card.block,
            "latent": card.latent.model_dump(),
        },
        text=card.text.model_dump(exclude={"rewriter", "parameters"}),
        size=plan.size,
        fps=plan.fps,
        recipe=_recipe_values(recipe, chunk),
        guidance_rows=rows,
        precision=numeric.precision,
        kv_dtype=numeric.kv_dtype,
        film_seed=plan.seed,
        seed=chunk.seed,
        take=chunk.take,
        prompt=chunk.prompt,
        retrieval_text=chunk.retrieval_text,
        negative_prompt=chunk.negative_prompt if rows > 1 else "",
        cut=chunk.cut,
        first_latent=first,
        blocks=len(chunk.blocks) if together or recipe.noise.whole_chunk else None,
        images=own_images,
        image_encoding=f"{numeric.vae} {files[1]}" if own_images else "",
    )


def _recipe_values(recipe: Recipe, chunk: PlannedChunk) -> dict[str, Any]:
    """The recipe as far as it decides a chunk's latents: ``take_shared`` counts only where the noise is mixed."""
    values = recipe_values(recipe)
    if not values["noise"]["take_shared"] or chunk.take == 1 or not chunk.begins_shot:
        del values["noise"]["take_shared"]
    return values


def finished_numerics(
    folder: Path,
    plan: Plan,
    recorded: Sequence[Numerics],
    current: Numerics,
    keys_of: Callable[[Sequence[Numerics]], ChunkKeys],
) -> tuple[Numerics, ...]:
    """For each chunk the numerics by which it is finished already; the preset's where it is not.

    Args:
        folder: the project's.
        recorded: of the last render, one a chunk; may be fewer.
        current: the preset's.
        keys_of: the keys of the film with some numerics.
    """
    chosen = [*recorded[: len(plan.chunks)], *(current for _ in plan.chunks[len(recorded) :])]
    options = [*dict.fromkeys(chosen), current]
    if set(options) == {current}:
        return tuple(chosen)
    needs = keys_of(chosen).needs
    for chunk in plan.chunks:
        stored = stored_frames(folder, chunk.number)
        together = [chunk.number, *(number for number in needs[chunk.number - 1] if number > chunk.number)]
        for option in (chosen[chunk.number - 1], *options):  # the last is the preset's
            for number in together:
                chosen[number - 1] = option
            key = keys_of(chosen).keys[chunk.number - 1]
            if stored.get(key, 0) >= sum(block.frames for block in chunk.blocks):
                break
    return tuple(chosen)
