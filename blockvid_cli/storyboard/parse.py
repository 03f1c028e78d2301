"""Reads YAML and JSON into plain values with the line of each one; a wrong or hostile file ends in a sentence.

file -> text -> YAML nodes -> Document: values, and the line of every field    (imports.py makes one of captions)
                              problems: what no field may hold, told together with what the schema finds
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from mimetypes import guess_type
from pathlib import Path

import yaml

from blockvid_cli.errors import StoryboardError, shorten
from blockvid_cli.files import (
    MAX_DEPTH,
    MAX_ENTRIES,
    MAX_NAME,
    MAX_VALUES,
    YAML_TAG,
    FileTooLargeError,
    LimitedLoader,
    NotRegularFileError,
    read_regular_file,
    scalar_value,
)

FieldPath = tuple[str | int, ...]  # the path to a field: ("chunks", 2, "duration"); lists are counted from 0

STORYBOARD_SUFFIXES = (".yaml", ".yml", "")
MEDIA = {"image": "a picture", "video": "a film", "audio": "a sound"}  # by the first word of their MIME type
MAX_PROBLEMS = 10  # in one error
MAX_FILE_BYTES = 1_000_000
MAX_CHUNKS = MAX_ENTRIES  # six hours of chunks of four seconds


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
            name += ("." if name else "") + shorten(part, MAX_NAME)
    return name


def read_content(path: Path) -> bytes:
    """Returns the bytes of a regular file of at most 1 MB.

    Raises:
        StoryboardError: there is no such file, it cannot be read, or it is no regular file or too large.
    """
    try:
        return read_regular_file(path, MAX_FILE_BYTES)
    except FileNotFoundError as error:
        advice = f"; 'blockvid storyboard new {path}' writes a first one" if path.suffix in STORYBOARD_SUFFIXES else ""
        raise StoryboardError(f"{path}: there is no such file{advice}") from error
    except IsADirectoryError as error:
        raise StoryboardError(f"{path}: this is a folder; name the storyboard in it") from error
    except NotRegularFileError as error:
        raise StoryboardError(f"{path}: this is {error.strerror}; save the storyboard as a file") from error
    except FileTooLargeError as error:
        _refuse_media(path)
        raise StoryboardError(f"{path}: this file is {error.strerror}; a storyboard is a few pages of text") from error
    except OSError as error:
        raise StoryboardError(f"{path}: this file cannot be read ({error.strerror}); check its permissions") from error


def decode_text(content: bytes, path: Path) -> str:
    """Returns the text of a file; ``path`` is for the sentence.

    Raises:
        StoryboardError: it is not UTF-8.
    """
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        _refuse_media(path)
        line = content.count(b"\n", 0, error.start) + 1
        raise StoryboardError(f"{path}:{line}: this is not UTF-8 text; save the file as UTF-8") from error


def _refuse_media(path: Path) -> None:
    """Raises StoryboardError where a file that is no text has the name of a picture, a film or a sound."""
    kind = (guess_type(path.name)[0] or "").split("/")[0]
    if kind in MEDIA:
        raise StoryboardError(f"{path}: this is {MEDIA[kind]}, not a storyboard; name a storyboard that uses it")


def read_yaml(text: str, source: Path) -> Document:
    """Returns the values of one YAML (or JSON) document, with the line of each one.

    A value that no field may hold (an infinite number, a tag, a text of pages) becomes one of the document's problems.

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
        typed = text.split("\n")[line - 1 : line] if mark else []
        sentence = _yaml_sentence(error.problem or "", "".join(typed), mark.column if mark else 0)
        raise StoryboardError(f"{source}:{line}: {sentence}") from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise StoryboardError(f"{source}:{line}: this holds a character that is not text; remove it") from error
    if node is None:
        raise StoryboardError(f"{source}:1: this file is empty; it needs 'chunks:' and captions under it")
    document = Document(source, None, {})
    document.data = _NodeReader(document).value(node, ())
    return document


class _NodeReader:
    """Turns YAML nodes into values, and notes lines and problems on the way."""

    def __init__(self, document: Document) -> None:
        self.document = document
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
            return scalar_value(node)
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
            elif len(key.value) > MAX_NAME:
                self._problem(path, f"'{shorten(key.value)}' is too long for a field's name; check the colons", line)
            elif key.value in values:
                first = self.document.lines[(*path, key.value)]
                sentence = f"this field is given twice, first on line {first}; keep one of them"
                self._problem((*path, key.value), sentence, line)
            else:
                self.document.lines[(*path, key.value)] = line
                values[key.value] = self.value(child, (*path, key.value))
        return values

    def _problem(self, path: FieldPath, sentence: str, line: int) -> None:
        self.document.problems.append(Problem(path, sentence, line))


def _yaml_sentence(problem: str, line: str, column: int) -> str:
    """Says what YAML's parser found wrong at ``column`` of a ``line``, and what would be right."""
    if "another document" in problem:
        return "a second document begins; a storyboard is one document, so remove the '---'"
    if problem.startswith("more than"):
        return f"this has {problem}; write less, and plainly"
    if "mapping values are not allowed" in problem or "but got ':'" in problem:
        return _colon_sentence(line, column)
    remedy = "check indentation, colons and quotes"
    if "\\t" in problem:
        remedy = "indent with spaces, not with tabs"
    elif any(sign in problem for sign in ("cannot start any token", "alias", "anchor")):
        remedy = "a text that begins with a sign like @, %, * or & must be put in quotes"
    return f"this is not YAML that can be read ({shorten(problem, 100)}); {remedy}"


def _colon_sentence(line: str, column: int) -> str:
    """Says what a colon means where none may stand: most often it belongs to a caption without quotes."""
    before = line[max(0, column - 1000) : column]
    fields = list(re.finditer(r"(?:^|[{\[,]|- )\s*([a-z_]{1,20}): +(?=[^\s{\[])", before))
    if not fields:
        return (
            "a field begins here, inside a text; quote the caption if the colon belongs to it, else check indentation"
        )
    match = fields[-1]
    value = before[match.end() :] + line[column : column + 1000]
    value = shorten(re.split("[,}]", value)[0] if re.search(r"[{\[]", before) else value, 80)
    quote = "'" if '"' in value else '"'
    return f"a colon stands inside the text of '{match[1]}'; quote the caption: {match[1]}: {quote}{value}{quote}"
