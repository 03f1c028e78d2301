"""What to try next: one line, said once on a machine, to a person at a terminal."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from shlex import quote

from blockvid_cli.commands import display as show
from blockvid_cli.models.hub import cache_folder

SAID = "first-film"  # a file in blockvid's cache
NEXT = (
    "blockvid storyboard new my.yaml",
    "blockvid preview {story} --chunk 3 --takes 4",
    "blockvid eval {film}",
    "blockvid history {story}",
)


def after_the_first(story: Path, film: Path) -> None:
    """Says it on stderr, if that is a terminal and it was never said; a home that cannot be written to is spared."""
    said = cache_folder() / SAID
    if said.exists() or not show.watched():
        return
    with suppress(OSError):
        said.parent.mkdir(parents=True, exist_ok=True)
        said.touch()
        show.aside(f"next: {' · '.join(NEXT)}".format(story=quote(str(story)), film=quote(str(film))))
