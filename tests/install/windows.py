"""The real install.bat under wine, with pretended programs (batch files) on the PATH."""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import threading
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import pip
import pytest

from tests.install.pretended import ROOT

BATCH = ROOT / "install.bat"
WINE = shutil.which("wine")
needs_wine = pytest.mark.skipif(WINE is None, reason="wine is not installed")


def on_windows(path: Path) -> str:
    """The path as wine's programs see it."""
    return "Z:" + str(path).replace("/", "\\")


class Windows:
    """An app folder with the real install.bat, and a folder of programs that stands first on the PATH."""

    def __init__(self, root: Path, path: Path) -> None:
        self.root = root
        self.path = path
        path.mkdir()
        shutil.copy(BATCH, root)
        (root / "engine" / "install").mkdir(parents=True)
        (root / "engine" / "install" / "probe.py").touch()
        for name in ("fetch_python.bat", "private_python.txt"):
            shutil.copy(ROOT / "engine" / "install" / name, root / "engine" / "install")

    def put(self, name: str, *lines: str) -> None:
        (self.path / name).write_bytes("\r\n".join(["@echo off", *lines, ""]).encode())

    def command(self, *arguments: str) -> tuple[list[str], dict[str, str]]:
        """The command line of a start, and its environment."""
        assert WINE is not None
        environment = {
            **os.environ,
            "WINEDEBUG": "-all",
            "WINEPATH": on_windows(self.path),
            "PYTHONPATH": "C:\\elsewhere",
        }
        return [WINE, "cmd", "/c", "install.bat", *arguments], environment

    def start(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        command, environment = self.command(*arguments)
        return subprocess.run(
            command,
            cwd=self.root,
            env={**environment, **variables},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=120,
            check=False,
        )


class Bridge:
    """Stand-ins for curl.exe, tar.exe and certutil.exe, which wine does not have: they call the programs of Linux.

    A batch file writes its arguments to a file and waits for the answer; a thread here runs the program.

    Attributes:
        calls: the command lines, as install.bat gave them.
        environment: added to the programs' own.
    """

    def __init__(self, windows: Windows, programs: Sequence[str], environment: Mapping[str, str]) -> None:
        self.root = windows.root
        self.folder = windows.path / "bridge"
        self.folder.mkdir(exist_ok=True)
        self.environment = {**os.environ, **environment}
        self.calls: list[str] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        question, answer = on_windows(self.folder / "question"), on_windows(self.folder / "answer")
        for name in programs:
            # A program of its own, since wine's `call` turns every exit status of a batch file into 1.
            batch = windows.path / f"bridge-{name}.bat"
            (windows.path / f"{name}.exe").write_bytes(stand_in_program(on_windows(batch)))
            windows.put(
                batch.name,
                f'echo {name} %*>"{question}.tmp"',
                f'move "{question}.tmp" "{question}" >nul',
                "set N=0",
                ":wait",
                "set /a N+=1 >nul",
                f'if exist "{answer}" goto answered',
                "if %N% LSS 20000 goto wait",
                "exit 99",
                ":answered",
                f'set /p CODE=<"{answer}"',
                f'del "{answer}"',
                f'type "{answer}.txt"',
                "exit %CODE%",
            )

    def __enter__(self) -> Bridge:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _serve(self) -> None:
        question, answer = self.folder / "question", self.folder / "answer"
        while not self._over.wait(0.01):
            if question.exists():
                text = question.read_text(encoding="utf-8").strip()
                question.unlink()
                self.calls.append(text)
                name, _, *words = (quoted or plain for quoted, plain in re.findall(r'"([^"]*)"|(\S+)', text))
                code, output = self._run(name, [word.replace("\\", "/") for word in words])
                (self.folder / "answer.txt").write_text(output, encoding="utf-8")
                (self.folder / "answer.tmp").write_text(f"{code}\n", encoding="utf-8")
                (self.folder / "answer.tmp").rename(answer)

    def _run(self, name: str, words: list[str]) -> tuple[int, str]:
        command = ["sha256sum", words[1]] if name == "certutil" else [name, *words]
        result = subprocess.run(
            command, cwd=self.root, env=self.environment, capture_output=True, encoding="utf-8", check=False
        )
        return result.returncode, result.stdout


def stand_in_program(batch: str) -> bytes:
    """An .exe that runs a batch file, with its own path before the arguments.

    It is the launcher that pip puts before the scripts of packages on Windows.
    """
    launcher = Path(pip.__file__).parent / "_vendor" / "distlib" / "t64.exe"
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("__main__.py", "")
    return launcher.read_bytes() + f"#!C:\\windows\\system32\\cmd.exe /c {batch}\r\n".encode() + archive.getvalue()
