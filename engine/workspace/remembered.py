"""Inputs that the window remembers between two starts, such as the folder of ComfyUI. Never a token."""

from __future__ import annotations

import json
from typing import Any

from engine.disk.durable import atomic_write_text
from engine.errors import UserError
from engine.workspace.paths import Workspace

FILE = "remembered.json"
CARD = "card"
"""Key of the graphics card that the user has chosen: its ``engine.machine.cards.Card.mark``."""
BASES_FOLDERS = "bases_folders"
"""Key of the folders with base models that the user has named, one a line."""
GUIDE = "guide"
"""Key of whether the guide at the top of the page is hidden or shown."""
KEYS = ("comfyui", "a1111", "hub_repository", CARD, BASES_FOLDERS, GUIDE)


def remembered(workspace: Workspace) -> dict[str, str]:
    """All remembered values. Empty if there are none, or the file is damaged."""
    try:
        found: Any = json.loads((workspace.root / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}  # not worth an error: the user can type it again
    return {key: str(found[key]) for key in KEYS if key in found} if isinstance(found, dict) else {}


def remember(workspace: Workspace, **values: str) -> None:
    """Store these values, in addition to earlier ones.

    Raises:
        UserError: the workspace cannot be written.
    """
    unknown = set(values) - set(KEYS)
    assert not unknown, f"not to be remembered: {unknown}"
    try:
        atomic_write_text(
            workspace.root / FILE, json.dumps(remembered(workspace) | values, indent=2, ensure_ascii=False)
        )
    except OSError as error:
        raise UserError(
            "Your choice could not be remembered.",
            f"{workspace.root / FILE}: {error.strerror or error}.",
            "Check that you have permission to write to the workspace.",
        ) from error
