"""Upload against a small server on this machine that answers as the hub does."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from engine.errors import UserError
from engine.export import export
from engine.export.hub import files_of, upload
from engine.jobs.control import Cancelled, Control

TOKEN = "hf_secretsecret"


class FakeHub(BaseHTTPRequestHandler):
    """Repositories, the check before an upload, large files, and commits."""

    stored: dict[str, bytes]
    asked: list[tuple[str, str]]
    refuse = 0

    def log_message(self, *_: Any) -> None: ...

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            data = b""
            while size := int(self.rfile.readline(), 16):
                data += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return data
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _answer(self, value: Any, status: int = 200) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _address(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def do_POST(self) -> None:
        body = self._body()
        type(self).asked.append((self.path, self.headers.get("Authorization") or ""))
        if self.refuse:
            return self._answer({"error": "no"}, self.refuse)
        if self.path == "/api/repos/create":
            return self._answer({"url": f"{self._address()}/anna/net", "name": "anna/net"})
        if self.path == "/api/validate-yaml":  # of a model card
            return self._answer({"errors": [], "warnings": []})
        if "/preupload/" in self.path:
            files = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith((".safetensors", ".webp")) else "regular",
                    "shouldIgnore": False,
                    "oid": None,
                }
                for file in json.loads(body)["files"]
            ]
            return self._answer({"files": files})
        if self.path.endswith("/info/lfs/objects/batch"):
            objects = [
                {
                    **wanted,
                    "authenticated": True,
                    "actions": {"upload": {"href": f"{self._address()}/lfs/{wanted['oid']}", "header": {}}},
                }
                for wanted in json.loads(body)["objects"]
            ]
            return self._answer({"transfer": "basic", "objects": objects})
        if "/commit/" in self.path:
            for line in body.decode().splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    type(self).stored[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
                elif entry["key"] == "lfsFile":
                    value = entry["value"]
                    type(self).stored[value["path"]] = type(self).stored.pop(f"lfs/{value['oid']}")
            return self._answer({"commitUrl": f"{self._address()}/anna/net/commit/1", "commitOid": "1" * 40})
        return self._answer({"error": self.path}, 404)

    def do_PUT(self) -> None:
        type(self).asked.append((self.path, self.headers.get("Authorization") or ""))
        type(self).stored[self.path.removeprefix("/")] = self._body()
        self._answer({})

    def do_GET(self) -> None:
        self._answer({"error": "not found"}, 404)


@pytest.fixture
def hub() -> Iterator[tuple[str, type[FakeHub]]]:
    handler = type("Hub", (FakeHub,), {"stored": {}, "asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}", handler
    server.shutdown()
    server.server_close()


def test_the_net_and_its_card_arrive_whole(
    checkpoint: Path, tmp_path: Path, hub: tuple[str, type[FakeHub]], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, server = hub
    home = tmp_path / "home"
    monkeypatch.setenv("HOME", str(home))
    made = export(checkpoint, "single_file", tmp_path / "out", "mine")
    progress: list[tuple[int, int]] = []
    link = upload(
        files_of(made),
        "anna/net",
        TOKEN,
        endpoint=address,
        progress=lambda done, total, _: progress.append((done, total)),
    )
    assert link == f"{address}/anna/net"
    assert server.stored[made.path.name] == made.path.read_bytes()
    assert made.card is not None and server.stored["README.md"] == (made.card / "README.md").read_bytes()
    assert set(server.stored) == {made.path.name, *(path.name for path in made.card.iterdir())}
    assert progress[-1][0] == progress[-1][1] or progress[-1][1] == 1
    assert any(TOKEN in authorization for _, authorization in server.asked)
    for path in tmp_path.rglob("*"):  # the token is in no file
        assert not path.is_file() or TOKEN.encode() not in path.read_bytes()


def test_a_folder_for_diffusers_arrives_as_a_repository(
    checkpoint: Path, tmp_path: Path, hub: tuple[str, type[FakeHub]]
) -> None:
    address, server = hub
    made = export(checkpoint, "diffusers", tmp_path / "out", "mine")
    upload(files_of(made), "anna/net", TOKEN, endpoint=address)
    assert {"config.json", "diffusion_pytorch_model.safetensors", "README.md"} <= set(server.stored)


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_token_is_reported_without_the_token(
    tmp_path: Path, hub: tuple[str, type[FakeHub]], status: int
) -> None:
    address, server = hub
    server.refuse = status
    (tmp_path / "a").write_text("a", encoding="utf-8")
    with pytest.raises(UserError, match=rf"refused the token \({status}\)") as caught:
        upload([("a", tmp_path / "a")], "anna/net", TOKEN, endpoint=address)
    assert TOKEN not in str(caught.value)


def test_a_hub_that_is_not_there_is_reported(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a", encoding="utf-8")
    with pytest.raises(UserError, match="upload to anna/net failed"):
        upload([("a", tmp_path / "a")], "anna/net", TOKEN, endpoint="http://127.0.0.1:9")


def test_cancel_ends_it_between_and_within_files(tmp_path: Path, hub: tuple[str, type[FakeHub]]) -> None:
    address, server = hub
    files = [(name, tmp_path / name) for name in ("small.txt", "large.safetensors")]
    files[0][1].write_bytes(b"s")
    files[1][1].write_bytes(bytes(3 * 2**20))
    control = Control()

    def progress(done: int, total: int, _: str) -> None:
        if server.stored:
            control.cancel()

    with pytest.raises(Cancelled):
        upload(files, "anna/net", TOKEN, endpoint=address, cancel=control.token, progress=progress)
    assert set(server.stored) == {"small.txt"}


@pytest.mark.parametrize(
    ("repository", "token", "words"),
    [("net", TOKEN, "is not a repository"), ("anna/../x", TOKEN, "is not a repository"), ("anna/net", " ", "token")],
)
def test_names_and_tokens_are_looked_at_first(repository: str, token: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        upload([], repository, token)
