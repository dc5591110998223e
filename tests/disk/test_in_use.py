"""Windows refuses to rename what another program has open: the app waits, and loses nothing when it gives up."""

from __future__ import annotations

import ast
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.disk import in_use
from engine.disk.durable import atomic_write_text, move_into_place, replace_folder
from tests.disk.in_use import open_elsewhere, sharing_violation

ROOT = Path(__file__).resolve().parents[2]


def folder_with(path: Path, text: str) -> Path:
    path.mkdir(parents=True)
    (path / "a.txt").write_text(text, encoding="utf-8")
    return path


def rename_file(folder: Path) -> None:
    atomic_write_text(folder / "run.json", "new")


def rename_folder(folder: Path) -> None:
    move_into_place(folder_with(folder / "part.tmp", "new"), folder / "part")


def remove(folder: Path) -> None:
    in_use.remove(folder_with(folder / "old", "old"))


@pytest.mark.parametrize("code", in_use.IN_USE)
@pytest.mark.parametrize("action", [rename_file, rename_folder, remove])
def test_what_is_open_for_a_moment_is_tried_again(
    action: Callable[[Path], None], code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scanner = open_elsewhere(monkeypatch, lambda path: True, times=3, patience=5, code=code)
    action(tmp_path)
    assert len(scanner.refused) == 3
    assert not list(tmp_path.glob("*.tmp")) and not (tmp_path / "old").exists()


def test_other_errors_and_other_systems_do_not_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("it waited"))
    for error in (
        PermissionError(13, "Permission denied"),
        OSError(28, "No space left on device"),
        sharing_violation(3),
    ):
        tries = []

        def refuse(tries: list[int] = tries, error: OSError = error) -> None:
            tries.append(1)
            raise error

        with pytest.raises(OSError) as raised:
            in_use.until_free(refuse)
        assert raised.value is error and len(tries) == 1


def test_the_waits_double_up_to_a_second_and_end_after_ten(monkeypatch: pytest.MonkeyPatch) -> None:
    now, waits = [0.0], []
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        now[0] += seconds

    monkeypatch.setattr(time, "sleep", sleep)
    with pytest.raises(PermissionError):
        in_use.until_free(lambda: (_ for _ in ()).throw(sharing_violation()))
    assert waits[:5] == [0.05, 0.1, 0.2, 0.4, 0.8] and max(waits) == 1.0 and sum(waits) == pytest.approx(10.0)


def test_a_folder_is_replaced_or_stays_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target, aside = folder_with(tmp_path / "set", "old"), tmp_path / "aside"
    new = folder_with(tmp_path / "new", "new")
    with monkeypatch.context() as held:
        open_elsewhere(held, lambda path: path == new)
        with pytest.raises(PermissionError):
            replace_folder(new, target, aside)
    assert (target / "a.txt").read_text(encoding="utf-8") == "old" and new.is_dir() and not aside.exists()
    replace_folder(new, target, aside)
    assert (target / "a.txt").read_text(encoding="utf-8") == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_what_is_of_no_use_may_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left = folder_with(tmp_path / "left", "x")
    open_elsewhere(monkeypatch, lambda path: path == left)
    assert not in_use.clear(left) and left.is_dir()
    assert in_use.clear(tmp_path / "never there")


def unguarded(path: Path) -> list[str]:
    """Calls in a module that rename, or that remove folders, past ``engine.disk.in_use``, as path:line."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        path_replace = node.func.attr == "replace" and len(node.args) == 1 and not node.keywords  # str's has two
        named = ast.unparse(node.func)
        if path_replace or node.func.attr in ("rename", "rmtree") or named in ("os.replace", "shutil.move"):
            found.append(f"{path.relative_to(ROOT).as_posix()}:{node.lineno}")
    return found


def test_every_rename_and_removal_of_a_folder_goes_through_it() -> None:
    modules = [path for place in ("engine", "ui") for path in (ROOT / place).rglob("*.py")]
    allowed = (ROOT / "engine" / "disk" / "in_use.py", ROOT / "engine" / "install")
    calls = [call for path in modules if not any(path.is_relative_to(a) for a in allowed) for call in unguarded(path)]
    assert len(unguarded(allowed[0])) >= 2 and calls == []
