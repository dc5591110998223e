"""Each test of the conditions has its own workspace and models."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _own_places(own_places: None) -> None:
    pass
