"""App folders with troublesome names, and a pretended machine in one."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.install import hardware
from engine.install.layout import Layout
from tests.install.pretended import Machine, make_root


@pytest.fixture(autouse=True)
def no_other_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    """The computer that runs the tests may have a card."""
    monkeypatch.setattr(hardware, "detect_others", lambda timeout: ())


@pytest.fixture(params=["plain", "with space", "caf\u00e9", "wow! really!"])
def any_root(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """An app folder with a name that has broken installers before."""
    return make_root(tmp_path / request.param)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_root(tmp_path / "app")


@pytest.fixture
def machine(root: Path) -> Machine:
    return Machine(Layout(root, windows=False))
