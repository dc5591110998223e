"""``serve`` from the command line: killed with SIGKILL and started again."""

from __future__ import annotations

import base64
import io
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from PIL import Image

from engine.workspace.paths import APP_FOLDER


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(words: list[str]) -> subprocess.Popen[str]:
    """Start the command and wait until it serves."""
    child = subprocess.Popen(
        [sys.executable, "-m", "engine.cli", *words],
        cwd=APP_FOLDER,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    lines: list[str] = []
    assert child.stdout is not None
    for line in child.stdout:
        lines.append(line)
        if "is served at" in line:
            return child
    raise AssertionError("".join(lines))


@pytest.mark.long
@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_a_killed_server_has_its_results_and_goes_on_with_what_waited(
    tmp_path: Path, tiny_base: Path, loud_controlnet: Path, edges: Image.Image
) -> None:
    token_file, port = tmp_path / "token", free_port()
    where = ["--port", str(port), "--token-file", str(token_file)]
    words = ["--workspace", str(tmp_path / "w"), "serve", str(loud_controlnet), "--base", str(tiny_base), *where]
    child = start(words)
    buffer = io.BytesIO()
    edges.save(buffer, "PNG")
    body = {"map": base64.b64encode(buffer.getvalue()).decode(), "width": 64, "steps": 2, "seed": 5}
    headers = {"authorization": f"Bearer {token_file.read_text(encoding='utf-8').strip()}"}
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=120) as client:
        done = client.post("/v1/images?wait=60", json=body).json()
        before = client.get(done["images"][0]).content
        drawing = client.post("/v1/images", json={**body, "steps": 400}).json()
        waiting = client.post("/v1/images", json=body).json()
        while not client.get(f"/v1/images/{drawing['id']}").json().get("progress"):
            pass
        child.send_signal(signal.SIGKILL)
        child.wait(timeout=30)
    child = start(words)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=120) as client:
            assert client.get(done["images"][0]).content == before
            ends = [client.get(f"/v1/images/{one['id']}?wait=90").json() for one in (drawing, waiting)]
            assert [end["state"] for end in ends] == ["done", "done"]
            again = client.get(ends[1]["images"][0]).content
            assert Image.open(io.BytesIO(again)).tobytes() == Image.open(io.BytesIO(before)).tobytes()
    finally:
        child.send_signal(signal.SIGINT)
        assert child.wait(timeout=60) == 0
