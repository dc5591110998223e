"""A server on this machine that speaks as much of the Hugging Face hub's HTTP API as a download needs."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

COMMIT = "c" * 40
BASE = "anna/tiny-base"
LARGE = (".safetensors", ".zip", ".parquet")
"""Endings of files that the hub keeps apart, with their SHA-256."""
NOT_NEEDED = (
    "README.md",
    "tiny.safetensors",
    "safety_checker/config.json",
    "safety_checker/model.safetensors",
    "feature_extractor/preprocessor_config.json",
    "unet/diffusion_pytorch_model.bin",
    "unet/diffusion_pytorch_model.non_ema.safetensors",
    "vae_encoder/model.onnx",
    "text_encoder/model.onnx",
    "text_encoder/flax_model.msgpack",
    "text_encoder/openvino_config.json",
    "../escape.json",
)
"""Files of the repository that training does not need."""


def files_of_base(folder: Path) -> dict[str, bytes]:
    """A base's repository: its folder, with the weights in half precision beside them, and what is not needed."""
    import torch
    from safetensors.torch import load, save

    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for name in [name for name in files if name.endswith(".safetensors")]:
        if not name.startswith("vae/"):  # whose weights are there in full precision only
            half = {key: value.to(torch.float16) for key, value in load(files[name]).items()}
            files[name.replace(".safetensors", ".fp16.safetensors")] = save(half, {"format": "pt"})
    return files | dict.fromkeys(NOT_NEEDED, b"not needed")


class LocalHub:
    """Serves one repository. Large files come from another host, as the hub's do."""

    def __init__(self, base: str, files: dict[str, bytes], kind: str = "model") -> None:
        self.base, self.files = base, files
        self.prefix = "datasets/" if kind == "dataset" else ""
        self.kind = kind
        self.asked: list[tuple[str, str, str]] = []
        """(path, Range, Authorization) of each request."""
        self.refuse: dict[str, tuple[int, dict[str, str]]] = {}
        """A part of a path -> status and headers, as long as the entry is there."""
        self.cuts: list[int] = []
        """Each ends one answer with a large file after so many bytes."""
        self.damaged: set[str] = set()
        """Large files of which the first byte is sent wrong."""
        self.hang = threading.Event()
        self.hang.set()
        """While it is not set, answers with large files wait after half of their bytes."""
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.http.daemon_threads = True

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.http.server_port}"

    def sent(self, name: str) -> list[str]:
        """The Range of each request for a large file, in order."""
        return [part for path, part, _ in self.asked if path == self._storage(name)]

    def _storage(self, name: str) -> str:
        return f"/storage/{name}"

    def _description(self) -> bytes:
        siblings = []
        for name, data in self.files.items():
            git = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
            about = {"rfilename": name, "size": len(data), "blobId": git}
            if name.endswith(LARGE):
                about["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
            siblings.append(about)
        return json.dumps({"id": self.base, "sha": COMMIT, "siblings": siblings}).encode()

    def _tree(self) -> bytes:
        files = [
            {
                "type": "file",
                "path": name,
                "size": len(data),
                "oid": hashlib.sha1(data, usedforsecurity=False).hexdigest(),
            }
            for name, data in self.files.items()
        ]
        return json.dumps(files).encode()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path = self.path.split("?")[0]
                hub.asked.append((path, self.headers["Range"] or "", self.headers["Authorization"] or ""))
                for part, (status, headers) in hub.refuse.items():
                    if part in path:
                        return self._send(status, b"{}", headers)
                name = path.removeprefix(f"/{hub.prefix}{hub.base}/resolve/{COMMIT}/")
                if path in (f"/api/{hub.kind}s/{hub.base}", f"/api/{hub.kind}s/{hub.base}/revision/main"):
                    return self._send(200, hub._description(), {"Content-Type": "application/json"})
                if path.startswith(f"/api/{hub.kind}s/{hub.base}/tree/"):
                    return self._send(200, hub._tree(), {"Content-Type": "application/json"})
                if path.startswith("/storage/"):
                    return self._large(path.removeprefix("/storage/"))
                if name not in hub.files:
                    return self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
                if name.endswith(LARGE):
                    return self._send(
                        302, b"", {"Location": f"http://localhost:{hub.http.server_port}{hub._storage(name)}"}
                    )
                return self._send(200, hub.files[name], {})

            def do_HEAD(self) -> None:
                """What the hub's own library asks about a file before it reads it."""
                for part, (status, headers) in hub.refuse.items():
                    if part in self.path:
                        return self._send(status, b"", headers)
                name = self.path.split("?")[0].removeprefix(f"/{hub.prefix}{hub.base}/resolve/{COMMIT}/")
                if name not in hub.files:
                    return self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
                self.send_response(200)
                mark = hashlib.sha1(hub.files[name], usedforsecurity=False).hexdigest()
                length = str(len(hub.files[name]))
                for header, value in (("ETag", f'"{mark}"'), ("X-Repo-Commit", COMMIT), ("Content-Length", length)):
                    self.send_header(header, value)
                self.end_headers()

            def _large(self, name: str) -> None:
                data = hub.files[name]
                if name in hub.damaged:
                    data = bytes([data[0] ^ 255]) + data[1:]
                begin = int((self.headers["Range"] or "bytes=0-").removeprefix("bytes=").rstrip("-"))
                rest = data[begin:]
                cut = hub.cuts.pop(0) if hub.cuts else None
                self.send_response(206 if begin else 200)
                self.send_header("Content-Length", str(len(rest)))
                if begin:
                    self.send_header("Content-Range", f"bytes {begin}-{len(data) - 1}/{len(data)}")
                self.end_headers()
                if not hub.hang.is_set():
                    self.wfile.write(rest[: len(rest) // 2])
                    self.wfile.flush()
                    hub.hang.wait(20)
                    rest = rest[len(rest) // 2 :]
                self.wfile.write(rest[:cut])
                if cut is not None:
                    self.close_connection = True

            def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def handle(self) -> None:
                with suppress(OSError):  # the downloader may close the connection
                    super().handle()

            def log_message(self, *_: object) -> None:
                return

        return Handler


def use(hub: LocalHub, folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Make it the library's own endpoint in this process; with an empty cache, no token, and retries without a wait."""
    from huggingface_hub import constants

    patch.delenv("HF_TOKEN", raising=False)
    patch.setattr(constants, "HF_TOKEN_PATH", str(folder / "no-token"))
    patch.setattr(constants, "HF_HUB_CACHE", str(folder / "hub-cache"))
    patch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1024)  # the tests' files are smaller than 10 MB
    patch.setattr("time.sleep", lambda seconds: None)
    # What the library reads from HF_ENDPOINT when it is imported.
    patch.setattr(constants, "ENDPOINT", hub.address)
    patch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", f"{hub.address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    )


@contextmanager
def serving(base: str, files: dict[str, bytes], kind: str = "model") -> Iterator[LocalHub]:
    """A running hub that is closed afterwards."""
    hub = LocalHub(base, files, kind)
    threading.Thread(target=hub.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield hub
    finally:
        hub.hang.set()
        hub.http.shutdown()
        hub.http.server_close()
