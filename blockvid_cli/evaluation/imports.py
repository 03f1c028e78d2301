"""Scores that other programs wrote, read as results of ours: VBench's, VBench-Long's and LV-Bench's ``vde.py``.

    *_eval_results.json   {dimension: [mean, [{"video_path": "a.mp4", "video_results": 0.9}, ...]]}      VBench
                          the same of clips, split_clip/a/a_006.mp4, and then means                 VBench-Long
    vde_clarity.json      {"videos/a.mp4": "0.7551"}, a measure a file                       LV-Bench (Inferix)

Films are known by the stem of their file. VBench-Long's scores have ``_long`` behind their names, being other numbers;
their segments are its clips of two seconds, in-clip scores where those were fused with clip to clip ones. VBench gives
imaging quality from 0 to 100 for a film, and from 0 to 1 in the mean; here it is from 0 to 1.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, TypeAdapter, ValidationError

from blockvid_cli.errors import UsageError

Form = TypeVar("Form")
Result = dict[str, Any]
Clip = tuple[int, int]  # scene and clip, both counted from 0

CLIP = re.compile(r"_(\d+)\Z")
SCENE = re.compile(r"-Scene-(\d+)\Z")
WEIGHT = 45  # of LV-Bench's ten segments: 9 + 8 + ... + 1
MEASURES = {  # that LV-Bench scores segments with
    "subject": "subject_consistency",
    "background": "background_consistency",
    "motion": "motion_smoothness",
    "aesthetic": "aesthetic_quality",
    "clarity": "imaging_quality",
    "dynamic": "dynamic_degree",
}


class Row(BaseModel):
    """What VBench says about a film or a clip; ``inclip_score`` where it fused that with another."""

    video_path: str
    video_results: float
    inclip_score: float | None = None


def _rows(entry: object) -> object:
    if not isinstance(entry, list) or len(entry) < 2:
        raise ValueError("this should be a list of a mean and of films")
    return entry[1]


VBENCH = TypeAdapter(dict[str, Annotated[list[Row], BeforeValidator(_rows)]])
VDE = TypeAdapter(dict[str, float])


def read_imports(paths: Sequence[Path]) -> dict[str, Result]:
    """Results by the stem of the film, from files, or from the files in folders that are named as above.

    Raises:
        UsageError: a file is not there, or is not what these programs write, or says something twice.
    """
    results: dict[str, Result] = {}
    for file in [file for path in paths for file in _files(Path(path))]:
        for film, found in (_vde if file.stem.startswith("vde_") else _vbench)(file).items():
            result = results.setdefault(film, _nothing(film))
            for part in ("measures", "vde"):
                for name in result[part].keys() & found[part].keys():
                    raise UsageError(f"{file}: '{name}' of the film '{film}' was in another file already.")
                result[part] |= found[part]
            sources = result["settings"]["imported"]
            result["settings"]["imported"] = f"{sources}, {file.name}" if sources else file.name
    for result in results.values():
        result["vde"] = {"reference": result["vde"]} if result["vde"] else {}
    return results


def merge_results(results: Sequence[Result], imports: Mapping[str, Result]) -> list[Result]:
    """Results with what was imported about films of the same stem; then the films that only others scored.

    What both know stays ours; theirs is then called ``<name>_imported``.
    """
    rest, together = dict(imports), []
    for result in results:
        found = rest.pop(Path(result["film"]).stem, None)
        if found and "error" not in result:
            added = {part: _beside(result.get(part) or {}, found[part]) for part in ("measures", "vde")}
            settings = {**result.get("settings", {}), "imported": found["settings"]["imported"]}
            result = {**result, **added, "settings": settings}
        together.append(result)
    return together + list(rest.values())


def _beside(ours: Result, theirs: Result) -> Result:
    return ours | {f"{name}_imported" if name in ours else name: value for name, value in theirs.items()}


def read_form(file: Path, form: TypeAdapter[Form], expected: str) -> Form:
    """What a JSON file holds, checked; ``expected`` says what it should hold.

    Raises:
        UsageError: it is not there, or not JSON, or not of this form.
    """
    try:
        return form.validate_json(file.read_bytes())
    except FileNotFoundError as error:
        raise UsageError(f"{file}: there is no such file.") from error
    except OSError as error:
        raise UsageError(f"{file}: this file cannot be read ({error.strerror}).") from error
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(part) for part in fault["loc"])
        said = fault["msg"].removeprefix("Value error, ")
        raise UsageError(f"{file}: {f'{where}: ' if where else ''}{said}. Expected: {expected}") from error


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = sorted([*path.glob("*_eval_results.json"), *path.glob("vde_*.json")])
    if not found:
        raise UsageError(f"{path}: no '*_eval_results.json' (VBench) and no 'vde_*.json' (LV-Bench) is in this folder.")
    return found


def _vbench(file: Path) -> dict[str, Result]:
    """VBench's scores by film."""
    expected = '{"subject_consistency": [mean, [{"video_path": "a.mp4", "video_results": 0.9}, ...]], ...}'
    results: dict[str, Result] = {}
    for dimension, rows in read_form(file, VBENCH, expected).items():
        films: dict[str, dict[Clip | None, Row]] = {}
        for row in rows:
            film, clip = _whose(row.video_path)
            if clip in films.setdefault(film, {}):
                raise UsageError(f"{file}: '{dimension}' speaks of '{film}' twice; films need names of their own.")
            films[film][clip] = row
        percent = dimension == "imaging_quality" and any(row.video_results > 1 for row in rows)
        for film, scores in films.items():
            measure = _measure(scores, 100 if percent else 1) | {"backend": f"VBench, {file.name}"}
            long = None not in scores or any(row.inclip_score is not None for row in scores.values())
            name = f"{dimension}_long" if long else dimension
            results.setdefault(film, _nothing(film))["measures"][name] = measure
    if not results:
        raise UsageError(f"{file}: no film is in this file. Expected: {expected}")
    return results


def _whose(path: str) -> tuple[str, Clip | None]:
    """The film that a path is of, and which clip of it: ``.../split_clip/a-Scene-1/a-Scene-1_006.mp4`` -> a, (1, 6)."""
    parts = PurePosixPath(path.replace("\\", "/")).parts or ("",)
    stem = PurePosixPath(parts[-1]).stem
    if "split_clip" in parts[:-2]:
        folder, file = parts[parts.index("split_clip") + 1 :][:2]
        stem = PurePosixPath(file).stem
    elif "filtered_clips" in parts[:-1]:
        folder = CLIP.sub("", stem)
    else:
        return stem, None
    scene, clip = SCENE.search(folder), CLIP.search(stem)
    return SCENE.sub("", folder), (int(scene[1]) if scene else 0, int(clip[1]) if clip else 0)


def _measure(scores: Mapping[Clip | None, Row], scale: int) -> Result:
    """A film's score: the mean of what is said, beside the scores of its clips in order."""
    value = sum(row.video_results for row in scores.values()) / len(scores) / scale
    inside = {
        clip: row.video_results if row.inclip_score is None else row.inclip_score
        for clip, row in scores.items()
        if clip is not None
    }
    segments = [inside[clip] / scale for clip in sorted(inside)]
    return {
        **_finite(value),
        "higher": True,
        "segments": [each if math.isfinite(each) else None for each in segments] or None,
    }


def _vde(file: Path) -> dict[str, Result]:
    """LV-Bench's drift errors by film, of the measure that the file is named after."""
    aspect = file.stem.removeprefix("vde_")
    if aspect not in MEASURES:
        raise UsageError(f"{file}: which drift error is this? Name it vde_<one of {', '.join(MEASURES)}>.json.")
    expected = '{"videos/a.mp4": "0.7551", ...}'
    results: dict[str, Result] = {}
    for path, value in read_form(file, VDE, expected).items():
        film = _whose(path)[0]
        if film in results:
            raise UsageError(f"{file}: this speaks of '{film}' twice; films need names of their own.")
        drift = _finite(value, "zero_reference" if value == math.inf else "not_finite")
        normalised = value / WEIGHT if math.isfinite(value) else None
        results[film] = _nothing(film)
        results[film]["vde"][aspect] = drift | {
            "normalised": normalised,
            "measure": MEASURES[aspect],
            "segments": None,
        }
    if not results:
        raise UsageError(f"{file}: no film is in this file. Expected: {expected}")
    return results


def _finite(value: float, reason: str = "not_finite") -> Result:
    finite = math.isfinite(value)
    return {"value": value if finite else None, "reason": None if finite else reason}


def _nothing(film: str) -> Result:
    """A result in which nothing is said yet."""
    unknown = dict.fromkeys(("sha256", "frames", "fps", "seconds", "size", "adherence"))
    settings = {"tier": "vbench", "imported": ""}
    return {"film": film, **unknown, "notes": [], "settings": settings, "measures": {}, "vde": {}}
