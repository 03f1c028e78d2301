"""A recipe: the names and numbers that say how a film is generated, made into parts; this file alone sees all tables.

    schedule: block                         a name,
    kv_cache: {name: semantic, top: 2}      or a name with options

Precedence: card < storyboard < command line; ``merge_recipes`` puts one over another, part by part.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Generic, TypeVar, get_args, get_origin

import numpy as np

from blockvid_cli.errors import UsageError, closest_name, lookup
from blockvid_cli.models.flow_matching import make_sigmas
from blockvid_cli.rollout.cache_updates import CACHE_UPDATES, CacheUpdate
from blockvid_cli.rollout.guidance import GUIDANCES, Guidance, NoGuidance
from blockvid_cli.rollout.kv_cache.base import FullCache, KVCache, NoCache
from blockvid_cli.rollout.kv_cache.semantic import SemanticCache
from blockvid_cli.rollout.kv_cache.window import WindowCache
from blockvid_cli.rollout.noise import NOISES, Noise
from blockvid_cli.rollout.positions import POSITIONS, Positions
from blockvid_cli.rollout.schedules.block import BlockSchedule, DiagonalSchedule, InfillSchedule, JointSchedule
from blockvid_cli.rollout.schedules.matrix import MatrixSchedule
from blockvid_cli.rollout.schedules.step import CLEAN, Schedule, Step, sigma_paths, split_rounds
from blockvid_cli.rollout.solvers import SOLVERS, Solver
from blockvid_cli.rollout.verifiers import VERIFIERS, AcceptAll, Verifier
from blockvid_cli.storyboard.plan import Block

KV_CACHES: dict[str, type[KVCache]] = {
    "full": FullCache,
    "window": WindowCache,
    "semantic": SemanticCache,
    "none": NoCache,
}
SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "block": BlockSchedule,
    "joint": JointSchedule,
    "diagonal": DiagonalSchedule,
    "matrix": MatrixSchedule,
    "infill": InfillSchedule,
}
NUMBERS = ("steps", "shift")
PARTS = ("schedule", "kv_cache", "positions", "noise", "solver", "cache_update", "guidance", "verifier")
KINDS: dict[object, tuple[type, ...]] = {  # what an option of a type may be in YAML
    int: (int,),
    float: (int, float),
    str: (str,),
    bool: (bool,),
    int | None: (int, type(None)),
}
Part = TypeVar("Part")
NO_GUIDANCE, ACCEPT_ALL = NoGuidance(), AcceptAll()


@dataclass(frozen=True)
class Maker(Generic[Part]):
    """Makes a part anew, as often as it is called; two makers of the same part and options are equal."""

    make: type[Part]
    options: Mapping[str, Any]

    def __call__(self) -> Part:
        return self.make(**self.options)


@dataclass(frozen=True)
class Recipe:
    """The parts of a rollout; two recipes of the same names and numbers are equal.

    Args:
        kv_cache: makes an empty cache.
        sigmas: falling from 1 (noise) to 0 (clean); those at which the denoiser is called, and the final 0.
    """

    schedule: Schedule
    kv_cache: Maker[KVCache]
    positions: Positions
    noise: Noise
    solver: Solver
    cache_update: CacheUpdate
    sigmas: tuple[float, ...]
    guidance: Guidance = NO_GUIDANCE
    verifier: Verifier = ACCEPT_ALL

    def progress(self, sigma: float) -> float:
        """How far a block at a sigma is, 0..1: evenly over the recipe's steps, and between them for other sigmas."""
        return float(np.interp(-sigma, [-s for s in self.sigmas], np.linspace(0, 1, len(self.sigmas))))

    def check(self, blocks: Sequence[Block], before: Sequence[Block] = ()) -> None:
        """Asks before a render whether these parts work together.

        Raises:
            UsageError: the schedule does not take every block from noise to clean, the solver cannot follow it, or the
                verifier cannot have blocks generated again that are finished one by one.
        """
        steps = list(self.schedule.steps(blocks, self.sigmas, before))
        paths = sigma_paths(steps)
        for block in blocks:
            path = paths.get(block.number, ())
            if len(path) < 2 or path[0] != self.sigmas[0] or path[-1] != CLEAN:
                reached = ", ".join(f"{sigma:g}" for sigma in path) or "nothing"
                raise UsageError(
                    f"recipe.schedule: block {block.number} must be denoised from sigma {self.sigmas[0]:g} to 0;"
                    f" its steps are {reached}."
                )
            self.solver.check(path)
        if self.verifier.attempts > 1 and not all(map(_finishes_together, split_rounds(steps))):
            raise UsageError(
                "recipe.verifier: this schedule finishes blocks one by one that it denoises together, so none can be"
                " generated again; give the schedule block, joint, or matrix with a lag of 0."
            )


def make_recipe(values: Mapping[str, Any]) -> Recipe:
    """The parts that names and numbers stand for.

    Raises:
        UsageError: an unknown name or option, or a number out of range.
    """
    for key in values:
        if key not in (*PARTS, *NUMBERS):
            guess = closest_name(key, [*PARTS, *NUMBERS])
            hint = f" Did you mean '{guess}'?" if guess else ""
            raise UsageError(
                f"recipe: there is no part called '{key}'.{hint} There are: {', '.join((*PARTS, *NUMBERS))}."
            )
    kv_cache = Maker(*_part("kv_cache", KV_CACHES, values))
    kv_cache()  # its options are checked now, not after the first block
    schedule, solver = _make("schedule", SCHEDULES, values), _make("solver", SOLVERS, values)
    sigmas = solver.stride(_sigmas(values.get("steps", 6), _number("shift", values, 1.0, 0.01, 100)))
    schedule.check(sigmas)
    return Recipe(
        schedule=schedule,
        kv_cache=kv_cache,
        positions=_make("positions", POSITIONS, values),
        noise=_make("noise", NOISES, values),
        solver=solver,
        cache_update=_make("cache_update", CACHE_UPDATES, values),
        sigmas=sigmas,
        guidance=_guidance(values),
        verifier=_make("verifier", VERIFIERS, {"verifier": "none", **values}),
    )


def segment_blocks(blocks: Sequence[Block], recipes: Sequence[Recipe]) -> list[tuple[tuple[Block, ...], Recipe]]:
    """Runs of consecutive blocks whose chunks have equal recipes; ``recipes`` has one for each chunk of the film."""
    runs = itertools.groupby(blocks, key=lambda block: recipes[block.chunk - 1])
    return [(tuple(run), recipe) for recipe, run in runs]


def recipe_values(recipe: Recipe) -> dict[str, Any]:
    """All that a recipe's parts are made with, as plain JSON values: their names and every option, and the sigmas."""
    tables = {"schedule": SCHEDULES, "kv_cache": KV_CACHES, "positions": POSITIONS, "noise": NOISES, "solver": SOLVERS}
    tables |= {"cache_update": CACHE_UPDATES, "guidance": GUIDANCES, "verifier": VERIFIERS}
    values: dict[str, Any] = {"steps": list(recipe.sigmas)}
    for key in PARTS:
        part = getattr(recipe, key)
        made, options = (part.make, part.options) if isinstance(part, Maker) else (type(part), asdict(part))
        defaults = {name: each.default for name, each in inspect.signature(made).parameters.items()}
        name = next((name for name, maker in tables[key].items() if maker is made), made.__name__)
        values[key] = {"name": name, **defaults, **options}
    return values


def _finishes_together(steps: Sequence[Step]) -> bool:
    """Whether no block is finished before the last of some steps."""
    return not any(sigma_next == CLEAN for step in steps[:-1] for _, _, sigma_next in step.moves)


def _guidance(values: Mapping[str, Any]) -> Guidance:
    """A number is classifier-free guidance of that scale, 1 is none; otherwise a part like any other."""
    value = values.get("guidance", 1.0)
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = "none" if value == 1 else {"name": "cfg", "scale": value}
    elif not isinstance(value, str | Mapping):
        raise UsageError(f"recipe.guidance: this is a number from 0 to 100; not {value!r}.")
    return _make("guidance", GUIDANCES, {"guidance": value})


def merge_recipes(base: Mapping[str, Any], *others: Mapping[str, Any]) -> dict[str, Any]:
    """One recipe over another: a part that keeps its name takes only the options given, another name takes over."""
    out = dict(base)
    for other in others:
        for key, value in other.items():
            before = out.get(key)
            if isinstance(value, str) and isinstance(before, Mapping):
                value = {"name": value}
            if isinstance(value, Mapping) and "name" not in value and before is not None:
                before = before if isinstance(before, Mapping) else {"name": before}
                value = {**before, **value}
            elif isinstance(value, Mapping) and isinstance(before, Mapping) and value["name"] == before.get("name"):
                value = {**before, **value}
            out[key] = value
    return out


def _named(key: str, values: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """A part's name and options."""
    value = values.get(key)
    if isinstance(value, str):
        return value, {}
    if isinstance(value, Mapping) and isinstance(value.get("name"), str):
        return value["name"], {name: option for name, option in value.items() if name != "name"}
    raise UsageError(f"recipe.{key}: this is a name, or a mapping with 'name' and options; not {value!r}.")


def _part(
    key: str, table: Mapping[str, Callable[..., Any]], values: Mapping[str, Any]
) -> tuple[Callable[..., Any], dict]:
    """A part's maker and its checked options."""
    name, options = _named(key, values)
    maker = lookup(key, table, name)
    known = inspect.signature(maker, eval_str=True).parameters
    for option, value in list(options.items()):
        if option not in known:
            guess = closest_name(option, list(known))
            hint = f" Did you mean '{guess}'?" if guess else ""
            raise UsageError(f"recipe.{key}: '{name}' has no option '{option}'.{hint}")
        options[option] = _checked(f"recipe.{key}.{option}", value, known[option])
    return maker, options


def _checked(where: str, value: object, parameter: inspect.Parameter) -> object:
    """An option's value, which must be of the kind its part says; a list becomes a tuple.

    Raises:
        UsageError: it is of another kind.
    """
    annotation = parameter.annotation
    if get_origin(annotation) is tuple and isinstance(value, list | tuple):
        item = KINDS[get_args(annotation)[0]]
        if all(isinstance(x, item) and (not isinstance(x, bool) or bool in item) for x in value):
            return tuple(value)
    kinds = KINDS.get(annotation, ())
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        raise UsageError(f"{where}: this is a {inspect.formatannotation(annotation)}; not {value!r}.")
    return value


def _make(key: str, table: Mapping[str, Callable[..., Any]], values: Mapping[str, Any]) -> Any:  # noqa: ANN401
    maker, options = _part(key, table, values)
    return maker(**options)


def _number(key: str, values: Mapping[str, Any], default: float, low: float, high: float) -> float:
    value = values.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise UsageError(f"recipe.{key}: this is a number from {low:g} to {high:g}; not {value!r}.")
    return float(value)


def _sigmas(steps: object, shift: float) -> tuple[float, ...]:
    """Sigmas of a number of steps, or of a list (falling from 1; the final 0 is added)."""
    if isinstance(steps, int) and not isinstance(steps, bool) and 1 <= steps <= 1000:
        return make_sigmas(steps, shift)
    is_list = isinstance(steps, list) and steps and all(isinstance(s, int | float) and 0 < s <= 1 for s in steps)
    if is_list and steps[0] == 1 and sorted(set(steps), reverse=True) == steps:
        return (*map(float, steps), 0.0)
    raise UsageError(
        f"recipe.steps: this is a whole number from 1 to 1000, or a list of sigmas falling from 1; not {steps!r}."
    )
