"""YAML and JSON as plain values that remember their lines; hostile files end in a sentence, not a crash."""

from __future__ import annotations

from pathlib import Path

import yaml

from blockvid_cli.errors import StoryboardError
from blockvid_cli.storyboard.faults import Reading
from blockvid_cli.storyboard.nodes import DEEPEST, MOST_VALUES, Nodes
from blockvid_cli.storyboard.seconds import shorten

LARGEST_FILE = 2_000_000  # bytes
MOST_ALIASES = 100


class ShallowLoader(yaml.SafeLoader):
    """Composes nodes with their marks; stops at documents that nest, or refer back, too much."""

    depth = 0
    aliases = 0
    values = 0

    def compose_node(self, parent: yaml.Node | None, index: object) -> yaml.Node | None:
        self.aliases += self.check_event(yaml.AliasEvent)
        self.values += 1
        self.depth += 1
        for count, most, what in (
            (self.aliases, MOST_ALIASES, "aliases"),
            (self.values, MOST_VALUES, "values"),
            (self.depth, DEEPEST, "levels"),
        ):
            if count > most:
                raise yaml.MarkedYAMLError(
                    problem=f"more than {most} {what}", problem_mark=self.peek_event().start_mark
                )
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def read_text(path: Path) -> str:
    """The text of a UTF-8 file of at most 2 MB.

    Raises:
        StoryboardError: there is no such file, or it is none of that.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(LARGEST_FILE + 1)
    except FileNotFoundError as error:
        raise StoryboardError(
            f"{path}:1: there is no such file; 'blockvid storyboard new {path}' writes a first one"
        ) from error
    except IsADirectoryError as error:
        raise StoryboardError(f"{path}:1: this is a folder; name the storyboard in it") from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise StoryboardError(f"{path}:1: this file cannot be read ({reason}); check its rights") from error
    if len(raw) > LARGEST_FILE:
        raise StoryboardError(f"{path}:1: this file is larger than 2 MB; a storyboard is a few pages of text")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise StoryboardError(f"{path}:{line}: this is not UTF-8 text; save the file as UTF-8") from error


def read_yaml(text: str, source: Path) -> Reading:
    """The values of one YAML (or JSON) document, with a line for each; odd values become faults.

    Raises:
        StoryboardError: it is not YAML, or not one document, or it is too deep, or it refers back too much.
    """
    if source.suffix.lower() == ".json":
        text = text.replace("\t", " ")  # JSON may indent with tabs, YAML may not
    try:
        loader = ShallowLoader(text)
        try:
            node = loader.get_single_node()
        except (ValueError, OverflowError) as error:  # an escape such as "\UFFFFFFFF" is no character
            line = loader.line + 1
            raise StoryboardError(f"{source}:{line}: this holds an escape that is no character") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise StoryboardError(f"{source}:{line}: {_yaml_sentence(error.problem or '')}") from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise StoryboardError(f"{source}:{line}: this holds a character that is not text; remove it") from error
    if node is None:
        raise StoryboardError(f"{source}:1: this file is empty; it needs 'chunks:' and captions under it")
    nodes = Nodes(Reading(source, None, {}), loader)
    nodes.reading.data = nodes.value(node, ())
    return nodes.reading


def _yaml_sentence(problem: str) -> str:
    if "another document" in problem:
        return "a second document begins; a storyboard is one document, so remove the '---'"
    if problem.startswith("more than"):
        return f"this has {problem}; write less, and plainly"
    hint = "indent with spaces, not with tabs" if "\\t" in problem else "check indentation, colons and quotes"
    return f"this is not YAML that can be read ({shorten(problem, 100)}); {hint}"
