"""What runs found out about their bases before their first step (engine/training/base_check.py)."""

from __future__ import annotations

import json
from typing import Any

from engine.errors import UserError
from engine.workspace.paths import Workspace

RECORD = "base_check"
"""Key in run.json."""


def known_schedule(workspace: Workspace, base: str) -> dict[str, Any]:
    """What the newest run on a base took it for, see ``NoiseProcess.schedule``; empty if no run says.

    For nets that come without a record of their own, such as exported files. The base's config may be wrong about it.

    Args:
        base: as in the settings, or where it is.
    """
    located = _located(workspace, base)
    for folder in workspace.run_folders():
        try:
            about = json.loads((folder / "run.json").read_text(encoding="utf-8"))
            trained_on, schedule = about["config"]["model"]["base"], about[RECORD]["schedule"]
        except (OSError, ValueError, KeyError, TypeError):
            continue  # damaged, or of a version that recorded nothing
        if isinstance(schedule, dict) and schedule and located == _located(workspace, str(trained_on)):
            return dict(schedule)
    return {}


def _located(workspace: Workspace, base: str) -> str:
    try:
        return workspace.locate_base(base)
    except UserError:
        return base
