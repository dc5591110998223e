"""Load on the HTTP API: images per second, latency and memory with 1, 4 and 16 clients at once.

python -m benchmarks.serving --net NET --base BASE [--images 32] [--size 128] [--steps 20]

A real server in this process, and clients in threads, each of which asks for its next image when it has the last one.
The same images drawn by the session alone, one after the other, are the peer.
"""

from __future__ import annotations

import argparse
import base64
import io
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import psutil
from PIL import Image, ImageDraw

from engine.inference.request import TryRequest
from engine.inference.session import TrySession
from engine.serving.served_net import serve_file
from engine.serving.server import ApiServer, read_token
from engine.workspace.paths import Workspace

CLIENTS = (1, 4, 16)


def control_image(side: int) -> Image.Image:
    """A white circle's outline on black."""
    image = Image.new("RGB", (side, side))
    ImageDraw.Draw(image).ellipse((side // 4, side // 4, side * 3 // 4, side * 3 // 4), outline="white", width=2)
    return image


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print a table for docs/serving.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", type=Path, required=True)
    parser.add_argument("--base", required=True)
    parser.add_argument("--images", type=int, default=32, help="for each number of clients")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        _measure(options, Workspace(folder))


def _measure(options: argparse.Namespace, workspace: Workspace) -> None:
    session, control = TrySession(workspace), control_image(options.size)
    size = {"width": options.size, "height": options.size, "steps": options.steps}
    served = serve_file(options.net, options.base)
    request = TryRequest(base=options.base, controlnet=served.net, prompt="teal circle", control=control, **size)
    session.generate([request])  # loads the models
    before = _ram()
    start = time.perf_counter()
    for _ in range(options.images):
        session.generate([request])
    alone = options.images / (time.perf_counter() - start)
    token = read_token(None)
    server = ApiServer(workspace, served, lambda draw, job: draw(session, job), token, port=0, waiting=64)
    server.start()
    buffer = io.BytesIO()
    control.save(buffer, "PNG")
    body = {"prompt": "teal circle", "map": base64.b64encode(buffer.getvalue()).decode(), **size}
    client = httpx.Client(headers={"authorization": f"Bearer {token}"}, timeout=900)

    def ask(seed: int) -> float:
        """Seconds until the image was there."""
        begun = time.perf_counter()
        answer = client.post(f"{server.url}/v1/images?wait=600", json={**body, "seed": seed})
        assert answer.json()["state"] == "done", answer.text
        return time.perf_counter() - begun

    print(
        "| clients | images/s | of the session alone | latency, median | latency, 95th percentile | RAM before, after |"
    )
    print("|---|---|---|---|---|---|")
    print(f"| (session alone) | {alone:.2f} | 1 | {1 / alone:.2f} s | | {before:.0f}, {_ram():.0f} MB |")
    for clients in CLIENTS:
        before = _ram()
        start = time.perf_counter()
        with ThreadPoolExecutor(clients) as pool:
            latencies = list(pool.map(ask, range(options.images)))
        rate = options.images / (time.perf_counter() - start)
        median, slow = np.percentile(latencies, [50, 95])
        memory = f"{before:.0f}, {_ram():.0f} MB"
        print(f"| {clients} | {rate:.2f} | {rate / alone:.2f} | {median:.2f} s | {slow:.2f} s | {memory} |", flush=True)
    server.stop()


def _ram() -> float:
    """Memory of this process, in MB."""
    return psutil.Process().memory_info().rss / 2**20


if __name__ == "__main__":
    main()
