"""Options that several commands share: their help, the words a shell offers for them, and the default storyboard.

A shell's completion must answer at once, so words of modules that need torch are written out here; a test compares
them with the tables they come from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from blockvid_cli.commands.display import ProgressForm
from blockvid_cli.errors import BlockvidError, UsageError
from blockvid_cli.files import read_regular_file
from blockvid_cli.models.card import bundled_models
from blockvid_cli.models.hub import cache_folder
from blockvid_cli.project.atomic_files import write_atomically
from blockvid_cli.storyboard.overrides import read_collection
from blockvid_cli.storyboard.parse import MAX_FILE_BYTES

Completion = Callable[[str], list[str]]

STORYBOARD_SUFFIXES = (".yaml", ".yml")
PROJECT_SUFFIX = ".blockvid"
LAST_STORYBOARD = "last-storyboard"  # a file in blockvid's cache
MAX_PATH_BYTES = 10_000


def _words(*known: str) -> Completion:
    """Offers fixed words."""

    def offer(incomplete: str) -> list[str]:
        return _matching(known, incomplete)

    return offer


complete_kv_cache = _words("full", "none", "semantic", "window")
complete_device = _words("auto", "cpu", "cuda:0", "xpu", "mps")
complete_precision = _words("auto", "fp32", "bf16", "int8", "nf4")
complete_preset = _words("auto", "h20", "24gb", "16gb", "12gb", "8gb", "least")
complete_offload = _words("none", "model", "group", "sequential")
complete_kv_storage = _words("device", "host", "disk", "latents")
complete_kv_dtype = _words("native", "bf16", "int8")
complete_tier = _words("builtin", "vbench")
complete_objective = _words("diffusion-forcing", "own-rollout", "teacher-forcing")
complete_key_layout = _words("diffusers", "original")
complete_weight_dtype = _words("as-stored", "fp32", "bf16", "fp16")


def complete_model(incomplete: str) -> list[str]:
    """Offers models that have a card; the shell itself offers folders and files."""
    return _matching(bundled_models(), incomplete)


def complete_storyboard(incomplete: str) -> list[str]:
    """Offers storyboards in the folder that is being typed; where there is none, the shell offers what lies there."""
    return _files(incomplete, lambda path: path.suffix.lower() in STORYBOARD_SUFFIXES)


def complete_project(incomplete: str) -> list[str]:
    """Offers storyboards and project folders."""
    return _files(incomplete, lambda path: path.suffix.lower() in STORYBOARD_SUFFIXES or path.suffix == PROJECT_SUFFIX)


def _files(incomplete: str, accept: Callable[[Path], bool]) -> list[str]:
    """Paths that begin as typed; hidden ones only when their dot is typed."""
    folder, _, name = incomplete.rpartition("/")
    prefix = f"{folder}/" if "/" in incomplete else ""
    paths: list[str] = []
    with suppress(OSError):
        paths = [f"{prefix}{path.name}" for path in Path(prefix or ".").expanduser().iterdir() if accept(path)]
    return [path for path in _matching(paths, incomplete) if name or not path.removeprefix(prefix).startswith(".")]


def _matching(known: Iterable[str], incomplete: str) -> list[str]:
    return [word for word in known if word.startswith(incomplete)]


Story = Annotated[
    Path,
    typer.Argument(
        metavar="STORY", help="a storyboard, or captions that can be imported", autocompletion=complete_storyboard
    ),
]
DEFAULT_STORY_HELP = "default: story.yaml in this folder, its only storyboard, or the one rendered last"
OptionalStory = Annotated[
    Path | None, typer.Argument(metavar="[STORY]", help=DEFAULT_STORY_HELP, autocompletion=complete_storyboard)
]
Stories = Annotated[
    list[Path] | None, typer.Argument(metavar="[STORY]...", help=DEFAULT_STORY_HELP, autocompletion=complete_storyboard)
]
OfFilm = Annotated[
    Path | None,
    typer.Option("-o", "--output", help="the film that was written, if it is not beside the storyboard"),
]
Output = Annotated[
    Path | None,
    typer.Option("-o", "--output", help="the film to write, or a folder for several; default: beside the storyboard"),
]
Model = Annotated[
    str | None,
    typer.Option(help="a model's name (see 'blockvid models list'), folder or file", autocompletion=complete_model),
]
Seed = Annotated[int | None, typer.Option(min=0, help="seed of the film; the same seed gives the same film")]
Seeds = Annotated[str | None, typer.Option(help="one film for each seed: 1..4, or 3,5,9")]
Steps = Annotated[int | None, typer.Option(min=1, help="denoising steps per block")]
GuidanceScale = Annotated[float | None, typer.Option(help="scale of classifier-free guidance; 1 turns it off")]
Size = Annotated[
    str | None,
    typer.Option(help="size of the film, as WIDTHxHEIGHT in pixels, of those that the model was trained for"),
]
UntrainedSize = Annotated[
    bool,
    typer.Option(
        "--untrained-size",
        help="allow a size that the model was not trained for; the film looks wrong then."
        " (A finished film cannot be enlarged yet.)",
    ),
]
Fps = Annotated[float | None, typer.Option(help="frames per second")]
KVCache = Annotated[
    str | None,
    typer.Option(
        help="which earlier blocks are attended to: full, window, semantic or none; "
        "with options: '{name: window, sink: 3}'",
        autocompletion=complete_kv_cache,
    ),
]
Set = Annotated[
    list[str] | None, typer.Option("--set", help="change one field of the storyboard, as in chunks.4.seed=7")
]
Device = Annotated[
    str,
    typer.Option(
        help="where the model runs: auto, cpu, cuda:0 (NVIDIA, AMD), xpu (Intel) or mps (Apple)",
        autocompletion=complete_device,
    ),
]
Precision = Annotated[
    str,
    typer.Option(help="precision of the transformer: auto, fp32, bf16, int8 or nf4", autocompletion=complete_precision),
]
Preset = Annotated[
    str,
    typer.Option(
        help="settings for the memory of a GPU: auto, h20 (full precision: a CPU, or a GPU of 96 GB like the H20),"
        " 24gb, 16gb, 12gb, 8gb or least",
        autocompletion=complete_preset,
    ),
]
Offload = Annotated[
    str | None,
    typer.Option(
        help="which weights wait in main memory: none, model, group or sequential", autocompletion=complete_offload
    ),
]
KVStorage = Annotated[
    str | None,
    typer.Option(
        help="where the KV cache is stored: device, host, disk or latents", autocompletion=complete_kv_storage
    ),
]
KVDtype = Annotated[
    str | None,
    typer.Option(help="dtype of the stored KV cache: native, bf16 or int8", autocompletion=complete_kv_dtype),
]
Chunk = Annotated[
    int | None,
    typer.Option(min=1, help="render a new take of this chunk; the chunks after it follow it, each by the take it had"),
]
Take = Annotated[int | None, typer.Option(min=1, help="which take; needs --chunk or --only")]
FromChunk = Annotated[
    int | None, typer.Option(min=1, help="render a new take of this chunk and of each chunk after it")
]
Only = Annotated[int | None, typer.Option(min=1, help="render a new take of this chunk alone; its neighbours stay")]
Fresh = Annotated[
    bool, typer.Option("--fresh", help="render everything again; earlier takes are moved to a folder beside")
]
AllowOutside = Annotated[bool, typer.Option("--allow-outside", help="let the storyboard name files outside its folder")]
AsJson = Annotated[bool, typer.Option("--json", help="print the result as JSON")]
Progress = Annotated[ProgressForm, typer.Option(help="how progress is shown on stderr")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="show no progress and no notes")]


def recipe_options(
    steps: int | None = None, guidance: float | None = None, kv_cache: str | None = None
) -> dict[str, Any]:
    """Returns what options change in a recipe; a KV cache is a name, or a YAML mapping of name and options."""
    values = {"steps": steps, "guidance": guidance, "kv_cache": _kv_cache(kv_cache)}
    return {name: value for name, value in values.items() if value is not None}


def _kv_cache(text: str | None) -> str | dict[str, Any] | None:
    """A KV cache's name, or its name and options as a YAML mapping."""
    if text is None:
        return None
    try:
        value = read_collection(text)
    except ValueError as error:
        raise UsageError("--kv-cache: give a name, or a mapping like '{name: window, sink: 3}'.") from error
    if not isinstance(value, str | dict):
        raise UsageError(f"--kv-cache: give a name, or a mapping like '{{name: window, sink: 3}}'; not {text!r}.")
    return value


def default_storyboard(folder: Path, command: str) -> Path:
    """Returns the storyboard of a folder when none is named: story.yaml, the only one, or the one rendered last.

    Args:
        command: what to write, with ``{}`` for the storyboard, where it cannot be known.

    Raises:
        UsageError: there is none, or there are several; the sentence says what to write.
    """
    story = folder / "story.yaml"
    if story.is_file():
        return story
    local = [file for file in sorted((*folder.glob("*.yaml"), *folder.glob("*.yml"))) if _is_storyboard(file)]
    if len(local) == 1:
        return local[0]
    with suppress(OSError):
        saved = read_regular_file(cache_folder() / LAST_STORYBOARD, MAX_PATH_BYTES)
        last = Path(saved.decode("utf-8", "surrogateescape"))
        if not local and last.is_file():
            return last
    what = f"there are {', '.join(file.name for file in local)}" if local else "there is none here"
    below = [file for file in sorted((folder / "storyboards").glob("*.yaml")) if _is_storyboard(file)]
    example = local[0].name if local else below[0].relative_to(folder).as_posix() if below else "story.yaml"
    raise UsageError(f"which storyboard? {what}; write: blockvid {command.format(example)}")


def save_last_storyboard(story: Path) -> None:
    """Notes which storyboard was rendered last; does nothing where the cache cannot be written to."""
    with suppress(BlockvidError):
        write_atomically(cache_folder() / LAST_STORYBOARD, str(story.absolute()).encode("utf-8", "surrogateescape"))


def _is_storyboard(file: Path) -> bool:
    """Whether a YAML file has a line ``chunks:``."""
    try:
        text = read_regular_file(file, MAX_FILE_BYTES).decode("utf-8")
        return any(line.startswith("chunks:") for line in text.splitlines())
    except (OSError, UnicodeDecodeError):
        return False
