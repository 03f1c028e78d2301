"""A recipe: the names and numbers by which a film is drawn, turned into the parts; the only file that sees all tables.

    schedule: block                         a name,
    kv_cache: {name: semantic, top: 2}        or a name with options

Precedence: card < storyboard < command line; ``overlaid`` puts one over another, part by part.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from blockvid_cli.errors import UsageError, lookup, closest_name
from blockvid_cli.models.flow_matching import make_sigmas
from blockvid_cli.rollout.cache_updates import CACHE_UPDATES, CacheUpdate
from blockvid_cli.rollout.kv_cache.base import KVCache
from blockvid_cli.rollout.kv_cache.full import FullCache
from blockvid_cli.rollout.kv_cache.none import NoCache
from blockvid_cli.rollout.kv_cache.semantic import SemanticCache
from blockvid_cli.rollout.kv_cache.window import WindowCache
from blockvid_cli.rollout.noise import NOISES, Noise
from blockvid_cli.rollout.positions import POSITIONS, Positions
from blockvid_cli.rollout.schedules.block import BlockSchedule
from blockvid_cli.rollout.schedules.diagonal import DiagonalSchedule
from blockvid_cli.rollout.schedules.joint import JointSchedule
from blockvid_cli.rollout.schedules.matrix import MatrixSchedule
from blockvid_cli.rollout.schedules.step import Schedule
from blockvid_cli.rollout.solvers import SOLVERS, Solver

KV_CACHES: dict[str, Callable[..., KVCache]] = {
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
}
NUMBERS = ("steps", "shift", "guidance")
PARTS = ("schedule", "kv_cache", "positions", "noise", "solver", "cache_update")


@dataclass(frozen=True)
class Recipe:
    """The parts of a rollout. ``levels`` go from 1 (noise) to 0 (clean); ``memory`` makes a fresh memory."""

    schedule: Schedule
    kv_cache: Callable[[], KVCache]
    positions: Positions
    noise: Noise
    solver: Solver
    cache_update: CacheUpdate
    sigmas: tuple[float, ...]
    guidance: float

    def progress(self, level: float) -> float:
        """How far a block at one of the levels is, 0..1."""
        return self.sigmas.index(level) / (len(self.sigmas) - 1)


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
    times, unwanted = _named("positions", values)
    if unwanted:
        raise UsageError(f"recipe.positions: '{times}' has no options; not {unwanted!r}.")
    memory, options = _part("kv_cache", KV_CACHES, values)
    memory(**options)  # its options are checked now, not after the first block
    recipe = Recipe(
        schedule=_made("schedule", SCHEDULES, values),
        kv_cache=lambda: memory(**options),
        positions=lookup("positions", POSITIONS, times),
        noise=_made("noise", NOISES, values),
        solver=_made("solver", SOLVERS, values),
        cache_update=_made("cache_update", CACHE_UPDATES, values),
        sigmas=_levels(values.get("steps", 6), _number("shift", values, 1.0, 0.01, 100)),
        guidance=_number("guidance", values, 1.0, 0, 100),
    )
    next(iter(recipe.schedule.steps(1, recipe.sigmas)))  # a schedule may refuse so many steps
    return recipe


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
    for option, value in options.items():
        if option not in known:
            guess = closest_name(option, list(known))
            hint = f" Did you mean '{guess}'?" if guess else ""
            raise UsageError(f"recipe.{key}: '{name}' has no option '{option}'.{hint}")
        _check_kind(f"recipe.{key}.{option}", value, known[option])
    return maker, options


def _check_kind(where: str, value: object, parameter: inspect.Parameter) -> None:
    """An option must be of the kind its maker says."""
    kinds = {int: (int,), float: (int, float), str: (str,), bool: (bool,), int | None: (int, type(None))}
    wanted = kinds.get(parameter.annotation, ())
    if not isinstance(value, wanted) or (isinstance(value, bool) and bool not in wanted):
        raise UsageError(f"{where}: this is a {inspect.formatannotation(parameter.annotation)}; not {value!r}.")


def _made(key: str, table: Mapping[str, Callable[..., Any]], values: Mapping[str, Any]) -> Any:  # noqa: ANN401
    maker, options = _part(key, table, values)
    return maker(**options)


def _number(key: str, values: Mapping[str, Any], default: float, low: float, high: float) -> float:
    value = values.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise UsageError(f"recipe.{key}: this is a number from {low:g} to {high:g}; not {value!r}.")
    return float(value)


def _levels(steps: object, shift: float) -> tuple[float, ...]:
    """Levels from a number of steps, or as they are listed (falling, first above 0; the final 0 is understood)."""
    if isinstance(steps, int) and not isinstance(steps, bool) and 1 <= steps <= 1000:
        return make_sigmas(steps, shift)
    listed = isinstance(steps, list) and steps and all(isinstance(s, int | float) and 0 < s <= 1 for s in steps)
    if listed and steps[0] == 1 and sorted(set(steps), reverse=True) == steps:
        return (*map(float, steps), 0.0)
    raise UsageError(
        f"recipe.steps: this is a whole number from 1 to 1000, or a list of levels falling from 1; not {steps!r}."
    )
