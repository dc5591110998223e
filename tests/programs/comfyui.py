"""Runs a real ComfyUI on an export: starts its server, posts the card's workflow unchanged, fetches the picture."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

POLL_SECONDS = 1.0
WORKFLOW = "comfyui_workflow_api.json"


def workflow_of(export: Path) -> dict[str, Any]:
    """The workflow for the server that lies beside an export."""
    return dict(json.loads((export / WORKFLOW).read_text(encoding="utf-8")))


def named(workflow: Mapping[str, Any], kind: str, entry: str) -> str:
    """The file that a node of a class names."""
    (name,) = {str(node["inputs"][entry]) for node in workflow.values() if node["class_type"] == kind}
    return name


def lay_out(program: Path, export: Path, base: Path, image: Path, folder: Path) -> None:
    """Make a base directory for ComfyUI whose files have the names that the workflow gives them.

    Args:
        export: the folder with the net and the card. base: a checkpoint in one file. image: the control image's source.
    """
    workflow = workflow_of(export)
    net = named(workflow, "ControlNetLoader", "control_net_name")
    (source,) = [path for path in export.rglob(Path(net).name) if path.is_file()]
    places = {
        f"models/checkpoints/{named(workflow, 'CheckpointLoaderSimple', 'ckpt_name')}": base,
        f"models/controlnet/{net}": source,
        f"input/{named(workflow, 'LoadImage', 'image')}": image,
    }
    for place, file in places.items():
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, folder / place)
    (folder / "custom_nodes").symlink_to(program / "custom_nodes", target_is_directory=True)


@contextmanager
def running(program: Path, python: str, folder: Path, port: int, patience: float) -> Iterator[str]:
    """ComfyUI's server on the processor, until the block ends. Yields its address."""
    command = [python, "main.py", "--cpu", "--port", str(port), "--base-directory", str(folder)]
    address = f"http://127.0.0.1:{port}"
    with (folder / "server.log").open("wb") as log:
        server = subprocess.Popen(command, cwd=program, stdout=log, stderr=subprocess.STDOUT)
        try:
            end = time.monotonic() + patience
            while not _answers(address):
                assert server.poll() is None, (folder / "server.log").read_text(encoding="utf-8", errors="replace")
                assert time.monotonic() < end, "ComfyUI does not start"
                time.sleep(POLL_SECONDS)
            yield address
        finally:
            server.terminate()
            server.wait(timeout=30)


def _answers(address: str) -> bool:
    try:
        _get(f"{address}/system_stats")
    except (OSError, urllib.error.URLError):
        return False
    return True


def _get(address: str) -> bytes:
    with urllib.request.urlopen(address, timeout=60) as answer:  # noqa: S310 - this computer
        return bytes(answer.read())


def draw(address: str, workflow: Mapping[str, Any], patience: float) -> list[np.ndarray]:
    """Post a workflow and return its saved pictures, uint8 RGB (h, w, 3). Fails with what the server says."""
    body = json.dumps({"prompt": workflow}).encode()
    request = urllib.request.Request(f"{address}/prompt", body, {"Content-Type": "application/json"})  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
            accepted = json.loads(answer.read())
    except urllib.error.HTTPError as error:
        raise AssertionError(error.read().decode("utf-8", "replace")) from error
    assert not accepted.get("node_errors"), accepted["node_errors"]  # it runs the rest and answers 200
    end = time.monotonic() + patience
    while True:
        history = json.loads(_get(f"{address}/history/{accepted['prompt_id']}")).get(accepted["prompt_id"])
        if history is not None and history["status"].get("completed") is not None:
            break
        assert time.monotonic() < end, "ComfyUI does not finish"
        time.sleep(POLL_SECONDS)
    assert history["status"]["status_str"] == "success", history["status"]
    files = [file for output in history["outputs"].values() for file in output.get("images", ())]
    pictures = []
    for file in files:
        if file["type"] == "output":
            query = urllib.parse.urlencode({key: file[key] for key in ("filename", "subfolder", "type")})
            picture = Image.open(io.BytesIO(_get(f"{address}/view?{query}")))
            pictures.append(np.asarray(picture.convert("RGB")))
    return pictures


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    """Peak signal-to-noise ratio of two pictures of 8 bits, in dB; infinite if they are equal."""
    error = float(np.square(one.astype(np.float64) - other).mean())
    return float("inf") if error == 0 else 10 * float(np.log10(255**2 / error))
