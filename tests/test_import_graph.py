"""The import graph of engine/ and ui/: no circles, and packages import only from packages below them.

Every import counts, wherever it stands: at the top of a module, inside a function, or under ``TYPE_CHECKING``.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

LAYERS = (
    # What everything may use.
    "engine.errors",
    "engine.version",
    "engine.machine",  # clock, hardware, errors of the graphics card
    "engine.jobs",  # one background job: events, cancellation, progress
    "engine.disk",  # durable writes, retries, free space, reading images
    "engine.hub",  # downloads from the Hugging Face hub
    "engine.workspace",  # where everything lies
    # What a run is: its settings and its folder.
    "engine.families",  # the kinds of base model
    "engine.config",
    "engine.runs",
    "engine.bases",  # getting a base model
    # What is computed.
    "engine.nets",
    "engine.tuning",  # what is trained
    "engine.distributed",
    "engine.conditions",  # arrays in, arrays out; knows no dataset
    "engine.data",
    "engine.estimate",
    "engine.demo",
    # What is done with a trained net.
    "engine.inference",
    "engine.evaluation",
    "engine.export",
    "engine.training",
    "engine.serving",  # the HTTP API
    # What people start.
    "engine.support",
    "engine.queue",  # jobs that wait for their turn
    "engine.cli",
    "engine.install",  # standard library only; of the engine it imports disk.typed_path
    "ui.server",  # knows nothing of the page that it serves
    "ui.page",  # what the tabs share
    "ui.dataset",
    "ui.conditions",
    "ui.train",
    "ui.try_it",
    "ui.export",
    "ui.settings",
    "ui.queue",  # in the header
    "ui.app",
    "ui.launch",
    "app",
)
"""All packages, and modules that lie beside them, from bottom to top. An import may only point to a lower one."""

EXCEPTIONS: dict[tuple[str, str], str] = {}
"""Imports that are allowed in spite of the rules, as (module, imported module): one sentence why."""


Graph = Mapping[str, set[str]]


def read_graph(root: Path) -> dict[str, set[str]]:
    """For each module of engine/ and ui/, and for app.py, the modules among these that it imports."""
    files = [*root.glob("*.py"), *(path for part in ("engine", "ui") for path in (root / part).rglob("*.py"))]
    names = {path: ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__") for path in files}
    known = set(names.values())
    return {name: imports_of(path, known) - {name} for path, name in names.items()}


def imports_of(path: Path, known: set[str]) -> set[str]:
    """The known modules that a file imports. ``from a.b import c`` means a.b.c where that is a module, else a.b."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute here"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                found.add(full if full in known else str(node.module))
    return found & known


def circles(graph: Graph) -> list[list[str]]:
    """Groups of nodes that reach one another (Tarjan 1972), sorted."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    groups: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for target in sorted(graph.get(node, ())):
            if target not in index:
                visit(target)
                low[node] = min(low[node], low[target])
            elif target in stack:
                low[node] = min(low[node], index[target])
        if low[node] == index[node]:
            group = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(group) > 1:
                groups.append(sorted(group))

    for node in sorted(graph):
        if node not in index:
            visit(node)
    return sorted(groups)


def layer_of(module: str, layers: Iterable[str]) -> str:
    """The entry of the list that a module belongs to. Raises AssertionError where there is none."""
    for layer in layers:
        if module == layer or module.startswith(f"{layer}."):
            return layer
    raise AssertionError(f"{module} is in no layer: add its package to LAYERS, above everything that it imports")


def upward_imports(graph: Graph, layers: tuple[str, ...]) -> list[tuple[str, str]]:
    """Imports that point to a higher layer, as (module, imported module)."""
    height = {layer: number for number, layer in enumerate(layers)}
    return sorted(
        (module, target)
        for module, targets in graph.items()
        for target in targets
        if height[layer_of(target, layers)] > height[layer_of(module, layers)]
    )


def without(graph: Graph, arrows: Iterable[tuple[str, str]]) -> dict[str, set[str]]:
    """The graph less some imports."""
    removed = set(arrows)
    return {module: {name for name in targets if (module, name) not in removed} for module, targets in graph.items()}


@pytest.fixture(scope="module")
def graph() -> dict[str, set[str]]:
    found = read_graph(ROOT)
    packages = {"engine", "ui"}  # they hold nothing themselves
    return {module: targets - packages for module, targets in found.items() if module not in packages}


def test_no_circle_between_modules(graph: Graph) -> None:
    assert circles(without(graph, EXCEPTIONS)) == []


def test_every_import_points_to_a_lower_layer(graph: Graph) -> None:
    """The layers are in one order, so there is no circle between packages either."""
    assert upward_imports(without(graph, EXCEPTIONS), LAYERS) == []


def test_no_tab_imports_another(graph: Graph) -> None:
    shared = {"ui.server", "ui.page", "ui.app", "ui.launch"}
    tabs = {layer for layer in LAYERS if layer.startswith("ui.")} - shared
    between = [
        (module, target)
        for module, targets in graph.items()
        for target in targets
        if {layer_of(module, LAYERS), layer_of(target, LAYERS)} <= tabs
        and layer_of(module, LAYERS) != layer_of(target, LAYERS)
    ]
    assert between == []


def test_every_exception_is_an_import(graph: Graph) -> None:
    gone = [arrow for arrow in EXCEPTIONS if arrow[1] not in graph.get(arrow[0], set())]
    assert gone == [], "these imports are gone: delete their exceptions"


def test_every_layer_exists(graph: Graph) -> None:
    used = {layer_of(module, LAYERS) for module in graph}
    assert set(LAYERS) == used


def write(root: Path, **modules: str) -> Path:
    for name, text in modules.items():
        path = root.joinpath(*name.split("__")).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


def test_a_planted_circle_is_found(tmp_path: Path) -> None:
    """Through a late import, one for type checkers and a package's name."""
    root = write(
        tmp_path,
        engine__a__one="def f():\n    from engine.b import two\n",
        engine__b__two="from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from engine.b.three import X\n",
        engine__b__three="import engine.a.one\n",
        engine__b__four="from engine.b import two\n",
    )
    found = read_graph(root)
    assert circles(found) == [["engine.a.one", "engine.b.three", "engine.b.two"]]
    assert upward_imports(found, ("engine.a", "engine.b")) == [("engine.a.one", "engine.b.two")]
    assert upward_imports(found, ("engine.b", "engine.a")) == [("engine.b.three", "engine.a.one")]


def test_a_graph_without_circles_is_clean(tmp_path: Path) -> None:
    root = write(tmp_path, engine__a__one="import engine.b.two\nimport json\n", engine__b__two="import os\n")
    assert circles(read_graph(root)) == []
    assert upward_imports(read_graph(root), ("engine.b", "engine.a")) == []


def test_a_module_outside_all_layers_is_refused() -> None:
    with pytest.raises(AssertionError, match="no layer"):
        layer_of("engine.new.module", LAYERS)
