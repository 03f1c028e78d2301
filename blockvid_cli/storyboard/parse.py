"""Reads YAML and JSON into plain values with the line of each one; a wrong or hostile file ends in a sentence.

file -> text -> YAML nodes -> Document: values, and the line of every field    (imports.py makes one of captions)
                              problems: what no field may hold, told together with what the schema finds
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from blockvid_cli.errors import StoryboardError
from blockvid_cli.storyboard.seconds import shorten

FieldPath = tuple[str | int, ...]  # the path to a field: ("chunks", 2, "duration"); lists are counted from 0

MAX_PROBLEMS = 10  # in one error
MAX_FILE_BYTES = 2_000_000
MAX_ALIASES = 100
MAX_VALUES = 100_000
MAX_DEPTH = 24
MAX_NUMBER = 10**30
YAML_TAG = "tag:yaml.org,2002:"


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a field; ``line`` is given only where it is not the line of the field."""

    field: FieldPath
    sentence: str
    line: int | None = None


@dataclass
class Document:
    """A file as plain values, and the line that each field comes from."""

    source: Path
    data: object
    lines: dict[FieldPath, int]
    overrides: dict[FieldPath, str] = field(default_factory=dict)  # fields that come from --set, as typed there
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def location(self, path: FieldPath) -> tuple[int, str]:
        """Returns the line of a field, or of the nearest field around it, and its location as a person reads it."""
        for length in range(len(path), -1, -1):
            if path[:length] in self.overrides:
                return 0, f"--set {self.overrides[path[:length]]}"
            if path[:length] in self.lines:
                line = self.lines[path[:length]]
                return line, f"{self.source}:{line}"
        return 1, f"{self.source}:1"

    def recipe_location(self) -> str:
        """Returns where the recipe is written: in the file, in --set options, or both; "" where there is none."""
        line = self.lines.get(("recipe",))
        options = [f"--set {text}" for path, text in self.overrides.items() if path[0] == "recipe"]
        return " with ".join([*([f"{self.source}:{line}"] if line else []), *([", ".join(options)] if options else [])])

    def error(self, problems: Sequence[Problem]) -> StoryboardError:
        """Returns one error that names all problems, a line each, in the order of the file."""
        numbered = []
        for problem in problems:
            line, location = self.location(problem.field)
            if problem.line is not None:
                line, location = problem.line, f"{self.source}:{problem.line}"
            parts = (location, field_name(problem.field), problem.sentence)
            numbered.append((line, ": ".join(part for part in parts if part)))
        sentences = [sentence for _, sentence in sorted(numbered, key=lambda pair: pair[0])]
        if len(sentences) > MAX_PROBLEMS:
            sentences[MAX_PROBLEMS:] = [f"... and {len(sentences) - MAX_PROBLEMS} more"]
        return StoryboardError("\n".join(sentences))


def field_name(path: FieldPath) -> str:
    """Names a field as a person counts: ``("chunks", 2, "duration")`` is ``chunks[3].duration``."""
    name = ""
    for part in path:
        if isinstance(part, int):
            name += f"[{part + 1}]"
        else:
            name += f".{part}" if name else part
    return name


def read_text(path: Path) -> str:
    """Returns the text of a UTF-8 file of at most 2 MB.

    Raises:
        StoryboardError: there is no such file, it cannot be read, it is too large, or it is not UTF-8.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError as error:
        raise StoryboardError(
            f"{path}:1: there is no such file; 'blockvid storyboard new {path}' writes a first one"
        ) from error
    except IsADirectoryError as error:
        raise StoryboardError(f"{path}:1: this is a folder; name the storyboard in it") from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise StoryboardError(f"{path}:1: this file cannot be read ({reason}); check its permissions") from error
    if len(raw) > MAX_FILE_BYTES:
        raise StoryboardError(f"{path}:1: this file is larger than 2 MB; a storyboard is a few pages of text")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise StoryboardError(f"{path}:{line}: this is not UTF-8 text; save the file as UTF-8") from error


def read_yaml(text: str, source: Path) -> Document:
    """Returns the values of one YAML (or JSON) document, with the line of each one.

    A value that no field may hold (a date, an infinite number, a tag) becomes one of the document's problems.

    Raises:
        StoryboardError: it is not YAML, it is not one document, it nests too deeply, or it has too many aliases.
    """
    if source.suffix.lower() == ".json":
        text = text.replace("\t", " ")  # JSON may indent with tabs, YAML may not
    try:
        loader = LimitedLoader(text)
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
    document = Document(source, None, {})
    document.data = _NodeReader(document, loader).value(node, ())
    return document


def read_scalar(text: str) -> object:
    """Returns what YAML makes of one word or number; a text in quotes is the text itself.

    Raises:
        ValueError: it looks like a number, a date or a truth value, and is none.
    """
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        return text[1:-1]
    loader = yaml.SafeLoader("")
    tag = loader.resolve(yaml.ScalarNode, text, (True, False))
    return _scalar(loader, yaml.ScalarNode(tag, text))


def read_collection(text: str) -> object:
    """Returns a list or a mapping that is written on one line: ``[1, 2]`` or ``{name: window, sink: 3}``.

    Raises:
        ValueError: it is neither, or it holds something that no field may hold.
    """
    try:
        document = read_yaml(text, Path("--set"))
    except StoryboardError as error:
        raise ValueError(
            f"'{shorten(text)}' cannot be read as a list or a mapping; check brackets and colons"
        ) from error
    if document.problems:
        raise ValueError(document.problems[0].sentence)
    return document.data


class LimitedLoader(yaml.SafeLoader):
    """Composes nodes with their marks; stops at a document that nests, or refers back, too much."""

    depth = 0
    aliases = 0
    values = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Counts values, aliases and levels on the way.

        Raises:
            yaml.MarkedYAMLError: there are too many of them.
        """
        self.aliases += self.check_event(yaml.AliasEvent)
        self.values += 1
        self.depth += 1
        for count, limit, what in (
            (self.aliases, MAX_ALIASES, "aliases"),
            (self.values, MAX_VALUES, "values"),
            (self.depth, MAX_DEPTH, "levels"),
        ):
            if count > limit:
                raise yaml.MarkedYAMLError(
                    problem=f"more than {limit} {what}", problem_mark=self.peek_event().start_mark
                )
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


class _NodeReader:
    """Turns YAML nodes into values, and notes lines and problems on the way."""

    def __init__(self, document: Document, loader: yaml.SafeLoader) -> None:
        self.document = document
        self.loader = loader
        self.count = 0

    def value(self, node: yaml.Node, path: FieldPath) -> object:
        """Returns the value of a node; None where it is a problem."""
        line = node.start_mark.line + 1
        self.document.lines.setdefault(path, line)
        self.count += 1
        if self.count > MAX_VALUES or len(path) > MAX_DEPTH:
            raise StoryboardError(f"{self.document.source}:{line}: this repeats itself too much; write it out plainly")
        if isinstance(node, yaml.MappingNode) and node.tag == f"{YAML_TAG}map":
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode) and node.tag == f"{YAML_TAG}seq":
            return [self.value(item, (*path, index)) for index, item in enumerate(node.value)]
        try:
            return _scalar(self.loader, node)
        except ValueError as error:
            self.document.problems.append(Problem(path, str(error)))
            return None

    def _mapping(self, node: yaml.MappingNode, path: FieldPath) -> dict[str, object]:
        values: dict[str, object] = {}
        for key, child in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                self._problem(path, "a field's name must be a word, not a list or a mapping", line)
            elif key.tag == f"{YAML_TAG}merge":
                self._problem(path, "'<<' is not followed here; write the fields out", line)
            elif key.value in values:
                self._problem((*path, key.value), "this field is given twice; keep one of them", line)
            else:
                self.document.lines[(*path, key.value)] = line
                values[key.value] = self.value(child, (*path, key.value))
        return values

    def _problem(self, path: FieldPath, sentence: str, line: int) -> None:
        self.document.problems.append(Problem(path, sentence, line))


def _scalar(loader: yaml.SafeLoader, node: yaml.Node) -> object:
    """Returns a text, a number, a truth value or nothing.

    Raises:
        ValueError: it is anything else (a date, an infinite number, a custom tag).
    """
    name = node.tag.removeprefix(YAML_TAG)
    if name == "timestamp":
        raise ValueError(f"{shorten(str(node.value))} is read as a date; put it in quotes to make it text")
    if not isinstance(node, yaml.ScalarNode) or name not in ("str", "value", "null", "bool", "int", "float"):
        raise ValueError(f"the tag '{shorten(node.tag)}' is not known here; remove it")
    if name in ("str", "value"):
        return _join_surrogates(node.value)
    try:
        value = loader.construct_object(node)
    except (ValueError, LookupError) as error:
        raise ValueError(f"'{shorten(node.value)}' cannot be read as a number or a truth value") from error
    if name in ("int", "float") and not -MAX_NUMBER < value < MAX_NUMBER:  # nan is neither
        raise ValueError(f"{shorten(node.value)} is no number that means anything here; write a smaller one")
    return value


def _join_surrogates(text: str) -> str:
    """Joins the two halves in which JSON escapes some characters."""
    try:
        return text.encode("utf-16", "surrogatepass").decode("utf-16")
    except UnicodeDecodeError as error:
        raise ValueError("half a character stands in this text; remove the escape") from error


def _yaml_sentence(problem: str) -> str:
    if "another document" in problem:
        return "a second document begins; a storyboard is one document, so remove the '---'"
    if problem.startswith("more than"):
        return f"this has {problem}; write less, and plainly"
    hint = "indent with spaces, not with tabs" if "\\t" in problem else "check indentation, colons and quotes"
    return f"this is not YAML that can be read ({shorten(problem, 100)}); {hint}"
