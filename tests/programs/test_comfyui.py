"""An export in a real ComfyUI. Skipped unless its folder is given:

STUDIO_COMFYUI           ComfyUI's folder, with its packages in the Python STUDIO_COMFYUI_PYTHON (else "python")
STUDIO_COMFYUI_EXPORT    a folder made by Export: the net, and the card with comfyui_workflow_api.json
STUDIO_COMFYUI_BASE      its base as one .safetensors file
STUDIO_COMFYUI_IMAGE     the image from which the workflow makes the control image
STUDIO_COMFYUI_EXPECTED  optional: the picture that we drew from the same noise and noise levels, to be compared
"""

from __future__ import annotations

import io
import json
import os
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.programs import comfyui

PROGRAM = os.environ.get("STUDIO_COMFYUI", "")
MINUTES = 60.0
LEAST_PSNR = 60.0
"""Of an export in fp16; measured by hand in November 2026: 67.8 dB, with an fp32 export 85.4 dB."""
PICTURE = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)


@pytest.mark.long
@pytest.mark.skipif(not PROGRAM, reason="STUDIO_COMFYUI names no folder of ComfyUI")
def test_the_workflow_of_the_card_runs_unchanged_and_the_net_controls(tmp_path: Path) -> None:
    given = {name: Path(os.environ[f"STUDIO_COMFYUI_{name}"]) for name in ("EXPORT", "BASE", "IMAGE")}
    comfyui.lay_out(Path(PROGRAM), given["EXPORT"], given["BASE"], given["IMAGE"], tmp_path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    workflow = comfyui.workflow_of(given["EXPORT"])
    without = json.loads(json.dumps(workflow))
    for node in without.values():
        if node["class_type"] == "ControlNetApplyAdvanced":
            node["inputs"]["strength"] = 0.0
    python = os.environ.get("STUDIO_COMFYUI_PYTHON", "python")
    with comfyui.running(Path(PROGRAM), python, tmp_path, port, patience=300) as address:
        (controlled,) = comfyui.draw(address, workflow, MINUTES * 60)
        (plain,) = comfyui.draw(address, without, MINUTES * 60)
    assert comfyui.psnr(controlled, plain) < 40, "the net changes the picture"
    if expected := os.environ.get("STUDIO_COMFYUI_EXPECTED"):
        ours = np.asarray(Image.open(expected).convert("RGB"))
        assert comfyui.psnr(controlled, ours) > LEAST_PSNR


class Server(BaseHTTPRequestHandler):
    """Answers as ComfyUI's server does (its server.py): /prompt, /history/ID, /view."""

    refuses: dict[str, Any] = {}
    posted: list[Any] = []

    def do_POST(self) -> None:
        self.posted.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self._send(json.dumps({"prompt_id": "one", "number": 1, "node_errors": self.refuses}).encode())

    def do_GET(self) -> None:
        if self.path.startswith("/view"):
            file = io.BytesIO()
            Image.fromarray(PICTURE).save(file, "PNG")
            self._send(file.getvalue())
            return
        images = [{"filename": "a.png", "subfolder": "", "type": kind} for kind in ("output", "temp")]
        status = {"status_str": "success", "completed": True}
        self._send(json.dumps({"one": {"status": status, "outputs": {"9": {"images": images}}}}).encode())

    def _send(self, body: bytes) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Nothing on the console."""


@pytest.fixture
def address() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_script_posts_the_workflow_fetches_the_picture_and_tells_refused_nodes(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    workflow = {"1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "base.safetensors"}}}
    (picture,) = comfyui.draw(address, workflow, patience=5)
    assert Server.posted[-1] == {"prompt": workflow} and comfyui.psnr(picture, PICTURE) == float("inf")
    assert 30 < comfyui.psnr(PICTURE, PICTURE + 5) < 40
    assert comfyui.named(workflow, "CheckpointLoaderSimple", "ckpt_name") == "base.safetensors"
    monkeypatch.setattr(Server, "refuses", {"1": {"errors": ["not in list"]}})
    with pytest.raises(AssertionError, match="not in list"):
        comfyui.draw(address, workflow, patience=5)
