"""Who may know what: a run's state is changed by its own methods, and what learns, how processes share a step, a base's
family and the condition are each known in one place."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
Found = Iterator[tuple[int, str]]
"""Lines, and what was found there."""


@cache
def tree(source: str) -> ast.Module:
    return ast.parse(source)


def read(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def modules(*folders: str, apart: tuple[str, ...] = ()) -> list[str]:
    """Paths of all modules of these folders."""
    found = [path.relative_to(ROOT).as_posix() for folder in folders for path in (ROOT / folder).rglob("*.py")]
    return sorted(path for path in found if not path.startswith(apart))


def broken(rule: Callable[[str], Found], paths: list[str]) -> list[str]:
    """Where a rule is broken, as path:line."""
    assert len(paths) > 10
    return [f"{path}:{line}: {what}" for path in paths for line, what in rule(read(path))]


# The state of a run


def chain(node: ast.expr) -> list[str]:
    """The names of ``a.b[0].c``, from left to right; empty if it does not begin with a name."""
    names: list[str] = []
    while isinstance(node, ast.Attribute | ast.Subscript):
        if isinstance(node, ast.Attribute):
            names.append(node.attr)
        node = node.value
    return [node.id, *reversed(names)] if isinstance(node, ast.Name) else []


STATE_NAMES = ("state", "_state", "_run")
"""What a ``TrainState`` is called: ``state``, ``self._state``, ``trainer.state``, and ``self._run`` in distributed/."""


def targets(node: ast.AST) -> list[ast.expr]:
    """What a statement writes."""
    if isinstance(node, ast.Assign):
        return [one for target in node.targets for one in ast.walk(target) if isinstance(one, ast.expr)]
    if isinstance(node, ast.AugAssign | ast.AnnAssign):
        return [node.target]
    if isinstance(node, ast.Delete):
        return node.targets
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("setattr", "delattr"):
        return [ast.Attribute(node.args[0], "")]
    return []


def aliases(parsed: ast.AST) -> dict[str, list[str]]:
    """Local names of something that a run's state holds: ``net = state.trainable.master``."""
    found: dict[str, list[str]] = {}
    for node in ast.walk(parsed):
        if isinstance(node, ast.Assign):
            pairs = [(target, node.value) for target in node.targets]
            for target, value in pairs:
                if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
                    pairs += zip(target.elts, value.elts, strict=False)
                names = chain(value)
                held = names[1:] if names[:1] in (["self"], ["trainer"]) else names
                if isinstance(target, ast.Name) and len(held) > 1 and held[0] in STATE_NAMES:
                    found[target.id] = held
    return found


def state_writes(source: str) -> Found:
    """Statements that write an attribute of a run's state, or of something that it holds, by whatever local name."""
    for function in [n for n in ast.walk(tree(source)) if isinstance(n, ast.FunctionDef)] or [tree(source)]:
        yield from writes_in(function, aliases(function))
    yield from writes_in(tree(source), {})


def writes_in(part: ast.AST, local: dict[str, list[str]]) -> Found:
    for node in ast.walk(part):
        for target in targets(node):
            names = chain(target) if isinstance(target, ast.Attribute | ast.Subscript) else []
            names = [*local.get(names[0], names[:1]), *names[1:]] if len(names) > 1 else names
            held = names[1:] if names[:1] in (["self"], ["trainer"]) else names
            if len(held) > 1 and held[0] in STATE_NAMES and held[1] != "accelerator":  # accelerate's own object
                yield getattr(node, "lineno", 0), ".".join(names)


def test_only_its_own_methods_change_the_state_of_a_run() -> None:
    paths = modules("engine/training", "engine/distributed", "engine/evaluation", "engine/inference", "engine/tuning")
    assert broken(state_writes, paths) == []


@pytest.mark.parametrize(
    "planted",
    [
        "state.step = 3",
        "state.step += 1",
        "self._state.images_at_once = 1",
        "self._run.step = 1",
        "trainer.state.config = config",
        "state.trainable.weights.stale = True",
        "state.about['x'] = 1",
        "net, state.nets.net = 1, 2",
        "setattr(state, 'step', 3)",
        "del state.ema",
        "weights = state.trainable.weights\nweights.stale = True",
        "def f(self):\n    held, net = self._run.trainable, 1\n    held.weights.offload.in_use = False",
    ],
)
def test_a_planted_write_is_found(planted: str) -> None:
    assert list(state_writes(planted)) != []


def test_reading_and_local_names_are_no_writes() -> None:
    assert list(state_writes("state = build()\nself.state = state\nstate.step_done()\nstep = state.step\n")) == []


def test_the_state_writes_itself_in_methods_alone_and_each_has_a_docstring() -> None:
    (state,) = (n for n in tree(read("engine/training/state.py")).body if isinstance(n, ast.ClassDef))
    writers = [
        method
        for method in state.body
        if isinstance(method, ast.FunctionDef)
        and any(chain(target)[:1] == ["self"] for node in ast.walk(method) for target in targets(node))
    ]
    assert len(writers) > 8
    undocumented = [m.name for m in writers if not ast.get_docstring(m) and m.name != "set_learning_rate"]
    assert undocumented == []


# What learns


@cache
def settings_that_choose() -> set[str]:
    """Names of the settings (``config.section.name``) by which the cases of engine/tuning/facts.py choose."""
    functions = [n for n in ast.walk(tree(read("engine/tuning/facts.py"))) if isinstance(n, ast.FunctionDef)]
    cases = [n for n in functions if n.returns is not None and ast.unparse(n.returns) == "TrainableFacts | None"]
    chains = [chain(n) for case in cases for n in ast.walk(case) if isinstance(n, ast.Attribute)]
    return {names[2] for names in chains if names[:1] == ["config"] and len(names) == 3}


@cache
def trainable_classes() -> set[str]:
    """``Trainable`` and all classes of engine/tuning that derive from it."""
    found, grown = {"Trainable"}, True
    classes = [
        node
        for path in modules("engine/tuning")
        for node in ast.walk(tree(read(path)))
        if isinstance(node, ast.ClassDef)
    ]
    while grown:
        new = {node.name for node in classes if {chain(base)[-1] for base in node.bases if chain(base)} & found}
        grown, found = bool(new - found), found | new
    return found - {"Trainable"}


def branches_on_what_is_trained(source: str) -> Found:
    settings, classes = settings_that_choose(), trainable_classes()
    for node in ast.walk(tree(source)):
        if isinstance(node, ast.Attribute) and node.attr in settings:
            yield node.lineno, node.attr
        elif isinstance(node, ast.ImportFrom | ast.Import):
            yield from ((node.lineno, name.name) for name in node.names if name.name in classes)
        elif isinstance(node, ast.Compare):
            sides = [names[-1] for side in (node.left, *node.comparators) if (names := chain(side))]
            compared = ast.unparse(node)
            if {"control_net", "trainable"} & set(sides) or (".kind" in compared and "facts" in compared):
                yield node.lineno, compared
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "isinstance":
            asked = chain(node.args[0])[-1:]
            yield from ((node.lineno, ast.unparse(node)) for name in asked if name in ("trainable", "control_net"))


def test_only_tuning_asks_what_is_trained() -> None:
    """The settings that choose it are declared and checked in engine/config, and read in engine/tuning."""
    apart = ("engine/tuning/", "engine/config/")
    assert broken(branches_on_what_is_trained, modules("engine", "ui", apart=apart)) == []
    assert {"sd_locked", "control_lora_rank"} <= settings_that_choose()
    assert {"WholeControlNet", "ControlLora", "UnlockedDecoder"} <= trainable_classes()


@pytest.mark.parametrize(
    "planted",
    [
        "if not config.objective.sd_locked: pass",
        "rank = config.model.control_lora_rank",
        "from engine.tuning.controlnet import ControlLora",
        "if state.trainable.control_net is None: pass",
        "isinstance(state.trainable, x)",
        "if facts_of(config).kind == 'x': pass",
    ],
)
def test_a_planted_branch_on_what_is_trained_is_found(planted: str) -> None:
    assert list(branches_on_what_is_trained(planted)) != []


# How processes share a step


@cache
def strategies() -> set[str]:
    """Names of the strategies: the classes that derive from ``Parallel``."""
    found = set()
    for path in modules("engine/distributed"):
        for node in ast.walk(tree(read(path))):
            if isinstance(node, ast.ClassDef) and {"Parallel", "DDP", "FSDP"} & {
                chain(b)[-1] for b in node.bases if chain(b)
            }:
                found.add(node.name)
    return found


def knowledge_of_processes(source: str) -> Found:
    """Names of strategies, imports of torch.distributed, and comparisons of the number of processes."""
    names = strategies() | {"DistributedDataParallel", "fully_shard", "init_process_group"}
    for node in ast.walk(tree(source)):
        if isinstance(node, ast.Name | ast.Attribute):
            name = node.id if isinstance(node, ast.Name) else node.attr
            if name in names:
                yield node.lineno, name
        elif isinstance(node, ast.ImportFrom | ast.Import):
            imported = [getattr(node, "module", None) or "", *(one.name for one in node.names)]
            if any(one in names or one.startswith("torch.distributed") for one in imported):
                yield node.lineno, " ".join(imported)
        elif isinstance(node, ast.Compare) and any(
            ast.unparse(side).endswith("world_size") for side in (node.left, *node.comparators)
        ):
            yield node.lineno, ast.unparse(node)


def test_only_distributed_knows_how_processes_share_a_step() -> None:
    assert broken(knowledge_of_processes, modules("engine", "ui", apart=("engine/distributed/",))) == []
    assert strategies() == {"DDP", "FSDP", "DeepSpeed", "OptimizerInBackward"}


@pytest.mark.parametrize(
    "planted",
    [
        "if state.group.world_size > 1: pass",
        "x = 1 if group.current().world_size == 1 else 2",
        "from engine.distributed.fsdp import FSDP",
        "import torch.distributed as dist",
        "isinstance(parallel, DDP)",
    ],
)
def test_planted_knowledge_of_processes_is_found(planted: str) -> None:
    assert list(knowledge_of_processes(planted)) != []


# Tests


def conftest_imports(source: str) -> Found:
    """Imports from a conftest: pytest hands out its fixtures by itself, others belong to tests/plugin.py."""
    for node in ast.walk(tree(source)):
        if isinstance(node, ast.ImportFrom | ast.Import):
            names = [getattr(node, "module", None) or "", *(one.name for one in node.names)]
            if any(part == "conftest" for name in names for part in name.split(".")):
                yield node.lineno, " ".join(names)


def private_patches(source: str) -> Found:
    """Patches of a private attribute of one of this app's modules."""
    parsed = tree(source)
    ours = {
        one.asname or one.name
        for node in ast.walk(parsed)
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in ("engine", "ui")
        for one in node.names
    }
    for node in ast.walk(parsed):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "setattr"):
            continue
        first, *rest = node.args
        if isinstance(first, ast.Constant) and isinstance(first.value, str):
            path = first.value.split(".")
            if path[0] in ("engine", "ui") and path[-1].startswith("_"):
                yield node.lineno, first.value
        elif rest and isinstance(rest[0], ast.Constant) and chain(first)[:1] and chain(first)[0] in ours:
            name = str(rest[0].value)
            if name.startswith("_") and not name.startswith("__"):
                yield node.lineno, ast.unparse(node)


def defined_privately(source: str) -> set[str]:
    """Private names that a module defines: functions, classes, constants, attributes of ``self``."""
    found = set()
    for node in ast.walk(tree(source)):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and chain(node)[:1] == ["self"]:
            found.add(node.attr)
    return {name for name in found if name.startswith("_") and not name.startswith("__")}


@cache
def private_names() -> set[str]:
    """Private names of the app's own modules."""
    return set().union(*(defined_privately(read(path)) for path in modules("engine", "ui")))


OF_LIBRARIES = {"demo._queue"}
"""Private attributes of other packages whose names this app happens to have as well."""


def private_uses(source: str) -> Found:
    """Imports, calls and reads of the app's private names. A test's own classes may have private names, too."""
    own, parsed = defined_privately(source), tree(source)
    for node in ast.walk(parsed):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in ("engine", "ui"):
            yield from ((node.lineno, one.name) for one in node.names if one.name.startswith("_"))
        elif isinstance(node, ast.Attribute) and node.attr in private_names() - own:
            text = ast.unparse(node)
            if not text.startswith(("self._", "super()._")) and text not in OF_LIBRARIES:
                yield node.lineno, text


def test_no_test_imports_from_a_conftest() -> None:
    assert broken(conftest_imports, modules("tests")) == []
    assert list(conftest_imports("from tests.browser.conftest import demo")) != []


def test_tests_patch_at_public_names() -> None:
    assert broken(private_patches, modules("tests")) == []
    assert list(private_patches("from engine.disk import space\nmonkeypatch.setattr(space, '_free', 1)")) != []
    assert list(private_patches("monkeypatch.setattr('engine.disk.space._free', 1)")) != []


def test_tests_use_public_names() -> None:
    assert len(private_names()) > 300
    assert broken(private_uses, modules("tests")) == []


@pytest.mark.parametrize(
    "planted",
    [
        "from engine.disk.watchdog import _Watched",
        "watchdog._watched.clear()",
        "assert build(context)._context is context",
        "found = module._render(view)",
    ],
)
def test_a_planted_use_of_a_private_name_is_found(planted: str) -> None:
    assert list(private_uses(planted)) != []
