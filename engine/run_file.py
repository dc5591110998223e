"""The settings of a run as a TOML file for ``engine.cli train``, and the command that uses several cards."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from engine.config import SECTIONS, RunConfig, fields
from engine.workspace import APP_FOLDER, Workspace, write_text


def to_toml(config: RunConfig) -> str:
    """Every setting, those that are at their default too, with its title: no preset shows through."""
    lines = [f"name = {_value(config.name)}"]
    for section in SECTIONS:
        lines += ["", f"[{section}]"]
        values = getattr(config, section)
        for name, field in fields(section).items():
            lines.append(f"{name} = {_value(getattr(values, name))}  # {field.title}")
    return "\n".join(lines) + "\n"


def write_run_file(path: Path, config: RunConfig) -> None:
    write_text(path, to_toml(config))


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    return json.dumps(str(value), ensure_ascii=False).replace(
        "\x7f", "\\u007f"
    )  # JSON's strings are TOML's but for DEL


def launch_command(count: int, *arguments: str, workspace: Workspace | None = None) -> str:
    """One line for the terminal, to be given in the app's folder: this Python, a process for each of ``count`` cards.

    Args:
        arguments: of ``engine.cli``, such as ``"train", "run.toml"``.
    """
    words = [sys.executable, "-m", "engine.cli"]
    if workspace is not None and workspace.root != APP_FOLDER / "workspace":
        words += ["--workspace", str(workspace.root)]
    return join_words([*words, *arguments, "--processes", str(count)])


def join_words(words: list[str]) -> str:
    """Words as this system's terminal takes them in one line."""
    if os.name == "nt":
        return subprocess.list2cmdline(words)
    import shlex

    return shlex.join(words)
