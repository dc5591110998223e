"""A pretended machine: the installer's real steps over children that only leave the traces of the real ones."""

from __future__ import annotations

import io
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from engine.install.console import Console, Outcome
from engine.install.hardware import GpuReport
from engine.install.job import Job
from engine.install.layout import Layout
from engine.install.pip import Pip
from engine.install.torch_choice import Choice, choose

ROOT = Path(__file__).parents[2]


class Killed(BaseException):
    """As sudden as a kill: nothing in the installer may catch it."""


class Machine(Console):
    """A console whose children are pretended. ``offered``: torch versions that pip would find, by index ("" = own)."""

    def __init__(self, layout: Layout, offered: Mapping[str, Sequence[str]] | None = None) -> None:
        super().__init__(log=layout.log, out=io.StringIO())
        self.layout = layout
        self.offered = {"": ["2.13.0+cpu", "2.13.0"]} if offered is None else offered
        self.plain_torch = ("2.13.0", "13.0")  # what pip's default index has for Linux
        self.packages_bring_torch: str | None = None
        self.self_check = Outcome(0, "PyTorch computes on the processor, the app can be imported\n")
        self.broken_imports: set[str] = set()
        self.commands: list[str] = []
        self.kill_at: int | None = None

    def shown(self) -> str:
        return self.out.getvalue()  # type: ignore[attr-defined]

    def ran(self, pattern: str) -> list[str]:
        return [command for command in self.commands if re.search(pattern, command)]

    def run(self, command, environment, cwd, on_line=None) -> Outcome:  # type: ignore[no-untyped-def]
        words = [str(word) for word in command]
        text = " ".join(words)
        self.commands.append(text)
        killed = self.kill_at is not None and len(self.commands) - 1 == self.kill_at
        outcome = self._pretend(words, text, half=killed)
        if killed:
            raise Killed
        return outcome

    def _pretend(self, words: list[str], text: str, half: bool) -> Outcome:
        site = self.layout.venv / "lib" / "python3.12" / "site-packages"
        if "venv" in words:
            self.layout.python.parent.mkdir(parents=True)
            self.layout.python.touch()
            (self.layout.venv / "pyvenv.cfg").write_text("version = 3.12.4\n", encoding="utf-8")
            if not half:
                (site / "pip-24.0.dist-info").mkdir(parents=True)
        elif "index" in words:
            index = next((word for word in words if word.startswith("https://")), "")
            versions = self.offered.get(index)
            if versions is None:
                return Outcome(1, "ERROR: No matching distribution found for torch\n")
            return Outcome(0, f"torch ({versions[0]})\nAvailable versions: {', '.join(versions)}\n")
        elif "install" in words and any(word.startswith("torch==") for word in words):
            version = next(word for word in words if word.startswith("torch=="))[len("torch==") :]
            if "+" in version:
                build = version.split("+")[1]
                self.put_torch(version, None if build == "cpu" else f"{build[2:-1]}.{build[-1]}", half)
            else:
                self.put_torch(*self.plain_torch, half)
        elif "install" in words and "-r" in words and not half and self.packages_bring_torch:
            self.put_torch(self.packages_bring_torch, None, half)
        elif "engine.install.selfcheck" in words:
            return self.self_check
        elif "-c" in words and words[-1].startswith("import "):
            return Outcome(int(words[-1].split()[1] in self.broken_imports), "")
        return Outcome(0, "")

    def put_torch(self, version: str, cuda: str | None, half: bool = False) -> None:
        """torch's files as pip leaves them; half: killed before the RECORD."""
        site = self.layout.venv / "lib" / "python3.12" / "site-packages"
        for old in site.glob("torch*"):
            shutil.rmtree(old)
        (site / "torch").mkdir(parents=True)
        text = f"__version__ = '{version}'\ncuda: Optional[str] = {cuda!r}\nhip: Optional[str] = None\n"
        (site / "torch" / "version.py").write_text(text, encoding="utf-8")
        info = site / f"torch-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").touch()
        if not half:
            (info / "RECORD").touch()


def make_root(root: Path) -> Path:
    root.mkdir()
    for name in ("requirements.txt", "requirements-dev.txt"):
        shutil.copy(ROOT / name, root)
    return root


def job_for(machine: Machine, choice: Choice | None = None, system: str = "linux") -> Job:
    pip = Pip(machine.layout, machine, {"PATH": "/usr/bin"})
    chosen = choice or choose(GpuReport(), system=system)
    return Job(machine.layout, machine, pip, GpuReport(), chosen, base_python=sys.executable, system=system)
