"""The current workspace for the condition types: where their weights are, and which programs are allowed.

A global of the process, since extractors are called with an image and its parameters only.
"""

from __future__ import annotations

from pathlib import Path

from engine.workspace.paths import Workspace

__all__ = ["models", "use", "workspace"]

current_workspace: list[Workspace] = []


def use(workspace: Workspace) -> None:
    """Sets the workspace. Call it once, when the app or the command line starts."""
    current_workspace[:] = [workspace]


def workspace() -> Path:
    """The folder of the workspace. The default one if ``use`` was not called."""
    if not current_workspace:
        use(Workspace())
    return current_workspace[0].root


def models() -> Path:
    """The folder for weights: the user's own files and downloads."""
    return workspace() / "models"
