"""A workspace of its own for every test, and no held model left over."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.conditions import places, weights, wheels
from engine.workspace.paths import Workspace


@pytest.fixture(autouse=True)
def own_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(wheels, "installed", lambda need: None)  # whatever this Python happens to have
    monkeypatch.setattr(places, "_current", [Workspace(tmp_path / "workspace")])
    yield
    weights.free()
