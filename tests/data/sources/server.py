"""A local web server with good and bad behaviour, for tests of the downloader."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server:
    """Serves ``pages``: path -> (status, headers, body). ``asked`` counts the requests by path."""

    def __init__(self) -> None:
        self.pages: dict[str, tuple[int, dict[str, str], bytes]] = {}
        self.asked: Counter[str] = Counter()
        self.hosts: list[str] = []
        self.release = threading.Event()
        """Only half of a page with the header X-Hang is sent until this is set."""
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.http.daemon_threads = True

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.http.server_port}"

    def page(self, path: str, body: bytes, status: int = 200, **headers: str) -> str:
        """Adds a page; returns its URL."""
        self.pages[path] = (status, {name.replace("_", "-"): value for name, value in headers.items()}, body)
        return self.address + path

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.asked[self.path] += 1
                server.hosts.append(self.headers["Host"])
                status, headers, body = server.pages.get(self.path, (404, {}, b"gone"))
                part = self.headers["Range"]
                if part and status == 200:
                    begin, end = part.removeprefix("bytes=").split("-")
                    headers = {**headers, "Content-Range": f"bytes {begin}-{end}/{len(body)}"}
                    status, body = 206, body[int(begin) : int(end or len(body)) + 1]
                self.send_response(status)
                for name, value in {"Content-Type": "image/png", **headers}.items():
                    self.send_header(name, value)
                if "X-Endless" not in headers:
                    self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                try:
                    if "X-Hang" in headers:
                        self.wfile.write(body[: len(body) // 2])
                        self.wfile.flush()
                        server.release.wait(20)
                    else:
                        self.wfile.write(body)
                except OSError:
                    pass  # some tests close the connection

            def log_message(self, *_: object) -> None:
                return

        return Handler


@contextmanager
def serving() -> Iterator[Server]:
    """A running server that is closed afterwards."""
    server = Server()
    thread = threading.Thread(target=server.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.release.set()
        server.http.shutdown()
        server.http.server_close()
