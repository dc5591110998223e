"""What runs found out about their bases before their first step (engine/training/base_check.py)."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

from engine.errors import UserError
from engine.workspace.paths import Workspace

RECORD = "base_check"
"""Key in run.json."""
WORKS = 0.75
"""Largest error of a base that works."""
UNKNOWN = 0.35
"""From this error on a base is said not to know the images. The bundled one has 0.04 on its own images and 0.57 on
photographs at the 128 px that it was made for; 0.1 to 0.25 and 0.25 to 0.5 at 64 px. See benchmarks/base_check.py."""


def known_schedule(workspace: Workspace, base: str) -> dict[str, Any]:
    """The noise schedule of the newest run on a base, see ``NoiseProcess.schedule``; empty if none recorded it.

    For nets that come without a record of their own, such as exported files. The base's config may be wrong about it.

    Args:
        base: as in the settings, or where it is.
    """
    for _, found in _records(workspace, base):
        schedule = found.get("schedule")
        if isinstance(schedule, dict) and schedule:
            return dict(schedule)
    return {}


def known_error(workspace: Workspace, base: str, dataset: str, resolution: int) -> float | None:
    """The base's own error on images of a dataset, as its newest run measured it; None: no run has measured it.

    Args:
        base: as in the settings, or where it is.
        resolution: in pixels; the error depends on it.
    """
    for config, found in _records(workspace, base):
        data = config.get("data", {})
        if (data.get("dataset"), data.get("resolution")) == (dataset, resolution):
            error = error_of(found)
            if error is not None:
                return error
    return None


def error_of(found: dict[str, Any]) -> float | None:
    """The error that a record tells: that of the reading which fits best; infinity if none is a number."""
    errors = found.get("errors")
    if not isinstance(errors, dict) or not errors:
        return None  # memory ran out even for one image, or nothing was measured
    return min((float(error) for error in errors.values() if error is not None), default=math.inf)


def _records(workspace: Workspace, base: str) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Settings and record of every run on a base that has one, the newest run first."""
    located = _located(workspace, base)
    for folder in workspace.run_folders():
        try:
            about = json.loads((folder / "run.json").read_text(encoding="utf-8"))
            config, found = about["config"], about[RECORD]
            trained_on = config["model"]["base"]
        except (OSError, ValueError, KeyError, TypeError):
            continue  # damaged, or of a version that recorded nothing
        if isinstance(found, dict) and located == _located(workspace, str(trained_on)):
            yield config, found


def _located(workspace: Workspace, base: str) -> str:
    try:
        return workspace.locate_base(base)
    except UserError:
        return base
