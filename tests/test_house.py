"""The house: who may know whom, how long a room may be, how far it is from the command to the attention."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path

from blockvid_cli import render as pipeline
from blockvid_cli import session as drawing
from blockvid_cli.commands import film, render
from blockvid_cli.models.wan import attention
from blockvid_cli.models.wan import denoiser as wan
from blockvid_cli.rollout import rollout as loop

PACKAGE = Path(pipeline.__file__).parent
ORDER = [
    {"errors", "__init__", "clock"},
    {"card", "hub", "pull"},
    {"story"},
    {"denoiser", "text", "codec", "film", "storybook"},
    {"rollout"},
    {"zoo"},
    {"order", "doctor", "manifest", "redo"},
    {"estimate", "drawing"},
    {"pipeline"},
    {"preview"},
    {"training", "evaluation"},
    {"reporting"},
    {"commands"},
    {"__main__"},
]


def modules() -> dict[str, ast.Module]:
    files = {".".join(f.relative_to(PACKAGE).with_suffix("").parts): f for f in PACKAGE.rglob("*.py")}
    return {name: ast.parse(file.read_text(encoding="utf-8")) for name, file in files.items()}


def imports(tree: ast.Module) -> set[str]:
    """Modules of the package that a module imports, at the top or inside functions."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("blockvid_cli"):
            path = node.module.removeprefix("blockvid_cli").lstrip(".")
            for name in node.names:
                inner = f"{path}.{name.name}".lstrip(".")
                found.add(inner if (PACKAGE / f"{inner.replace('.', '/')}.py").exists() else path or "__init__")
    return found


def room(module: str) -> int:
    top = module.split(".")[0]
    return next(i for i, level in enumerate(ORDER) if top in level)


def test_a_module_imports_only_from_its_left():
    for name, tree in modules().items():
        for other in imports(tree):
            assert room(other) <= room(name), f"{name} imports {other}"


def test_there_is_no_import_cycle():
    graph = {name: imports(tree) - {name} for name, tree in modules().items()}
    while True:
        free = {name for name, needs in graph.items() if not needs & set(graph)}
        if not free:
            break
        graph = {name: needs for name, needs in graph.items() if name not in free}
    assert not graph, f"these import each other: {sorted(graph)}"


def test_no_function_is_longer_than_a_screen():
    for name, tree in modules().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno + 1 <= 60, f"{name}.{node.name}"


def test_every_module_says_what_it_is():
    for name, tree in modules().items():
        assert ast.get_docstring(tree) or not tree.body, name


def test_from_the_command_to_the_attention_is_a_short_read():
    way = [
        render.render,
        film.render_film,
        pipeline.render,
        pipeline._render,
        pipeline._draw,
        drawing.load,
        drawing.stream_latents,
        drawing._runs,
        drawing._kept,
        drawing.no_grad_oom_guard,
        loop.Rollout.run,
        loop.Rollout._run,
        wan.WanDenoiser.__call__,
        attention.CachedSelfAttnProcessor.__call__,
        attention.attend,
    ]
    assert sum(len(inspect.getsource(part).splitlines()) for part in way) <= 300


def test_help_and_plans_need_no_torch():
    code = (
        "import sys; import blockvid_cli.commands.app, blockvid_cli.storyboard.plan, blockvid_cli.models.card;"
        "print([m for m in ('torch', 'diffusers', 'moviepy', 'sentence_transformers') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
