"""What a person asks for, read and checked into a job: nothing is drawn or loaded yet."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from blockvid_cli.errors import StoryboardError, UsageError, lookup
from blockvid_cli.models.card import ModelCard, bundled_models, parse_size
from blockvid_cli.models.registry import find_model
from blockvid_cli.models.hub import fingerprint
from blockvid_cli.models.sentence_encoder import embed
from blockvid_cli.project.cache_keys import TakeChoices, read_take_choices
from blockvid_cli.project.project import project_folder
from blockvid_cli.rollout.kv_cache.storage import DTYPES, LOCATIONS
from blockvid_cli.rollout.recipe import Recipe, make_recipe, merge_recipes
from blockvid_cli.runtime.memory_estimate import MemoryEstimate, estimate_memory, choose_preset, free_memory
from blockvid_cli.runtime.presets import AUTO, PRESETS, RuntimeOptions, ResolvedPreset
from blockvid_cli.storyboard.plan import Plan, PlannedChunk, make_plan
from blockvid_cli.storyboard.storyboard import Storyboard, read_storyboard
from blockvid_cli.storybook.caption_rewriter import rewrite_prompts
from blockvid_cli.video.reference_images import ReferenceImage, read_reference_image

DEFAULT_MODEL = "storybook"
REWRITERS: dict[str, Callable[[Plan, ModelCard], Plan]] = {
    "none": lambda plan, card: plan,
    "storybook": lambda plan, card: rewrite_prompts(plan, card, embed),
}


@dataclass(frozen=True)
class RenderRequest:
    """What a person asks for; None leaves it to the storyboard, and then to the model's card."""

    storyboard: Path
    output: Path | None = None
    model: str | None = None
    seed: int | None = None
    size: str | None = None
    fps: float | None = None
    recipe: dict[str, Any] = field(default_factory=dict)  # over the card's and the storyboard's
    overrides: tuple[str, ...] = ()  # dotted: chunks.4.seed=7
    device: str = "auto"
    runtime: RuntimeOptions = AUTO
    retry: bool = True  # with a lower profile when memory runs out
    fresh: bool = False
    takes: TakeChoices | None = None  # which takes; None: as the project has chosen
    metadata: bool = True
    allow_outside: bool = False


@dataclass(frozen=True)
class RenderJob:
    """An order, read and checked: nothing is drawn or loaded yet."""

    request: RenderRequest
    storyboard: Storyboard
    card: ModelCard
    plan: Plan
    recipe_values: dict[str, Any]  # the recipe in names and numbers
    recipes: tuple[Recipe, ...]  # one a chunk
    output: Path
    takes: TakeChoices  # which takes are in the film, where not the first
    preset: ResolvedPreset  # on which device, how
    free_memory: int  # bytes that were free there
    reference_images: dict[int, ReferenceImage] = field(default_factory=dict)  # pictures, by the latent frame that shows each

    @property
    def device(self) -> str:
        """Where the network draws."""
        return self.preset.device

    @property
    def notes(self) -> tuple[str, ...]:
        """What had to be decided about the captions and pictures."""
        return (*self.storyboard.notes, *(note for guide in self.reference_images.values() for note in guide.notes))

    def chunk_images(self, chunk: PlannedChunk) -> dict[int, ReferenceImage]:
        """The pictures of a chunk, by latent frame counted from the chunk's first."""
        first, last = chunk.blocks[0].first, chunk.blocks[-1].frame_indices[-1]
        return {number - first: guide for number, guide in self.reference_images.items() if first <= number <= last}

    @property
    def rows(self) -> int:
        """Rows of the batch: the film, and beside it the unguided film where there is guidance."""
        return _rows(self.recipes)

    def budget(self, drawn: ResolvedPreset | None = None) -> MemoryEstimate:
        """What the film needs of the device."""
        return estimate_memory(self.card, self.plan, self.recipes[0], self.rows, drawn or self.preset)

    @property
    def model(self) -> str:
        """The model's name and the beginning of its weights' hash: what a project cannot change."""
        return f"{self.card.name} {fingerprint(self.card)[:12]}"

    @property
    def guided(self) -> bool:
        """Whether any chunk is drawn with guidance; then all are drawn with two rows."""
        return self.rows > 1


def prepare(order: RenderRequest, storyboard: Storyboard | None = None) -> RenderJob:
    """Reads the storyboard, the card and the recipe, and lays out the plan.

    A ``storyboard`` that was read from the request's file, with its overrides, is not read a second time.

    Raises:
        UsageError: something in them is wrong; the sentence says what and where.
        MissingModelError: there is no such model.
    """
    storyboard = storyboard or read_storyboard(order.storyboard, order.overrides, order.allow_outside)
    card = find_model(order.model or _model(storyboard, order.allow_outside))
    seed = storyboard.seed if order.seed is None else order.seed
    size = _size(order.size) or storyboard.size
    fps, output = storyboard.fps if order.fps is None else order.fps, _output(order, storyboard)
    choices = {} if order.fresh else read_take_choices(project_folder(output)) if order.takes is None else order.takes
    takes = {chunk: choice.take for chunk, choice in choices.items()}
    plan = make_plan(storyboard, card, seed=seed, size=size, fps=fps, takes=takes)
    plan = lookup("text.rewriter", REWRITERS, card.text.rewriter)(plan, card)
    with error_prefix(storyboard.recipe_location):
        make_recipe(merge_recipes(card.recipe, storyboard.recipe))
    values = merge_recipes(card.recipe, storyboard.recipe, order.recipe)
    recipes = _recipes(storyboard, card, values)
    drawn, free = _drawn(order, card, plan, recipes, output)
    guides = _guides(storyboard, card, plan)
    return RenderJob(order, storyboard, card, plan, values, recipes, output, choices, drawn, free, guides)


def _drawn(order: RenderRequest, card: ModelCard, plan: Plan, recipes: tuple[Recipe, ...], output: Path) -> tuple[ResolvedPreset, int]:
    """The profile that fits the device, and the bytes free there; a film that was begun goes on with its profile."""
    device, means = resolve_device(order.device), order.runtime
    if means.preset == "auto" and not order.fresh:
        means = replace(means, preset=previous_preset(output, device) or "auto")
    for what, name, known in (("storage", means.kv_storage, LOCATIONS), ("dtype", means.kv_dtype, DTYPES)):
        if name is not None:
            lookup(f"memory {what}", dict.fromkeys(known), name)
    if means.kv_storage == "latents" and not all(recipe.cache_update.self_only for recipe in recipes):
        raise UsageError("--kv-storage latents needs a recipe whose cache_update has self_only: true; give host or disk.")
    free = free_memory(device)
    return choose_preset(free, device, means, lambda drawn: estimate_memory(card, plan, recipes[0], _rows(recipes), drawn)), free


def _rows(recipes: tuple[Recipe, ...]) -> int:
    """Rows of the batch: two as soon as one chunk is guided."""
    return max(recipe.guidance.rows for recipe in recipes)


def previous_preset(output: Path, device: str) -> str | None:
    """The profile by which a film was begun on such a device; None where there is no such film, or no such profile."""
    try:
        begun = json.loads((project_folder(output) / "manifest.json").read_text(encoding="utf-8"))
        name, kind = begun["profile"], begun["device"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return name if name in PRESETS and kind == device.split(":")[0] else None


def _model(storyboard: Storyboard, allow_outside: bool) -> str:
    """The storyboard's model: a name that has a card, or a folder or file below the storyboard's own folder."""
    name, home = storyboard.model or DEFAULT_MODEL, storyboard.source.parent.resolve()
    place = (home / name).resolve()
    if name in bundled_models() or (Path(name).name == name and not place.exists()):
        return name
    if not allow_outside and not place.is_relative_to(home):
        raise StoryboardError(
            f"{storyboard.source}: model: {name} lies outside the storyboard's folder; --allow-outside"
        )
    return str(place)


def _recipes(storyboard: Storyboard, card: ModelCard, values: dict[str, Any]) -> tuple[Recipe, ...]:
    """A recipe for each chunk; the same object where a chunk changes nothing."""
    film, recipes = make_recipe(values), []
    for chunk in storyboard.chunks:
        with error_prefix(chunk.location):
            if "kv_cache" in chunk.recipe:
                raise UsageError("recipe.kv_cache: a film has one KV cache; set it in the storyboard's recipe.")
            recipes.append(make_recipe(merge_recipes(values, chunk.recipe)) if chunk.recipe else film)
    return tuple(recipes)


def _guides(storyboard: Storyboard, card: ModelCard, plan: Plan) -> dict[int, ReferenceImage]:
    """The pictures that chunks begin and end with, by the latent frame that shows each.

    Raises:
        StoryboardError: a picture cannot be read, or the model cannot be given it; with the chunk's file and line.
    """
    guides: dict[int, ReferenceImage] = {}
    for written, chunk in zip(storyboard.chunks, plan.chunks, strict=True):
        last = -(-(chunk.end_frame - 1) // card.latent.time)  # of those that are seen: the film's end may be trimmed
        for field_, side, file, number in (
            ("image", "first", chunk.image, chunk.blocks[0].first),
            ("end_image", "last", chunk.end_image, last),
        ):
            if file is None:
                continue
            with error_prefix(f"{written.location}: {field_}"):
                if side not in card.frame_conditioning:
                    verb = "begin" if side == "first" else "end"
                    raise UsageError(f"the model '{card.name}' cannot {verb} a chunk with a picture.")
                if number in guides:
                    raise UsageError("the chunk is too short for two pictures; make it longer, or keep one of them.")
                guides[number] = read_reference_image(file, plan.size)
    return guides


@contextmanager
def error_prefix(where: str) -> Iterator[None]:
    """Sentences about what is wrong inside begin with file and line."""
    try:
        yield
    except UsageError as error:
        raise StoryboardError(f"{where}: {error}") from error


def _output(order: RenderRequest, storyboard: Storyboard) -> Path:
    """Where the film goes; never over what it is made from."""
    source = storyboard.source
    usual = source.with_name(f"{source.stem}-film.mp4") if source.suffix == ".srt" else source.with_suffix(".mp4")
    output = order.output or usual
    if output.suffix.lower() != ".mp4":
        raise UsageError(f"-o: a film's name ends in .mp4; not '{output.name}'.")
    sounds = [audio for audio in (storyboard.audio, *(chunk.audio for chunk in storyboard.chunks)) if audio]
    sources = [source, *(sound.file for sound in sounds), *([storyboard.font] if storyboard.font else [])]
    for made in (output, output.with_suffix(".srt")):
        if made.resolve() in [file.resolve() for file in sources]:
            raise UsageError(f"the film would overwrite {made}, from which it is made; give it another name with -o.")
    return output


def _size(text: str | None) -> tuple[int, int] | None:
    try:
        return parse_size(text) if text else None
    except ValueError as error:
        raise UsageError(f"--size: {error}.") from error


def resolve_device(name: str) -> str:
    """A device by its name; "auto" is the GPU where there is one."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"--device: there is no device '{name}' here; give auto, cpu or cuda:0.") from error
    return name
