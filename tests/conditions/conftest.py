"""Every test of the conditions has a workspace and models of its own."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _own_places(own_places: None) -> None:
    pass
