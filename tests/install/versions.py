"""App folders of two versions, as small as an update needs them, in a git repository or a zip file."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import zipfile
from collections.abc import Mapping
from pathlib import Path

from engine.install import cli

INSTALLER = """
import os, pathlib, sys
code = pathlib.Path("requirements.txt").read_text().count("fails")
with open("workspace/ran.txt", "a") as file:
    file.write(" ".join([pathlib.Path("engine/version.py").read_text().split('"')[1], *sys.argv[1:]]) + "\\n")
if code:
    print("Cause: torch is broken")
sys.exit(code)
"""
"""Stands in for the installer of each version: it writes down that it ran, and fails if the requirements say so."""


def files(version: str, requirements: str = "gradio\n", **more: str) -> dict[str, str]:
    """The files of one version. ``more``: by path, with __ for /, and _ before the ending."""
    named = {name.replace("__", "/")[::-1].replace("_", ".", 1)[::-1]: text for name, text in more.items()}
    return {
        "app.py": f"print('{version}')\n",
        "install.sh": "#!/bin/sh\nexit 0\n",
        "install.bat": "@echo off\r\n",
        "requirements.txt": requirements,
        "requirements-dev.txt": "pytest\n",
        "engine/__init__.py": "",
        "engine/version.py": f'VERSION = "{version}"\n',
        "engine/install/__init__.py": "",
        "engine/install/__main__.py": INSTALLER,
        "presets/8gb.toml": f"# {version}\n",
        ".gitignore": "/.venv/\n/.install/\n/workspace/\n__pycache__/\n",
        **named,
    }


def write(root: Path, content: Mapping[str, str]) -> None:
    for name, text in content.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(text.encode())


def make_installed(root: Path, content: Mapping[str, str]) -> Path:
    """An app folder with a workspace and an environment, whose Python does nothing."""
    write(root, content)
    for folder in ("workspace/runs/first", "workspace/presets", ".venv/bin"):
        (root / folder).mkdir(parents=True)
    (root / "workspace/presets/mine.toml").write_text("[train]\n", encoding="utf-8")
    (root / ".venv/controlnet-studio.json").write_text('{"checked": "x", "requirements.txt": "y"}', encoding="utf-8")
    (root / ".venv/bin/python").touch()
    return root


def make_zip(path: Path, content: Mapping[str, str], top: str = "controlnet-studio/") -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, text in content.items():
            info = zipfile.ZipInfo(top + name)
            info.external_attr = (0o755 if name.endswith(".sh") else 0o644) << 16
            packed.writestr(info, text)
    return path


def app_files(root: Path) -> dict[str, str]:
    """What the app's own files hold now, by path: all but the workspace and what the installer makes."""
    kept = {"workspace", ".venv", ".install", ".git"}
    found = {path.relative_to(root): path for path in root.rglob("*") if path.is_file()}
    return {
        name.as_posix(): path.read_bytes().decode()
        for name, path in found.items()
        if name.parts[0] not in kept and "__pycache__" not in name.parts
    }


def ran(root: Path) -> list[str]:
    """Which versions' installers ran, with their options."""
    path = root / "workspace" / "ran.txt"
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def git(folder: Path, *words: str) -> str:
    plain = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    who = {f"GIT_{role}_{what}": "test@example.org" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    command = [shutil.which("git") or "git", "-C", str(folder), "-c", "core.autocrlf=false", *words]
    return subprocess.run(command, env={**plain, **who}, check=True, capture_output=True, encoding="utf-8").stdout


def commit(folder: Path, content: Mapping[str, str]) -> str:
    """Make these all the files of the repository's next commit, and return the commit."""
    for path in folder.iterdir():
        if path.name != ".git":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    write(folder, content)
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "version")
    return git(folder, "rev-parse", "HEAD").strip()


def update(root: Path, *words: str) -> int:
    return cli.main(["--update", *words], root)


def killed(action: object, module: object, name: str, at: int) -> bool:
    """Run the action in a process that gets SIGKILL right before the call number ``at`` of a function of the module.

    Returns:
        Whether it was killed; False if it ended before that.
    """
    child = os.fork()
    if child == 0:
        calls = [0]
        real = getattr(module, name)

        def counted(*arguments: object) -> object:
            if calls[0] == at:
                os.kill(os.getpid(), signal.SIGKILL)
            calls[0] += 1
            return real(*arguments)

        setattr(module, name, counted)
        try:
            action()  # type: ignore[operator]
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])
