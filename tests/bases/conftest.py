"""A hub that has the tiny base in half precision and in full, among files that training does not need."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bases.hub import BASE, LocalHub, files_of_base, serving, use


@pytest.fixture(scope="session")
def hub_files(tiny_base: Path) -> dict[str, bytes]:
    """The repository's files by name."""
    return files_of_base(tiny_base)


@pytest.fixture
def hub(hub_files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    """The running hub, the library's own endpoint."""
    with serving(BASE, dict(hub_files)) as running:
        use(running, tmp_path, monkeypatch)
        yield running
