"""What a person asks for, read and checked into a job: nothing is drawn or loaded yet."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from blockvid_cli import __version__
from blockvid_cli.card import ModelCard, bundled_models, find_card, parse_size
from blockvid_cli.errors import StoryboardError, UsageError, choose
from blockvid_cli.film.project import chunk_keys
from blockvid_cli.rollout.recipe import Recipe, make_recipe, overlaid
from blockvid_cli.story.plan import Plan, make_plan
from blockvid_cli.story.storyboard import Storyboard, read_storyboard
from blockvid_cli.storybook.reading import as_drawn

DEFAULT_MODEL = "storybook"
READERS: dict[str, Callable[[Plan, ModelCard], Plan]] = {"as-written": lambda plan, card: plan, "storybook": as_drawn}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Order:
    """What a person asks for; None leaves it to the storyboard, and then to the model's card."""

    story: Path
    output: Path | None = None
    model: str | None = None
    seed: int | None = None
    size: str | None = None
    fps: float | None = None
    recipe: dict[str, Any] = field(default_factory=dict)  # over the card's and the storyboard's
    overrides: tuple[str, ...] = ()  # dotted: chunks.4.seed=7
    device: str = "auto"
    dtype: str = "auto"
    fresh: bool = False
    metadata: bool = True
    allow_outside: bool = False


@dataclass(frozen=True)
class Job:
    """An order, read and checked: nothing is drawn or loaded yet."""

    order: Order
    storyboard: Storyboard
    card: ModelCard
    plan: Plan
    values: dict[str, Any]  # the recipe in names and numbers
    recipes: tuple[Recipe, ...]  # one a chunk
    output: Path
    device: str
    dtype: torch.dtype

    @property
    def model(self) -> str:
        """The model's name and the beginning of its weights' hash: what a project cannot change."""
        return f"{self.card.name} {weights_hash(self.card)[:12]}"

    @property
    def guided(self) -> bool:
        """Whether any chunk is drawn with guidance; then all are drawn with two rows."""
        return any(recipe.guidance != 1 for recipe in self.recipes)


def prepare(order: Order) -> Job:
    """Reads the storyboard, the card and the recipe, and lays out the plan.

    Raises:
        UsageError: something in them is wrong; the sentence says what and where.
        MissingModelError: there is no such model.
    """
    storyboard = read_storyboard(order.story, order.overrides, order.allow_outside)
    card = find_card(order.model or _model(storyboard, order.allow_outside))
    seed = storyboard.seed if order.seed is None else order.seed
    size = _size(order.size) or storyboard.size
    plan = make_plan(storyboard, card, seed=seed, size=size, fps=storyboard.fps if order.fps is None else order.fps)
    plan = choose("text.reader", READERS, card.text.reader)(plan, card)
    with told_of(storyboard.recipe_where):
        make_recipe(overlaid(card.recipe, storyboard.recipe))
    values = overlaid(card.recipe, storyboard.recipe, order.recipe)
    recipes = _recipes(storyboard, card, values)
    output = _output(order, storyboard)
    device = device_named(order.device)
    return Job(order, storyboard, card, plan, values, recipes, output, device, _dtype(order.dtype, device))


def _model(storyboard: Storyboard, allow_outside: bool) -> str:
    """The storyboard's model: a bundled name, or a folder below the storyboard's own."""
    name, home = storyboard.model or DEFAULT_MODEL, storyboard.source.parent.resolve()
    folder = (home / name).resolve()
    if name in bundled_models() or not folder.is_dir():
        return name
    if not allow_outside and not folder.is_relative_to(home):
        raise StoryboardError(
            f"{storyboard.source}: model: {name} lies outside the storyboard's folder; --allow-outside"
        )
    return str(folder)


def _recipes(storyboard: Storyboard, card: ModelCard, values: dict[str, Any]) -> tuple[Recipe, ...]:
    """A recipe for each chunk; the same object where a chunk changes nothing."""
    film, recipes = make_recipe(values), []
    for chunk in storyboard.chunks:
        with told_of(chunk.where):
            if chunk.image:
                raise UsageError(f"image: the model '{card.name}' cannot begin a chunk from a picture.")
            if "memory" in chunk.recipe:
                raise UsageError("recipe.memory: a film has one memory; set it in the storyboard's recipe.")
            recipes.append(make_recipe(overlaid(values, chunk.recipe)) if chunk.recipe else film)
    return tuple(recipes)


@contextmanager
def told_of(where: str) -> Iterator[None]:
    """Sentences about what is wrong inside begin with file and line."""
    try:
        yield
    except UsageError as error:
        raise StoryboardError(f"{where}: {error}") from error


def _output(order: Order, storyboard: Storyboard) -> Path:
    """Where the film goes; never over what it is made from."""
    source = storyboard.source
    usual = source.with_name(f"{source.stem}-film.mp4") if source.suffix == ".srt" else source.with_suffix(".mp4")
    output = order.output or usual
    if output.suffix.lower() != ".mp4":
        raise UsageError(f"-o: a film's name ends in .mp4; not '{output.name}'.")
    sources = [source, *([storyboard.audio.file] if storyboard.audio else [])]
    for made in (output, output.with_suffix(".srt")):
        if made.resolve() in [file.resolve() for file in sources]:
            raise UsageError(f"the film would overwrite {made}, from which it is made; give it another name with -o.")
    return output


def content_keys(job: Job) -> list[str]:
    """A content hash a chunk: it changes when anything that decides its latents does, or an earlier chunk's does.

    Where blocks are drawn beside later ones, the whole film decides.
    """
    base = {
        "weights": weights_hash(job.card),
        "recipe": job.values,
        "size": list(job.plan.size),
        "seed": job.plan.seed,
        "text": job.card.text.model_dump(),
        "dtype": str(job.dtype),
        "guided": job.guided,
    }
    joint = any(recipe.schedule.joint for recipe in job.recipes)
    parts = [
        {
            "caption": chunk.blocks[0].caption,
            "compared": chunk.compared or chunk.caption,
            "negative": chunk.blocks[0].negative,
            "seed": chunk.seed,
            "cut": chunk.cut,
            "first": chunk.blocks[0].first,
            "blocks": len(chunk.blocks) if joint or recipe.noise.whole_chunk else None,
            "recipe": written.recipe,
        }
        for chunk, written, recipe in zip(job.plan.chunks, job.storyboard.chunks, job.recipes, strict=True)
    ]
    return chunk_keys(parts, {**base, "film": parts if joint else None})


def manifest(job: Job) -> dict[str, Any]:
    """Everything needed to draw the film again."""
    board = job.storyboard
    chunks = [
        {
            "caption": chunk.caption,
            "start": chunk.start,
            "end": chunk.end,
            "seed": chunk.seed,
            "cut": chunk.cut,
            "negative": written.negative,
            "recipe": written.recipe,
        }
        for chunk, written in zip(job.plan.chunks, board.chunks, strict=True)
    ]
    return {
        "blockvid": __version__,
        "libraries": {name: metadata.version(name) for name in ("torch", "diffusers", "transformers")},
        "title": board.title,
        "model": job.card.name,
        "weights": weights_hash(job.card),
        "seed": job.plan.seed,
        "size": list(job.plan.size),
        "fps": job.plan.fps,
        "frames": job.plan.frames,
        "device": job.device.split(":")[0],
        "dtype": str(job.dtype).removeprefix("torch."),
        "style": board.style,
        "negative": board.negative,
        "audio": {**asdict(board.audio), "file": str(board.audio.file)} if board.audio else None,
        "recipe": job.values,
        "chunks": chunks,
    }


def _size(text: str | None) -> tuple[int, int] | None:
    try:
        return parse_size(text) if text else None
    except ValueError as error:
        raise UsageError(f"--size: {error}.") from error


def device_named(name: str) -> str:
    """A device by its name; "auto" is the GPU where there is one."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"--device: there is no device '{name}' here; give auto, cpu or cuda:0.") from error
    return name


def _dtype(name: str, device: str) -> torch.dtype:
    if name == "auto":
        return torch.float32 if device == "cpu" else torch.bfloat16
    if name not in DTYPES:
        raise UsageError(f"--dtype: give auto, fp32, bf16 or fp16; not '{name}'.")
    return DTYPES[name]


def weights_hash(card: ModelCard) -> str:
    """The SHA-256 of the network's weights; empty where there are none."""
    file = card.path(card.network)
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else ""
