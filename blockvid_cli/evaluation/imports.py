"""Reads the scores that other programs wrote: VBench's, VBench-Long's and those of LV-Bench's ``vde.py``.

    *_eval_results.json   {dimension: [mean, [{"video_path": "a.mp4", "video_results": 0.9}, ...]]}      VBench
                          the same of clips, split_clip/a/a_006.mp4, and then means                 VBench-Long
    vde_clarity.json      {"videos/a.mp4": "0.7551"}, a metric per file                      LV-Bench (Inferix)

Films are identified by the stem of their file. VBench-Long's scores end in ``_long``, because they are other numbers;
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
from blockvid_cli.files import read_regular_file

MAX_BYTES = 64_000_000  # of a file of scores
Form = TypeVar("Form")
Result = dict[str, Any]
Clip = tuple[int, int]  # scene and clip, both counted from 0

CLIP_NUMBER = re.compile(r"_(\d+)\Z")
SCENE_NUMBER = re.compile(r"-Scene-(\d+)\Z")
WEIGHT_SUM = 45  # of LV-Bench's ten segments: 9 + 8 + ... + 1
METRICS = {  # by which LV-Bench scores segments
    "subject": "subject_consistency",
    "background": "background_consistency",
    "motion": "motion_smoothness",
    "aesthetic": "aesthetic_quality",
    "clarity": "imaging_quality",
    "dynamic": "dynamic_degree",
}


class Row(BaseModel):
    """VBench's score of a film or a clip; ``inclip_score`` where it was fused with another score."""

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
    """Returns results by the stem of the film, from files, or from the files in folders that are named as above.

    Raises:
        UsageError: a file is missing, is not what these programs write, or has a score twice.
    """
    results: dict[str, Result] = {}
    for file in [file for path in paths for file in _files(Path(path))]:
        for film, scores in (_vde if file.stem.startswith("vde_") else _vbench)(file).items():
            result = results.setdefault(film, _empty_result(film))
            for part in ("metrics", "vde"):
                for name in result[part].keys() & scores[part].keys():
                    raise UsageError(f"{file}: '{name}' of the film '{film}' was in another file already.")
                result[part] |= scores[part]
            sources = result["settings"]["imported"]
            result["settings"]["imported"] = f"{sources}, {file.name}" if sources else file.name
    for result in results.values():
        result["vde"] = {"reference": result["vde"]} if result["vde"] else {}
    return results


def merge_results(results: Sequence[Result], imports: Mapping[str, Result]) -> list[Result]:
    """Returns results with the imported scores of films of the same stem; then the films that only others scored.

    Where both have a score, the imported one is called ``<name>_imported``.
    """
    rest, merged = dict(imports), []
    for result in results:
        imported = rest.pop(Path(result["film"]).stem, None)
        if imported and "error" not in result:
            added = {part: _merge(result.get(part) or {}, imported[part]) for part in ("metrics", "vde")}
            settings = {**result.get("settings", {}), "imported": imported["settings"]["imported"]}
            result = {**result, **added, "settings": settings}
        merged.append(result)
    return merged + list(rest.values())


def _merge(ours: Result, theirs: Result) -> Result:
    return ours | {f"{name}_imported" if name in ours else name: value for name, value in theirs.items()}


def read_form(file: Path, form: TypeAdapter[Form], expected: str) -> Form:
    """Reads and checks a JSON file; ``expected`` says what it should hold.

    Raises:
        UsageError: it is missing, or not JSON, or not of this form.
    """
    try:
        return form.validate_json(read_regular_file(file, MAX_BYTES))
    except FileNotFoundError as error:
        raise UsageError(f"{file}: there is no such file.") from error
    except OSError as error:
        raise UsageError(f"{file}: this file cannot be read ({error.strerror}).") from error
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(part) for part in fault["loc"])
        message = fault["msg"].removeprefix("Value error, ")
        raise UsageError(f"{file}: {f'{where}: ' if where else ''}{message}. Expected: {expected}") from error


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    files = sorted([*path.glob("*_eval_results.json"), *path.glob("vde_*.json")])
    if not files:
        raise UsageError(f"{path}: no '*_eval_results.json' (VBench) and no 'vde_*.json' (LV-Bench) is in this folder.")
    return files


def _vbench(file: Path) -> dict[str, Result]:
    """VBench's scores by film."""
    expected = '{"subject_consistency": [mean, [{"video_path": "a.mp4", "video_results": 0.9}, ...]], ...}'
    results: dict[str, Result] = {}
    for dimension, rows in read_form(file, VBENCH, expected).items():
        films: dict[str, dict[Clip | None, Row]] = {}
        for row in rows:
            film, clip = _film_and_clip(row.video_path)
            if clip in films.setdefault(film, {}):
                raise UsageError(f"{file}: '{dimension}' speaks of '{film}' twice; films need names of their own.")
            films[film][clip] = row
        percent = dimension == "imaging_quality" and any(row.video_results > 1 for row in rows)
        for film, scores in films.items():
            metric = _metric(scores, 100 if percent else 1) | {"backend": f"VBench, {file.name}"}
            long = None not in scores or any(row.inclip_score is not None for row in scores.values())
            name = f"{dimension}_long" if long else dimension
            results.setdefault(film, _empty_result(film))["metrics"][name] = metric
    if not results:
        raise UsageError(f"{file}: no film is in this file. Expected: {expected}")
    return results


def _film_and_clip(path: str) -> tuple[str, Clip | None]:
    """The film that a path belongs to, and the clip: ``.../split_clip/a-Scene-1/a-Scene-1_006.mp4`` -> a, (1, 6)."""
    parts = PurePosixPath(path.replace("\\", "/")).parts or ("",)
    stem = PurePosixPath(parts[-1]).stem
    if "split_clip" in parts[:-2]:
        folder, file = parts[parts.index("split_clip") + 1 :][:2]
        stem = PurePosixPath(file).stem
    elif "filtered_clips" in parts[:-1]:
        folder = CLIP_NUMBER.sub("", stem)
    else:
        return stem, None
    scene, clip = SCENE_NUMBER.search(folder), CLIP_NUMBER.search(stem)
    return SCENE_NUMBER.sub("", folder), (int(scene[1]) if scene else 0, int(clip[1]) if clip else 0)


def _metric(scores: Mapping[Clip | None, Row], scale: int) -> Result:
    """A film's score: the mean of its rows, with the scores of its clips in order."""
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
    """LV-Bench's drift errors by film, of the metric that the file is named after."""
    aspect = file.stem.removeprefix("vde_")
    if aspect not in METRICS:
        raise UsageError(f"{file}: which drift error is this? Name it vde_<one of {', '.join(METRICS)}>.json.")
    expected = '{"videos/a.mp4": "0.7551", ...}'
    results: dict[str, Result] = {}
    for path, value in read_form(file, VDE, expected).items():
        film = _film_and_clip(path)[0]
        if film in results:
            raise UsageError(f"{file}: this speaks of '{film}' twice; films need names of their own.")
        drift = _finite(value, "zero_reference" if value == math.inf else "not_finite")
        normalised = value / WEIGHT_SUM if math.isfinite(value) else None
        results[film] = _empty_result(film)
        results[film]["vde"][aspect] = drift | {
            "normalised": normalised,
            "metric": METRICS[aspect],
            "segments": None,
        }
    if not results:
        raise UsageError(f"{file}: no film is in this file. Expected: {expected}")
    return results


def _finite(value: float, reason: str = "not_finite") -> Result:
    finite = math.isfinite(value)
    return {"value": value if finite else None, "reason": None if finite else reason}


def _empty_result(film: str) -> Result:
    """A result without scores."""
    unknown = dict.fromkeys(("sha256", "frames", "fps", "seconds", "size", "adherence"))
    settings = {"tier": "vbench", "imported": ""}
    return {"film": film, **unknown, "notes": [], "settings": settings, "metrics": {}, "vde": {}}
