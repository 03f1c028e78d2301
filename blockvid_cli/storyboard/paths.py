"""Files that a storyboard names: found beside it, and kept below its folder."""

from __future__ import annotations

from pathlib import Path

from blockvid_cli.storyboard.faults import Fault, Field


class Folder:
    """The folder of a storyboard; paths in the storyboard start there and stay below it."""

    def __init__(self, source: Path, allow_outside: bool) -> None:
        self.root = source.parent.resolve()
        self.allow_outside = allow_outside

    def find(self, name: str, way: Field, faults: list[Fault]) -> Path:
        """The absolute path of a file; when there is none to be had, a fault is added."""
        try:
            path = (self.root / name).resolve()
            inside = path.is_relative_to(self.root)
            there = path.is_file()
        except (OSError, RuntimeError, ValueError):  # too long a name, links in a circle
            faults.append(Fault(way, f"'{name[:80]}' cannot be a path; name a file beside the storyboard"))
            return self.root
        if not inside and not self.allow_outside:
            what = f"'{name}' lies outside the storyboard's folder"
            faults.append(Fault(way, f"{what}; move the file there, or allow it with --allow-outside"))
        elif not there:
            what = "is a folder, not a file" if path.is_dir() else "is not there"
            faults.append(Fault(way, f"'{name}' {what}; name a file relative to {self.root}"))
        return path

    def name(self, path: Path) -> str:
        """How a storyboard in this folder names ``path``."""
        return str(path.relative_to(self.root) if path.is_relative_to(self.root) else path)
