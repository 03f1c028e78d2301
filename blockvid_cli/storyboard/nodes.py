"""YAML's nodes as plain values, with the line of each; what is no text, number or truth value is a fault."""

from __future__ import annotations

import yaml

from blockvid_cli.errors import StoryboardError
from blockvid_cli.storyboard.faults import Fault, Field, Reading
from blockvid_cli.storyboard.seconds import shorten

MOST_VALUES = 100_000
DEEPEST = 24
LARGEST_NUMBER = 10**30
YAML = "tag:yaml.org,2002:"


def read_scalar(text: str) -> object:
    """What YAML makes of one word or number; a text in quotes is the text itself.

    Raises:
        ValueError: it looks like a number, a date or a truth value, and is none.
    """
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        return text[1:-1]
    loader = yaml.SafeLoader("")
    tag = loader.resolve(yaml.ScalarNode, text, (True, False))
    return _scalar(loader, yaml.ScalarNode(tag, text))


class Nodes:
    """Turns nodes into values, noting lines and faults on the way."""

    def __init__(self, reading: Reading, loader: yaml.SafeLoader) -> None:
        self.reading = reading
        self.loader = loader
        self.count = 0

    def value(self, node: yaml.Node, way: Field) -> object:
        """The value of a node; None where it is a fault."""
        line = node.start_mark.line + 1
        self.reading.lines.setdefault(way, line)
        self.count += 1
        if self.count > MOST_VALUES or len(way) > DEEPEST:
            place = f"{self.reading.source}:{line}"
            raise StoryboardError(f"{place}: this repeats itself too much; write it out plainly")
        if isinstance(node, yaml.MappingNode) and node.tag == f"{YAML}map":
            return self._mapping(node, way)
        if isinstance(node, yaml.SequenceNode) and node.tag == f"{YAML}seq":
            return [self.value(item, (*way, index)) for index, item in enumerate(node.value)]
        try:
            return _scalar(self.loader, node)
        except ValueError as error:
            self.reading.faults.append(Fault(way, str(error)))
            return None

    def _mapping(self, node: yaml.MappingNode, way: Field) -> dict[str, object]:
        values: dict[str, object] = {}
        for key, child in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                self._fault(way, "a field's name must be a word, not a list or a mapping", line)
            elif key.tag == f"{YAML}merge":
                self._fault(way, "'<<' is not followed here; write the fields out", line)
            elif key.value in values:
                self._fault((*way, key.value), "this field is given twice; keep one of them", line)
            else:
                self.reading.lines[(*way, key.value)] = line
                values[key.value] = self.value(child, (*way, key.value))
        return values

    def _fault(self, way: Field, sentence: str, line: int) -> None:
        self.reading.faults.append(Fault(way, sentence, line))


def _scalar(loader: yaml.SafeLoader, node: yaml.Node) -> object:
    """Text, number, truth value or nothing.

    Raises:
        ValueError: it is anything else (a date, an infinite number, a tag of one's own).
    """
    name = node.tag.removeprefix(YAML)
    if name == "timestamp":
        raise ValueError(f"{shorten(str(node.value))} is read as a date; put it in quotes to make it text")
    if not isinstance(node, yaml.ScalarNode) or name not in ("str", "value", "null", "bool", "int", "float"):
        raise ValueError(f"the tag '{shorten(node.tag)}' is not known here; remove it")
    if name in ("str", "value"):
        return _whole_characters(node.value)
    try:
        value = loader.construct_object(node)
    except (ValueError, LookupError) as error:
        raise ValueError(f"'{shorten(node.value)}' cannot be read as a number or a truth value") from error
    if name in ("int", "float") and not -LARGEST_NUMBER < value < LARGEST_NUMBER:  # nan is neither
        raise ValueError(f"{shorten(node.value)} is no number that means anything here; write a smaller one")
    return value


def _whole_characters(text: str) -> str:
    """Joins the halves of characters that JSON escapes in two parts."""
    try:
        return text.encode("utf-16", "surrogatepass").decode("utf-16")
    except UnicodeDecodeError as error:
        raise ValueError("half a character stands in this text; remove the escape") from error
