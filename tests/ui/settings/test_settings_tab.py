"""The Settings tab agrees with the rest of the page."""

from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from engine.config import RunConfig
from engine.disk.space import free_bytes
from engine.estimate.estimate import estimate
from engine.jobs.events import DiskSpace
from engine.machine.units import GIB
from engine.support import doctor
from engine.workspace.paths import Workspace
from ui.page.context import AppContext
from ui.settings import settings_tab
from ui.train.checkpoints_panel import describe, disk_line


@pytest.fixture
def context(workspace: Workspace) -> AppContext:
    return AppContext(workspace)


def test_every_place_shows_the_same_free_space(
    context: AppContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(100 * GIB, 50 * GIB, 50 * GIB))
    workspace = context.workspace
    places = [
        settings_tab._folders(context)["Free disk space"],
        estimate(RunConfig(), workspace, context.hardware),
        doctor.report(workspace),
        describe(tmp_path, [], []),
        disk_line(DiskSpace(free=free_bytes(workspace.root), run=0)),
    ]
    assert ["50.0 GB" in place for place in places] == [True] * len(places)
