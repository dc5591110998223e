"""The workspace as the condition types see it: where weights lie and where allowed programs are noted."""

from __future__ import annotations

from pathlib import Path

from engine.workspace.paths import Workspace

__all__ = ["models", "use", "workspace"]

_current: list[Workspace] = []


def use(workspace: Workspace) -> None:
    """Sets the workspace; called once where the app or the command line starts."""
    _current[:] = [workspace]


def workspace() -> Path:
    """Its folder; the usual one where none was set."""
    if not _current:
        use(Workspace())
    return _current[0].root


def models() -> Path:
    """Where the user puts weights, and where downloads go."""
    return workspace() / "models"
