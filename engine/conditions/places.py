"""The current workspace for the condition types: where their weights lie, and which programs are allowed.

A global of the process, since extractors are called with an image and its parameters only.
"""

from __future__ import annotations

from pathlib import Path

from engine.workspace.paths import Workspace

__all__ = ["models", "use", "workspace"]

_current: list[Workspace] = []


def use(workspace: Workspace) -> None:
    """Sets the workspace. Call it once, when the app or the command line starts."""
    _current[:] = [workspace]


def workspace() -> Path:
    """The folder of the workspace. The default one if ``use`` was not called."""
    if not _current:
        use(Workspace())
    return _current[0].root


def models() -> Path:
    """Where users put weights, and where downloads go."""
    return workspace() / "models"
