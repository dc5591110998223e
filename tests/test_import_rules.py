"""app -> ui -> engine, never back; tabs know nothing of one another; the light modules stay light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LIGHT = (
    "engine.config",
    "engine.config.presets",
    "engine.workspace.paths",
    "engine.errors",
    "engine.jobs.runner",
    "engine.jobs.snapshot",
    "engine.conditions.registry",
    "engine.install.cli",
    "engine.runs.run",
    "engine.demo.sets",
    "engine.data.scan",
    "engine.data.dataset",
    "engine.machine.hardware",
    "engine.training.job",
    "engine.evaluation.grid",
    "engine.evaluation.votes",
    "engine.evaluation.grid_sheet",
    "engine.evaluation.timelapse",
    "engine.export",
)


HEAVY = ("torch", "diffusers", "transformers", "gradio")


def imported(path: Path) -> set[str]:
    """Names of all modules that a file imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def sources(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("path", sources("engine"), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_the_engine_imports_neither_the_window_nor_gradio(path: Path) -> None:
    roots = {name.split(".")[0] for name in imported(path)}
    assert not roots & {"ui", "app", "gradio", "tests"}


@pytest.mark.parametrize("path", sources("ui"), ids=lambda path: path.name)
def test_the_window_does_not_import_the_app(path: Path) -> None:
    assert not {name.split(".")[0] for name in imported(path)} & {"app", "tests"}


@pytest.mark.parametrize("path", sorted((ROOT / "ui").rglob("*_tab.py")), ids=lambda path: path.name)
def test_a_tab_imports_no_other_tab_and_stays_short(path: Path) -> None:
    assert [name for name in imported(path) if name.split(".")[0] == "ui" and "_tab" in name] == []
    assert len(path.read_text(encoding="utf-8").splitlines()) < 200


@pytest.mark.parametrize("module", LIGHT)
def test_light_modules_load_neither_torch_nor_gradio(module: str) -> None:
    code = f"import {module}, sys; print([m for m in {HEAVY} if m in sys.modules])"
    told = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert told.stdout.strip() == "[]", told.stdout + told.stderr


@pytest.mark.slow
def test_the_whole_window_is_built_without_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from engine.workspace.paths import Workspace; from ui.page.context import AppContext;"
        "from ui.app import build_app;"
        f"context = AppContext(Workspace({str(tmp_path)!r})); build_app(context); context.view();"
        "print([m for m in ('torch', 'diffusers', 'transformers') if m in sys.modules])"
    )
    told = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert told.stdout.strip() == "[]", told.stdout + told.stderr


def words_in(folder: str, names: tuple[str, ...]) -> list[str]:
    """Comparisons of a name with something, ``if name == ...``, as path:line."""
    found = []
    for path in sources(folder):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Compare) and isinstance(node.left, ast.Name | ast.Attribute):
                name = node.left.id if isinstance(node.left, ast.Name) else node.left.attr
                text = any(isinstance(c, ast.Constant) and isinstance(c.value, str) for c in node.comparators)
                if name in names and text:
                    found.append(f"{path.relative_to(ROOT).as_posix()}:{node.lineno}")
    return found


def test_only_the_families_ask_which_family_it_is() -> None:
    where = words_in("engine", ("family", "family_name")) + words_in("ui", ("family", "family_name"))
    assert [place for place in where if not place.startswith("engine/families/")] == []


def test_only_the_conditions_ask_which_condition_it_is() -> None:
    where = words_in("engine", ("condition", "condition_type")) + words_in("ui", ("condition", "condition_type"))
    assert [place for place in where if not place.startswith("engine/conditions/")] == []
