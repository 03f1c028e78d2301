"""Which storyboard is meant where none is named: story.yaml, the only one here, or the one rendered last."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from blockvid_cli.errors import BlockvidError, UsageError
from blockvid_cli.models.hub import cache_folder
from blockvid_cli.project.atomic_files import write_atomically

FILE = "last-storyboard"


def storyboard(folder: Path) -> Path:
    """The storyboard that is meant in a folder.

    Raises:
        UsageError: none is; the sentence says what to write.
    """
    named = folder / "story.yaml"
    if named.is_file():
        return named
    there = [file for file in sorted((*folder.glob("*.yaml"), *folder.glob("*.yml"))) if _is_one(file)]
    if len(there) == 1:
        return there[0]
    with suppress(OSError):
        last = Path((cache_folder() / FILE).read_text("utf-8", "surrogateescape"))
        if not there and last.is_file():
            return last
    found = f"there are {', '.join(file.name for file in there)}" if there else "there is none here"
    below = [file for file in sorted((folder / "storyboards").glob("*.yaml")) if _is_one(file)]
    example = there[0].name if there else below[0].relative_to(folder).as_posix() if below else "story.yaml"
    raise UsageError(f"which storyboard? {found}; write: blockvid preview {example} --chunk 5")


def remember(story: Path) -> None:
    """Keeps in mind which storyboard was rendered; a cache that cannot be written to keeps nothing."""
    with suppress(BlockvidError):
        write_atomically(cache_folder() / FILE, str(story.absolute()).encode("utf-8", "surrogateescape"))


def _is_one(file: Path) -> bool:
    """Whether a YAML file is a storyboard, by its first look."""
    try:
        return any(line.startswith("chunks:") for line in file.read_text(encoding="utf-8").splitlines())
    except (OSError, UnicodeDecodeError):
        return False
