"""--test: every check runs, the tests last, and without a browser only the browser tests are left out."""

from __future__ import annotations

import io
import os
import subprocess
from pathlib import Path

import pytest

from engine.install import browser, launch
from engine.install.browser import VARIABLE, ensure_browser, find_browser
from engine.install.console import Console, InstallError, Outcome
from engine.install.launch import run_checks
from engine.install.layout import Layout
from tests.install.pretended import Machine


class Checks:
    """Records the checks instead of running them; ``codes``: exit statuses by tool."""

    def __init__(self, codes: dict[str, int]) -> None:
        self.codes = codes
        self.ran: list[list[str]] = []
        self.environment: dict[str, str] = {}

    def run(self, command: list[str], env: dict[str, str], **_: object) -> subprocess.CompletedProcess[str]:
        self.ran.append(command[2:])
        self.environment = env
        return subprocess.CompletedProcess(command, self.codes.get(command[2], 0))


def check(
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    codes: dict[str, int],
    chromium: str | None,
    *arguments: str,
    long: bool = False,
) -> tuple[int, Checks]:
    checks = Checks(codes)
    monkeypatch.setattr(launch.subprocess, "run", checks.run)
    monkeypatch.setattr(launch, "find_browser", lambda *_: chromium)
    return run_checks(Layout(root), Console(None, io.StringIO()), {"PATH": ""}, arguments, long), checks


def test_all_pass(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, checks = check(root, monkeypatch, {}, "/usr/bin/chromium", "-k", "word")
    assert code == 0
    assert [command[0] for command in checks.ran] == ["ruff", "ruff", "mypy", "pytest"]
    assert checks.ran[-1][-4:] == ["-m", "not long", "-k", "word"]
    assert checks.environment[VARIABLE] == "/usr/bin/chromium"
    assert checks.environment["OMP_NUM_THREADS"] == "1"


def test_without_a_browser_its_tests_are_left_out(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, checks = check(root, monkeypatch, {}, None)
    assert [command[0] for command in checks.ran] == ["ruff", "ruff", "mypy", "pytest"]
    assert checks.ran[-1][-2:] == ["-m", "not browser and not long"]


@pytest.mark.parametrize(("chromium", "words"), [("/usr/bin/chromium", "long"), (None, "not browser and long")])
def test_the_long_tests_run_alone(
    root: Path, monkeypatch: pytest.MonkeyPatch, chromium: str | None, words: str
) -> None:
    code, checks = check(root, monkeypatch, {"pytest": 1}, chromium, "-x", long=True)
    assert code == 1 and [command[0] for command in checks.ran] == ["ruff", "ruff", "mypy", "pytest"]
    assert checks.ran[-1][-3:] == ["-m", words, "-x"]


def test_no_tests_at_all_is_a_failure(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert check(root, monkeypatch, {"pytest": 5}, "/usr/bin/chromium", "-k", "word")[0] == 5


@pytest.mark.parametrize(("codes", "status"), [({"pytest": 5}, 5), ({"mypy": 2}, 2), ({"ruff": 1, "pytest": 3}, 3)])
def test_any_failure_fails_the_whole_and_nothing_is_left_out(
    root: Path, monkeypatch: pytest.MonkeyPatch, codes: dict[str, int], status: int
) -> None:
    code, checks = check(root, monkeypatch, codes, None)
    assert code == status
    assert len(checks.ran) == 4


@pytest.mark.skipif(os.name == "nt", reason="uses a PATH of its own")
def test_a_browser_is_found_by_variable_path_or_record(tmp_path: Path) -> None:
    for name in ("mine", "chromium", "fetched"):
        (tmp_path / name).touch(mode=0o755)
    record = {"browser": str(tmp_path / "fetched")}
    everything = {VARIABLE: str(tmp_path / "mine"), "PATH": str(tmp_path)}
    assert find_browser(record, everything) == str(tmp_path / "mine")
    assert find_browser(record, {"PATH": str(tmp_path)}) == str(tmp_path / "chromium")
    assert find_browser(record, {"PATH": "/nowhere"}) == str(tmp_path / "fetched")
    assert find_browser({}, {"PATH": "/nowhere", VARIABLE: "/gone"}) is None


class Offline(Machine):
    """Nothing can be fetched."""

    def run(self, command, environment, cwd, on_line=None) -> Outcome:  # type: ignore[no-untyped-def]
        return Outcome(1, "no network")


@pytest.fixture
def offline(root: Path, monkeypatch: pytest.MonkeyPatch) -> Offline:
    monkeypatch.setattr(browser, "find_browser", lambda *_: None)
    return Offline(Layout(root))


def test_no_browser_is_a_warning_for_people(offline: Offline) -> None:
    assert ensure_browser(offline.layout, offline, {}, required=False) == "none"
    assert "browser tests are skipped" in offline.shown()


def test_no_browser_is_a_failure_for_continuous_integration(offline: Offline) -> None:
    with pytest.raises(InstallError, match="CI=true"):
        ensure_browser(offline.layout, offline, {}, required=True)
