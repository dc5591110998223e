"""A hub that has the tiny base in half precision and in full, among files that training does not need."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bases.hub import BASE, NOT_NEEDED, LocalHub, serving


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
    """The running hub, the library's own endpoint; with an empty cache, no token, and retries without a wait."""
    from huggingface_hub import constants

    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1024)  # the tiny base's files are smaller than 10 MB
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with serving(BASE, dict(hub_files)) as running:
        # What the library reads from HF_ENDPOINT when it is imported.
        monkeypatch.setattr(constants, "ENDPOINT", running.address)
        template = f"{running.address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield running
