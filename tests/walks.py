"""Counts how much code a thing passes on its way through the package, from the call stacks of a real run.

    blockvid render story.yaml  ->  stacks at the stations of the way  ->  functions, files, lines

A walk is the union of the package's functions that were on the stack whenever one of its stations was called: nothing
is picked by hand but the stations.
"""

from __future__ import annotations

import ast
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import CodeType, FrameType

import blockvid_cli

PACKAGE = Path(blockvid_cli.__file__).parent


@dataclass(frozen=True)
class Walk:
    """The functions on a way, as (file, qualified name)."""

    functions: frozenset[tuple[str, str]]

    @property
    def files(self) -> int:
        """How many files they lie in."""
        return len({file for file, _ in self.functions})

    @property
    def lines(self) -> int:
        """How many lines they have; a function inside another counts with it."""
        return len({(file, line) for file, name in self.functions for line in spans(file).get(name, ())})


@dataclass
class Trace:
    """What a run called.

    Args:
        stations: a name for each walk, and the functions ("module.qualified_name") it goes through.
        within: likewise, but everything that is called while one of the functions runs.
        carried: a class; the modules of functions that get an instance of it as an argument, in order.
    """

    stations: Mapping[str, Sequence[str]]
    within: Mapping[str, Sequence[str]] = field(default_factory=dict)
    carried: str = ""
    stacks: dict[str, set[tuple[str, str]]] = field(default_factory=dict)
    called: set[str] = field(default_factory=set)
    modules: list[str] = field(default_factory=list)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Records what is called inside."""
        sys.setprofile(self._event)
        threading.setprofile(self._event)
        try:
            yield
        finally:
            sys.setprofile(None)
            threading.setprofile(None)

    def walk(self, name: str) -> Walk:
        """The walk of a name."""
        return Walk(frozenset(self.stacks.get(name, ())))

    @property
    def visits(self) -> tuple[int, int]:
        """How many modules the carried object enters, and how often it returns to one that it left."""
        runs = [now for before, now in zip(["", *self.modules], self.modules, strict=False) if before != now]
        return len(set(runs)), len(runs) - len(set(runs))

    def _event(self, frame: FrameType, event: str, _: object) -> None:
        if event != "call" or not _ours(frame.f_code):
            return
        name = f"{_module(frame.f_code)}.{frame.f_code.co_qualname}"
        if self.carried:
            self._carry(frame)
        for walk, stations in self.stations.items():
            if name in stations:
                self.called.add(name)
                self.stacks.setdefault(walk, set()).update(_stack(frame))
        for walk, outer in self.within.items():
            stack = list(_stack(frame))
            depth = next((i for i, (file, qual) in enumerate(stack) if _dotted(file, qual) in outer), None)
            if depth is not None:
                self.called.update(outer)
                self.stacks.setdefault(walk, set()).update(stack[: depth + 1])

    def _carry(self, frame: FrameType) -> None:
        code = frame.f_code
        names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        if any(type(frame.f_locals.get(name)).__name__ == self.carried for name in names):
            self.modules.append(_module(code))


def _stack(frame: FrameType) -> Iterator[tuple[str, str]]:
    """The package's functions on a stack, innermost first."""
    current: FrameType | None = frame
    while current is not None:
        if _ours(current.f_code):
            yield current.f_code.co_filename, current.f_code.co_qualname
        current = current.f_back


@cache
def _ours(code: CodeType) -> bool:
    return code.co_filename.startswith(str(PACKAGE)) and code.co_name != "<module>"


def _module(code: CodeType) -> str:
    return ".".join(Path(code.co_filename).relative_to(PACKAGE).with_suffix("").parts)


def _dotted(file: str, name: str) -> str:
    return ".".join([*Path(file).relative_to(PACKAGE).with_suffix("").parts, name])


@cache
def spans(file: str) -> dict[str, frozenset[int]]:
    """The lines of code of every function of a file, by qualified name: docstrings, comments and blank lines are none.

    Comprehensions and lambdas count with the function they are in.
    """
    out: dict[str, frozenset[int]] = {}
    text = Path(file).read_text(encoding="utf-8").splitlines()
    code = {number for number, line in enumerate(text, start=1) if line.strip() and not line.strip().startswith("#")}

    def lines(node: ast.FunctionDef) -> frozenset[int]:
        first = node.body[0]
        docstring = range(first.lineno, (first.end_lineno or 0) + 1) if ast.get_docstring(node) else ()
        return frozenset(code.intersection(range(node.lineno, (node.end_lineno or node.lineno) + 1)) - set(docstring))

    def visit(node: ast.AST, outer: str) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef):
                out[f"{outer}{child.name}"] = lines(child)
                visit(child, f"{outer}{child.name}.<locals>.")
            elif isinstance(child, ast.ClassDef):
                visit(child, f"{outer}{child.name}.")
            else:
                visit(child, outer)

    visit(ast.parse("\n".join(text)), "")
    return out


def trace(run: Callable[[], object], **settings: object) -> Trace:
    """Runs something and records it; see ``Trace``."""
    record = Trace(**settings)  # type: ignore[arg-type]
    with record.running():
        run()
    return record
