"""A hub that has the tiny base in half precision and in full, among files that training does not need."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bases.hub import BASE, NOT_NEEDED, LocalHub, serving, use


@pytest.fixture(scope="session")
def hub_files(tiny_base: Path) -> dict[str, bytes]:
    """The repository's files by name."""
    import torch
    from safetensors.torch import load, save

    files = {
        path.relative_to(tiny_base).as_posix(): path.read_bytes() for path in tiny_base.rglob("*") if path.is_file()
    }
    for name in [name for name in files if name.endswith(".safetensors")]:
        if not name.startswith("vae/"):  # whose weights are there in full precision only
            half = {key: value.to(torch.float16) for key, value in load(files[name]).items()}
            files[name.replace(".safetensors", ".fp16.safetensors")] = save(half, {"format": "pt"})
    return files | dict.fromkeys(NOT_NEEDED, b"not needed")


@pytest.fixture
def hub(hub_files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    """The running hub, the library's own endpoint."""
    with serving(BASE, dict(hub_files)) as running:
        use(running, tmp_path, monkeypatch)
        yield running
