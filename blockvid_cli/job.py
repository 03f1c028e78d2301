"""From what a person asks for to a job: everything is read, checked and planned; no weights are loaded.

RenderRequest --prepare--> RenderJob        storyboard, card, plan, recipes, takes, preset
                                |
                                '-- keys: the identity and the cache key of every chunk
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from fractions import Fraction
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

from blockvid_cli import __version__
from blockvid_cli.errors import StoryboardError, UsageError, error_prefix, lookup
from blockvid_cli.files import check_own_folder
from blockvid_cli.models.card import ModelCard, bundled_models, parse_size
from blockvid_cli.models.devices import free_memory, resolve_device
from blockvid_cli.models.find import find_model
from blockvid_cli.models.hub import fingerprint
from blockvid_cli.models.sentence_encoder import embed
from blockvid_cli.project.film_keys import film_keys, finished_numerics, guidance_rows, numerics_of
from blockvid_cli.project.identity import ChunkKeys, TakeChoices, read_take_choices
from blockvid_cli.project.project import Manifest, Numerics, project_folder, read_manifest
from blockvid_cli.rollout.kv_cache.storage import DTYPES, LOCATIONS
from blockvid_cli.rollout.recipe import Recipe, make_recipe, merge_recipes, segment_blocks
from blockvid_cli.runtime.memory_estimate import MemoryEstimate, choose_preset, estimate_memory
from blockvid_cli.runtime.presets import AUTO, PRESETS, ResolvedPreset, RuntimeOptions, resolve_preset
from blockvid_cli.storyboard.plan import Plan, make_plan, trained_sizes
from blockvid_cli.storyboard.storyboard import Storyboard, read_storyboard
from blockvid_cli.storybook.caption_rewriter import rewrite_prompts
from blockvid_cli.video.audio import early_end
from blockvid_cli.video.reference_images import ReferenceImage, compare_with_captions, read_reference_images
from blockvid_cli.video.spec import video_spec

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
    untrained_size: bool = False
    fps: float | None = None
    recipe: dict[str, Any] = field(default_factory=dict)  # over the card's and the storyboard's
    overrides: tuple[str, ...] = ()  # dotted: chunks.4.seed=7
    device: str = "auto"
    runtime: RuntimeOptions = AUTO
    retry: bool = True  # with a lower preset when memory runs out
    fresh: bool = False
    takes: TakeChoices | None = None  # which takes; None: as the project has chosen
    metadata: bool = True
    allow_outside: bool = False


@dataclass(frozen=True)
class RenderJob:
    """A request that was read and checked: everything is known, nothing is rendered or loaded yet."""

    request: RenderRequest
    storyboard: Storyboard
    card: ModelCard
    plan: Plan
    recipe_values: dict[str, Any]  # the film's recipe as names and numbers
    recipes: tuple[Recipe, ...]  # one a chunk
    output: Path
    takes: TakeChoices  # which takes are in the film, where not the first
    rows: int  # of the batch: the film, and with guidance the one of the negative prompts
    preset: ResolvedPreset
    free_memory: int  # bytes that are free on the device
    reference_images: dict[int, ReferenceImage]  # by the latent frame that shows each
    notes: tuple[str, ...]  # what was decided about captions and images, one sentence each
    numerics: tuple[Numerics, ...]  # of each chunk: where it was rendered with a higher preset, of that one
    recorded: Manifest  # of the render before

    @property
    def device(self) -> str:
        """Where the transformer runs."""
        return self.preset.device

    def budget(self, preset: ResolvedPreset | None = None) -> MemoryEstimate:
        """How much memory the film needs on the device, with its own preset or another."""
        return estimate_memory(self.card, self.plan, self.recipes[0], self.rows, preset or self.preset)

    @property
    def fixed(self) -> dict[str, Any]:
        """What a project cannot change once it is begun."""
        model = f"{self.card.name} {fingerprint(self.card)[:12]}"
        return {"model": model, "size": list(self.plan.size), "fps": self.plan.fps}

    @cached_property
    def keys(self) -> ChunkKeys:
        """The identities and cache keys of all chunks."""
        images = {number: image.sha256 for number, image in self.reference_images.items()}
        return film_keys(self.card, self.plan, self.recipes, images, self.takes, self.numerics)

    def manifest(self) -> dict[str, Any]:
        """Everything that is needed to render the film again, as plain JSON values; it is written into the film too."""
        written = ("source", "notes", "recipe_location", "location", "content")
        board = _plain({k: v for k, v in asdict(self.storyboard).items() if k not in written})
        chunks = [
            {**{k: v for k, v in source.items() if k not in written}, "seed": chunk.seed, "take": chunk.take}
            for source, chunk in zip(board.pop("chunks"), self.plan.chunks, strict=True)
        ]
        return {
            "blockvid": __version__,
            "libraries": {name: metadata.version(name) for name in ("torch", "diffusers", "transformers")},
            **board,
            "model": self.card.name,
            "weights": fingerprint(self.card),
            "seed": self.plan.seed,
            "size": list(self.plan.size),
            "fps": self.plan.fps,
            "frames": self.plan.frames,
            "timeline": video_spec(self.storyboard, self.plan).timeline.as_values(),
            "device": self.preset.device.split(":")[0],
            "precision": self.preset.precision.name,
            "preset": self.preset.name,
            "recipe": self.recipe_values,
            "chunks": chunks,
        }

    def resume_facts(self) -> dict[str, Any]:
        """What the next render of the project compares itself with, beside the manifest: identities and keys."""
        keys = self.keys
        return {
            "runtime": asdict(self.request.runtime),
            "numerics": [asdict(numerics) for numerics in self.numerics],
            "identities": [asdict(identity) for identity in keys.identities],
            "keys": keys.keys,
            "bases": keys.bases,
            "film": self.film_key,
        }

    @property
    def film_key(self) -> str:
        """A hash of all that decides the film's file, by which a film that is out of date is known."""
        text = json.dumps([self.manifest(), self.request.metadata], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def prepare(request: RenderRequest, storyboard: Storyboard | None = None) -> RenderJob:
    """Reads the storyboard (if it is not given), the card and the recipe, and makes the plan.

    Raises:
        UsageError: something in them is wrong; the sentence says what and where.
        MissingModelError: there is no such model.
    """
    storyboard = storyboard or read_storyboard(request.storyboard, request.overrides, request.allow_outside)
    card = find_model(request.model or _model_name(storyboard, request.allow_outside))
    output = _output(request, storyboard)
    recorded, takes = _read_project(request, project_folder(output))
    plan = make_plan(
        storyboard,
        card,
        seed=storyboard.seed if request.seed is None else request.seed,
        size=_size(request.size) or storyboard.size,
        fps=storyboard.fps if request.fps is None else request.fps,
        takes={chunk: choice.take for chunk, choice in takes.items()},
        untrained_size=request.untrained_size,
    )
    plan = lookup("text.rewriter", REWRITERS, card.text.rewriter)(plan, card)
    with error_prefix(storyboard.recipe_location or f"the card of '{card.name}'"):
        make_recipe(merge_recipes(card.recipe, storyboard.recipe))
    values = merge_recipes(card.recipe, storyboard.recipe, request.recipe)
    recipes = _chunk_recipes(storyboard, values)
    _check_recipes(storyboard, plan, recipes)
    device = resolve_device(request.device)
    runtime, numerics = _resume_runtime(request, recorded, device)
    preset, free = _choose_preset(runtime, device, card, plan, recipes)
    images = read_reference_images(storyboard, card, plan)
    plan = compare_with_captions(card, plan, images)
    job = RenderJob(
        request=request,
        storyboard=storyboard,
        card=card,
        plan=plan,
        recipe_values=values,
        recipes=recipes,
        output=output,
        takes=takes,
        rows=guidance_rows(recipes),
        preset=preset,
        free_memory=free,
        reference_images=images,
        notes=tuple(_notes(storyboard, card, plan, recipes, images)),
        numerics=(numerics_of(preset),) * len(plan.chunks),
        recorded=recorded,
    )
    return _with_numerics(job, numerics)


def _read_project(request: RenderRequest, folder: Path) -> tuple[Manifest, TakeChoices]:
    """The manifest of the render before, and the takes to render; a fresh render knows nothing of what was before.

    Raises:
        UsageError: the project holds links.
    """
    check_own_folder(folder)
    if request.fresh:
        return Manifest(), request.takes or {}
    return read_manifest(folder), read_take_choices(folder) if request.takes is None else request.takes


def _notes(
    storyboard: Storyboard,
    card: ModelCard,
    plan: Plan,
    recipes: Sequence[Recipe],
    images: Mapping[int, ReferenceImage],
) -> Iterator[str]:
    """What was decided about captions and images, and warnings of sizes and positions that were not trained."""
    yield from (*plan.warnings, *storyboard.notes)
    yield from (note for image in images.values() for note in image.notes)
    timeline = video_spec(storyboard, plan).timeline
    if silence := early_end(storyboard.audio, timeline.story.start, timeline.seconds):
        yield silence
    if plan.size not in card.sizes_trained_for:
        size = "{}x{}".format(*plan.size)
        yield f"'{card.name}' was trained for {trained_sizes(card)}, so a film of {size} will look wrong."
    largest = max(recipe.largest_position(plan) for recipe in {id(recipe): recipe for recipe in recipes}.values())
    if card.trained_frames is not None and largest >= card.trained_frames:
        yield (
            f"this recipe places frames at positions up to {largest}, but '{card.name}' was trained on"
            f" {card.trained_frames} latent frames (positions 0 to {card.trained_frames - 1}), so the film may degrade;"
            " packed positions and a KV cache that attends to fewer frames, such as the window of the model's card,"
            " stay within them."
        )


def with_takes(job: RenderJob, takes: TakeChoices) -> RenderJob:
    """The same film with other takes."""
    return prepare(replace(job.request, takes=takes, fresh=False), job.storyboard)


def with_preset(job: RenderJob, name: str) -> RenderJob:
    """The same film with another preset; chunks that are finished stay as they are."""
    lower = resolve_preset(name, job.preset.device, job.request.runtime)
    job = replace(job, request=replace(job.request, fresh=False), preset=lower)
    return _with_numerics(job, job.numerics)


def _with_numerics(job: RenderJob, recorded: Sequence[Numerics]) -> RenderJob:
    """The job with the numerics by which each of its chunks is finished already; the preset's where none is."""
    numerics = finished_numerics(
        project_folder(job.output),
        job.plan,
        recorded,
        numerics_of(job.preset),
        lambda candidate: replace(job, numerics=tuple(candidate)).keys,
    )
    return replace(job, numerics=numerics)


def _resume_runtime(
    request: RenderRequest, recorded: Manifest, device: str
) -> tuple[RuntimeOptions, tuple[Numerics, ...]]:
    """The options of a film that was begun on such a device, and the numerics of its chunks, if the same is asked for.

    A film goes on with the preset it was last rendered with, which may be a lower one than was asked for.
    """
    runtime, name, before = request.runtime, recorded.preset, recorded.runtime
    if name not in PRESETS or recorded.device != device.split(":")[0]:
        return runtime, ()
    options = {"precision": runtime.precision, "kv_dtype": runtime.kv_dtype}
    same = all(before.get(option) == value for option, value in options.items())
    if runtime.preset != "auto" and not (same and runtime.preset == before.get("preset")):
        return runtime, ()
    return replace(runtime, preset=name), recorded.numerics if same else ()


def _choose_preset(
    runtime: RuntimeOptions, device: str, card: ModelCard, plan: Plan, recipes: tuple[Recipe, ...]
) -> tuple[ResolvedPreset, int]:
    """The preset that fits the device, and the bytes that are free there."""
    for what, name, known in (("storage", runtime.kv_storage, LOCATIONS), ("dtype", runtime.kv_dtype, DTYPES)):
        if name is not None:
            lookup(f"KV {what}", dict.fromkeys(known), name)
    if runtime.kv_storage == "latents" and not all(recipe.cache_update.self_only for recipe in recipes):
        right = "a recipe whose cache_update has self_only: true; give host or disk"
        raise UsageError(f"--kv-storage: latents needs {right}.")
    free, rows = free_memory(device), guidance_rows(recipes)
    estimate = lambda preset: estimate_memory(card, plan, recipes[0], rows, preset)  # noqa: E731
    return choose_preset(free, device, runtime, estimate), free


def _model_name(storyboard: Storyboard, allow_outside: bool) -> str:
    """The storyboard's model: a name that has a card, or a folder or file below the storyboard's own folder."""
    name, home = storyboard.model or DEFAULT_MODEL, storyboard.source.parent.resolve()
    path = (home / name).resolve()
    if name in bundled_models() or (Path(name).name == name and not path.exists()):
        return name
    if not allow_outside and not path.is_relative_to(home):
        raise StoryboardError(
            f"{storyboard.source}: model: {name} lies outside the storyboard's folder; --allow-outside"
        )
    return str(path)


def _chunk_recipes(storyboard: Storyboard, values: Mapping[str, Any]) -> tuple[Recipe, ...]:
    """A recipe for each chunk; the same object where a chunk changes nothing."""
    film, recipes = make_recipe(values), []
    for chunk in storyboard.chunks:
        with error_prefix(chunk.location):
            if "kv_cache" in chunk.recipe:
                raise UsageError("recipe.kv_cache: a film has one KV cache; set it in the storyboard's recipe.")
            recipes.append(make_recipe(merge_recipes(values, chunk.recipe)) if chunk.recipe else film)
    return tuple(recipes)


def _check_recipes(storyboard: Storyboard, plan: Plan, recipes: Sequence[Recipe]) -> None:
    """Raises StoryboardError where a recipe's parts do not work together."""
    for blocks, recipe in segment_blocks(plan.blocks, recipes):
        source = storyboard.chunks[blocks[0].chunk - 1]
        with error_prefix(source.location if source.recipe else storyboard.recipe_location or str(storyboard.source)):
            recipe.check(blocks, plan.blocks[: blocks[0].number])


def _output(request: RenderRequest, storyboard: Storyboard) -> Path:
    """Where the film goes; never over what it is made from."""
    source = storyboard.source
    usual = source.with_name(f"{source.stem}-film.mp4") if source.suffix == ".srt" else source.with_suffix(".mp4")
    output = request.output or usual
    if output.suffix.lower() != ".mp4":
        raise UsageError(f"-o: a film's name ends in .mp4; not '{output.name}'.")
    sounds = [audio for audio in (storyboard.audio, *(chunk.audio for chunk in storyboard.chunks)) if audio]
    sources = [source, *(sound.file for sound in sounds), *([storyboard.font] if storyboard.font else [])]
    for path in (output, output.with_suffix(".srt")):
        if path.resolve() in [file.resolve() for file in sources]:
            raise UsageError(f"the film would overwrite {path}, from which it is made; give it another name with -o.")
    return output


def _size(text: str | None) -> tuple[int, int] | None:
    try:
        return parse_size(text) if text else None
    except ValueError as error:
        raise UsageError(f"--size: {error}.") from error


def _plain(value: Any) -> Any:  # noqa: ANN401  (JSON values)
    """The same with paths as text and exact seconds as numbers."""
    if isinstance(value, Mapping):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return float(value) if isinstance(value, Fraction) else str(value) if isinstance(value, Path) else value
