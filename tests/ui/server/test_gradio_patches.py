"""gradio is imported without rewriting its type stubs, and still works."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import httpx
import pytest

CODE = """
from ui.server import gradio_patches
gradio_patches.import_without_stubs()
import gradio
from gradio import component_meta
print(component_meta.create_or_modify_pyi("anything", "at", "all"))
with gradio.Blocks():
    print(gradio.Textbox("works").value)
"""


def test_no_stubs_are_written() -> None:
    root = Path(__file__).resolve().parents[3]
    result = subprocess.run([sys.executable, "-c", CODE], cwd=root, capture_output=True, text=True, check=False)
    assert result.stdout.split() == ["None", "works"], result.stderr


def test_a_busy_computer_does_not_end_the_app_at_its_start(monkeypatch: pytest.MonkeyPatch) -> None:
    from gradio import networking

    from ui.server import gradio_patches

    def too_late(*_: object, **__: object) -> None:
        raise httpx.ReadTimeout("3 seconds")

    monkeypatch.setattr(networking, "url_ok", networking.url_ok)  # put back afterwards
    monkeypatch.setattr(httpx, "head", too_late)
    gradio_patches.trust_the_first_answer()
    assert networking.url_ok("http://127.0.0.1:9")
