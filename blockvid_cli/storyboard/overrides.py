"""``--set chunks.4.seed=7``: one field changed from the command line, chunks counted from 1."""

from __future__ import annotations

from collections.abc import Sequence

from blockvid_cli.errors import UsageError
from blockvid_cli.storyboard.faults import Fault, Field, Reading
from blockvid_cli.storyboard.nodes import read_scalar
from blockvid_cli.storyboard.schema import fields_at, form_at, unknown_field
from blockvid_cli.storyboard.seconds import kind


def apply_overrides(reading: Reading, overrides: Sequence[str]) -> None:
    """Sets each field in the reading's data, in the order given, before anything is checked.

    Raises:
        UsageError: there is no such field, or it is no ``name=value``.
    """
    for override in overrides:
        name, sign, value = override.partition("=")
        if not sign or not name.strip():
            raise UsageError(f"--set {override}: this is no field and value; write it like chunks.4.seed=7")
        if not isinstance(reading.data, dict):
            continue  # the reading is no storyboard at all, and will be told so
        way = _set(reading.data, name.strip().split("."), value.strip(), override, reading)
        reading.overrides[way] = override


def _set(data: dict, names: list[str], value: str, override: str, reading: Reading) -> Field:
    """Puts ``value`` where ``names`` lead; returns the way there."""
    way: Field = ()
    place: dict | list = data
    for depth, name in enumerate(names):
        key = _key(place, name, way, override)
        way = (*way, key)
        if depth == len(names) - 1:
            _forget(reading, way)
            place[key] = _value(value, way, reading)
            break
        inner = place[key] if isinstance(place, list) else place.get(key)
        form = form_at(way)
        if isinstance(inner, str) and (form or "recipe" in way):
            inner = {form.bare if form else "name": inner}
        elif inner is None and (form or "recipe" in way):
            inner = {}
        if not isinstance(inner, dict | list):
            raise UsageError(f"--set {override}: '{name}' holds no fields of its own; end the name there")
        place[key] = inner
        place = inner
    return way


def _key(place: dict | list, name: str, way: Field, override: str) -> str | int:
    """One name of the way as a key of ``place``."""
    if isinstance(place, list):
        if not (name.isascii() and name.isdigit() and len(name) < 7 and 1 <= int(name) <= len(place)):
            what = "chunk" if way == ("chunks",) else "entry"
            raise UsageError(f"--set {override}: there is no {what} '{name}'; count from 1 to {len(place)}")
        return int(name) - 1
    known = fields_at(way)
    if known and name not in known:
        raise UsageError(f"--set {override}: {unknown_field(name, known)}")
    return name


def _value(value: str, way: Field, reading: Reading) -> object:
    try:
        return read_scalar(value)
    except ValueError as error:
        reading.faults.append(Fault(way, f"{error} ({kind(value)})"))
        return None


def _forget(reading: Reading, way: Field) -> None:
    """What the file says about a field no longer counts once the field is replaced."""
    reading.faults[:] = [fault for fault in reading.faults if fault.field[: len(way)] != way]
