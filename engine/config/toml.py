"""Writing settings as TOML files for ``engine.cli train``, and the command that trains on several cards."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.config import SECTIONS, RunConfig, fields
from engine.config.presets import flatten
from engine.disk.durable import atomic_write_text
from engine.workspace.paths import APP_FOLDER, Workspace


def to_toml(config: RunConfig) -> str:
    """All settings as TOML, also those at their default, so that no preset changes them. Titles as comments."""
    values = flatten(config.model_dump(include={"name", *SECTIONS}))
    return "\n".join(lines_of(values)) + "\n"


def lines_of(values: Mapping[str, Any]) -> list[str]:
    """Lines of TOML for values by dotted name, grouped by section, with the settings' titles as comments."""
    lines = [f"{name} = {_value(value)}" for name, value in values.items() if "." not in name]
    for section in dict.fromkeys(dotted.split(".")[0] for dotted in values if "." in dotted):
        lines += ["", f"[{section}]"]
        titles = fields(section) if section in SECTIONS else {}
        for dotted, value in values.items():
            name = dotted.removeprefix(f"{section}.")
            if name != dotted:
                lines.append(f"{name} = {_value(value)}" + (f"  # {titles[name].title}" if name in titles else ""))
    return lines


def write_run_file(path: Path, config: RunConfig) -> None:
    """Write ``to_toml(config)`` atomically. Raises OSError if it cannot be written."""
    atomic_write_text(path, to_toml(config))


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    return json.dumps(str(value), ensure_ascii=False).replace(
        "\x7f", "\\u007f"
    )  # JSON strings are TOML strings, except for DEL


def launch_command(count: int, *arguments: str, workspace: Workspace | None = None) -> str:
    """The command line that runs ``engine.cli`` in ``count`` processes, one per card. To be run in the app's folder.

    Args:
        arguments: of ``engine.cli``, for example ``"train", "run.toml"``.
    """
    words = [sys.executable, "-m", "engine.cli"]
    if workspace is not None and workspace.root != APP_FOLDER / "workspace":
        words += ["--workspace", str(workspace.root)]
    return join_words([*words, *arguments, "--processes", str(count)])


def join_words(words: list[str]) -> str:
    """Quote words for this system's terminal and join them."""
    if os.name == "nt":
        return subprocess.list2cmdline(words)
    import shlex

    return shlex.join(words)
