"""install.bat: what can be read from it, and, where there is wine, its own logic."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tests.install.pretended import ROOT, make_root
from tests.install.windows import BATCH, Windows, needs_wine, on_windows

FETCH = ROOT / "engine" / "install" / "fetch_python.bat"
BATCHES = pytest.mark.parametrize("batch", [BATCH, FETCH], ids=lambda path: path.name)


def code_lines(batch: Path = BATCH) -> list[str]:
    lines = batch.read_text(encoding="ascii").splitlines()
    return [line for line in lines if not re.match(r"\s*(rem|echo)\b", line, re.IGNORECASE)]


@BATCHES
def test_it_is_ascii_with_windows_line_ends(batch: Path) -> None:
    raw = batch.read_bytes()
    assert raw.isascii()
    assert raw.count(b"\n") == raw.count(b"\r\n") > 10
    assert "*.bat text eol=crlf" in (ROOT / ".gitattributes").read_text(encoding="utf-8")


@BATCHES
def test_delayed_expansion_is_off_so_that_exclamation_marks_in_paths_survive(batch: Path) -> None:
    text = batch.read_text(encoding="ascii")
    assert "DisableDelayedExpansion" in text
    assert not re.search(r"EnableDelayedExpansion|!\w+!", text)


@BATCHES
def test_every_assignment_and_path_is_quoted(batch: Path) -> None:
    for line in code_lines(batch):
        assert not re.search(r'\bset (?!"[^"]*"\s*$)', line), line
        without_quoted = re.sub(r'"[^"]*"', "", line)
        assert not re.search(r"%(~dp0|STUDIO_PYTHON)%?", without_quoted), line


@BATCHES
def test_every_label_exists_and_is_reached(batch: Path) -> None:
    text = batch.read_text(encoding="ascii")
    used = {"".join(found) for found in re.findall(r"\bgoto (\w+)|\bcall :(\w+)", text)}
    assert used == set(re.findall(r"^:(\w+)", text, re.MULTILINE))


def test_no_command_starts_the_store() -> None:
    """An alias of the Store opens its window when it is run without arguments."""
    assert all("probe" in line for line in code_lines() if re.search(r"\(python |\bpy -", line))


def test_nothing_is_read_from_the_file_after_the_installer_which_may_have_replaced_it() -> None:
    """cmd goes on reading at the same byte of whatever file has the name then."""
    *_, last = (line for line in code_lines() if line.strip())
    assert "-m engine.install %*" in last
    assert last.endswith("& goto :eof")  # which is no label that is looked for in the file


@pytest.fixture
def windows(tmp_path: Path) -> Windows:
    return Windows(make_root(tmp_path / "wow! a caf\u00e9"), tmp_path / "bin")


@needs_wine
@pytest.mark.slow
def test_started_inside_the_archive_it_asks_to_unpack(windows: Windows) -> None:
    shutil.rmtree(windows.root / "engine")
    result = windows.start("--doctor")
    assert result.returncode == 1
    assert "Extract All" in result.stdout


@needs_wine
@pytest.mark.slow
def test_windows_runs_the_installer_with_the_python_that_the_launcher_names(windows: Windows) -> None:
    python = windows.path / "found.bat"
    windows.put("found.bat", "echo RAN %* [%PYTHONPATH%] [%PYTHONUTF8%]", "exit /b 7")
    answer = on_windows(python)
    windows.put("py.bat", f'if "%1"=="-3.11" echo {answer}', 'if not "%1"=="-3.11" exit /b 1')
    result = windows.start("--port", "8000", "--workspace", "my sets")
    assert "RAN -m engine.install --port 8000 --workspace" in result.stdout
    assert "[] [1]" in result.stdout
    assert result.returncode == 7


@needs_wine
@pytest.mark.slow
def test_on_windows_the_store_alias_is_passed_over(windows: Windows) -> None:
    windows.put("found.bat", "echo RAN %*")
    windows.put("python.bat", "echo Python was not found 1>&2", "exit /b 9009")
    windows.put("python3.bat", f"echo {on_windows(windows.path / 'found.bat')}")
    assert "RAN -m engine.install --demo" in windows.start("--demo").stdout


@needs_wine
@pytest.mark.slow
def test_on_windows_a_killed_update_gives_engine_back(windows: Windows) -> None:
    aside = windows.root / ".install" / "update" / "old"
    aside.mkdir(parents=True)
    (windows.root / "engine").rename(aside / "engine")
    windows.put("found.bat", "echo RAN %*", "exit /b 7")
    found = on_windows(windows.path / "found.bat")
    windows.put("py.bat", f"echo {found}")
    result = windows.start("--update")
    assert "RAN -m engine.install --update" in result.stdout
    assert (windows.root / "engine" / "install" / "probe.py").is_file()
    assert result.returncode == 7
