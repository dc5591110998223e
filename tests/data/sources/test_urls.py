"""URL lists: filters, the polite downloader and what it refuses, with a local server."""

from __future__ import annotations

import csv
import io
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from engine.data.before_import import describe_source
from engine.data.dataset import Dataset
from engine.data.import_config import ImportConfig, parse_import
from engine.data.importing import import_source
from engine.data.sources import download
from engine.data.sources.download import Fetcher, RateLimit, is_public, robots_marks
from engine.data.sources.image_store import Refused
from engine.errors import UserError
from engine.jobs.control import Cancelled, Control
from engine.workspace.paths import Workspace
from tests.data.sources.server import Server, serving

FAST = {"per_host": 1000.0, "timeout": 10.0, "threads": 4}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(download, "is_public", lambda number: True)  # the test server is local
    with serving() as opened:
        yield opened


def png(photo: np.ndarray, size: tuple[int, int] = (80, 64)) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(photo).resize(size).save(buffer, "PNG")
    return buffer.getvalue()


def url_list(path: Path, rows: list[dict[str, Any]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def failures(workspace: Workspace, name: str = "list") -> dict[str, str]:
    with (workspace.dataset_folder(name) / "failures.csv").open(encoding="utf-8", newline="") as file:
        return {row["url"]: row["reason"] for row in csv.DictReader(file)}


def bring(workspace: Workspace, path: Path, **config: Any) -> Any:
    return import_source(workspace, str(path), config=ImportConfig(**{**FAST, **config}))


@pytest.mark.answers("A parquet file of LAION: which columns, how many images are left?")
def test_a_laion_list_becomes_a_dataset_with_captions_and_sources(
    workspace: Workspace, tmp_path: Path, server: Server, photos: dict[str, np.ndarray]
) -> None:
    import pyarrow
    from pyarrow import parquet

    names = list(photos)
    urls = [server.page(f"/{name}.png", png(photos[name])) for name in names]
    captions = [f"a {name}" for name in names]
    table = {"URL": urls, "TEXT": captions, "WIDTH": [800, 100, 800, 800], "HEIGHT": [600, 90, 50, 640]}
    parquet.write_table(pyarrow.table(table), tmp_path / "list.parquet")
    assert describe_source(str(tmp_path / "list.parquet")) == "a list of web addresses with captions"
    result = bring(workspace, tmp_path / "list.parquet", max_aspect=2.0)
    assert (result.pictures, result.captioned, result.new, result.paired) == (3, 3, 3, False)
    assert any("3 of 4 rows pass" in note for note in result.notes)
    samples = Dataset.open(result.folder).samples()
    kept = {names[0], names[1], names[3]}
    assert {(s.source, s.caption) for s in samples} == {(f"{server.address}/{n}.png", f"a {n}") for n in kept}
    assert server.asked[f"/{names[2]}.png"] == 0, "filtered before it is asked for"
    assert json.loads(json.dumps(result.as_dict()))["found"] == "a list of web addresses with captions"


def test_failed_downloads_are_listed_with_a_reason_and_the_others_continue(
    workspace: Workspace, tmp_path: Path, server: Server, photos: dict[str, np.ndarray]
) -> None:
    good = png(photos["coffee"])
    server.page("/loop", b"", 302, Location="/loop")
    server.page("/file", b"", 302, Location="file:///etc/passwd")
    cases = {
        server.page("/good.png", good): None,
        server.page("/moved", b"", 302, Location="/good.png"): None,
        server.address + "/gone.png": "no longer there",
        server.page("/page.png", b"<html>", Content_Type="text/html; charset=utf-8"): "a web page instead of an image",
        server.page("/liar.png", b"<!doctype html><p>no"): "saved under an image's name",
        server.page("/cut.png", good[: len(good) // 2]): "interrupted",
        server.page("/noai.png", good, X_Robots_Tag="noai, noimageai"): "X-Robots-Tag: noai, noimageai",
        server.page("/noindex.png", good, X_Robots_Tag="noindex"): "X-Robots-Tag: noindex",
        server.page("/large.png", good + b"\0" * 1_100_000): "larger than the limit",
        server.page("/endless.png", good + b"\0" * 1_100_000, X_Endless="1"): "larger than the limit",
        server.page("/small.png", png(photos["coffee"], (40, 64))): "smaller than the minimum size",
        server.page("/empty.png", b""): "empty",
        server.page("/error", b"", 503): "503",
        server.address + "/loop": "too many redirects",
        server.address + "/file": "not an http or https address",
        "ftp://127.0.0.1/x.png": "not an http or https address",
        "file:///etc/passwd": "not an http or https address",
        "http://[bad": "unknown server",
        "http:///x.png": "not an http or https address",
    }
    path = url_list(tmp_path / "list.csv", [{"url": url, "caption": url} for url in cases])
    result = bring(workspace, path, max_megabytes=1, min_width=64)
    assert result.pictures == 2 and result.failures.endswith("failures.csv")
    reasons = failures(workspace)
    wanted = {url: reason for url, reason in cases.items() if reason}
    assert reasons.keys() == wanted.keys()
    assert {url: (reason, reasons[url]) for url, reason in wanted.items() if reason not in reasons[url]} == {}


def test_a_second_try_requests_only_missing_images(
    workspace: Workspace, tmp_path: Path, server: Server, photos: dict[str, np.ndarray]
) -> None:
    urls = [server.page(f"/{n}.png", png(photos["rocket"], (64 + n, 64))) for n in range(5)]
    del server.pages["/3.png"]
    path = url_list(tmp_path / "list.csv", [{"URL": url, "TEXT": ""} for url in [*urls, urls[0]]])
    first = bring(workspace, path)
    assert (first.new, first.present, first.pictures) == (4, 1, 4), "an address that is listed twice is fetched once"
    server.page("/3.png", png(photos["rocket"]))
    listing = workspace.dataset_folder("list") / "pictures" / "metadata.jsonl"
    listing.write_text(listing.read_text("utf-8") + '{"file_name": "ab/cut', "utf-8")  # as after a crash
    second = bring(workspace, path)
    assert (second.new, second.present, second.pictures) == (1, 5, 5) and failures(workspace) == {}
    assert server.asked == {f"/{n}.png": 2 if n == 3 else 1 for n in range(5)}


def test_cancelling_ends_slow_downloads_and_keeps_finished_ones(
    workspace: Workspace, tmp_path: Path, server: Server, photos: dict[str, np.ndarray]
) -> None:
    urls = [server.page("/quick.png", png(photos["chelsea"])), server.page("/slow.png", b"x" * 9000, X_Hang="1")]
    path = url_list(tmp_path / "list.csv", [{"url": url} for url in urls])
    control = Control()

    def progress(done: int, total: int, label: str) -> None:
        if label == "Images downloaded":
            assert (done, total) == (1, 2)
            control.cancel()
            server.release.set()  # a truncated response is not an image either

    with pytest.raises(Cancelled):
        import_source(workspace, str(path), config=ImportConfig(**FAST), progress=progress, token=control.token)
    assert len(list((workspace.dataset_folder("list") / "pictures").rglob("*.png"))) == 1
    assert "list" not in workspace.dataset_names()


def test_a_server_that_takes_too_long_times_out(server: Server) -> None:
    url = server.page("/slow.png", b"x" * 100_000, X_Hang="1")
    fetcher = Fetcher(ImportConfig(timeout=0.2), threading.Event())
    with pytest.raises(Refused, match="too long"):
        fetcher.get(url)
    fetcher.close()


def test_a_setting_allows_images_with_opt_out_headers(server: Server, photos: dict[str, np.ndarray]) -> None:
    url = server.page("/noai.png", png(photos["coffee"]), X_Robots_Tag="noai")
    fetcher = Fetcher(ImportConfig(respect_robots=False), threading.Event())
    assert fetcher.get(url) == server.pages["/noai.png"][2]
    assert server.hosts == [server.address.removeprefix("http://")], "the server is told the name, not only the number"
    fetcher.close()


@pytest.mark.parametrize(
    ("headers", "marks"),
    [
        (["noai"], {"noai"}),
        (["NoIndex, nofollow", "noimageai"], {"noindex", "noimageai"}),
        (["googlebot: noindex"], set()),
        (["controlnetstudio/0.1.0: noai"], {"noai"}),
        (["unavailable_after: 25 Jun 2010 15:00:00 PST, noai"], {"noai"}),
        (["none"], {"none"}),
        (["all"], set()),
        ([], set()),
    ],
)
def test_robots_headers(headers: list[str], marks: set[str]) -> None:
    assert robots_marks(headers) == marks


@pytest.mark.parametrize(
    ("number", "public"),
    [
        ("8.8.8.8", True),
        ("2606:4700::1111", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("::1", False),
        ("169.254.169.254", False),
        ("192.168.1.1", False),
        ("0.0.0.0", False),
        ("::ffff:127.0.0.1", False),
        ("64:ff9b::a00:1", False),
        ("2002:7f00:1::", False),
        ("fe80::1%eth0", False),
        ("224.0.0.1", False),
        ("100.64.0.1", False),
    ],
)
def test_private_addresses_are_recognized(number: str, public: bool) -> None:
    assert is_public(number) is public


def test_private_servers_are_refused_also_after_a_redirect(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving() as server:
        fetcher = Fetcher(ImportConfig(**FAST), threading.Event())
        for address in (server.address, server.address.replace("127.0.0.1", "localhost")):
            with pytest.raises(Refused, match="private network"):
                fetcher.get(address + "/x.png")
        server.page("/away", b"", 302, Location="http://10.0.0.1/x.png")
        monkeypatch.setattr(download, "is_public", lambda number: number == "127.0.0.1")
        with pytest.raises(Refused, match="private network"):
            fetcher.get(server.address + "/away")
        assert server.asked == {"/away": 1}
        fetcher.close()


def test_the_rate_limit_applies_to_each_host_separately() -> None:
    waits: list[float] = []
    pace = RateLimit(2.0, waits.append, clock=lambda: 100.0)
    for host in ("a", "a", "b", "a"):
        pace.turn(host)
    assert waits == [0.5, 1.0]


def test_a_missing_column_and_a_wrong_value_raise_errors(workspace: Workspace, tmp_path: Path) -> None:
    path = url_list(tmp_path / "list.csv", [{"url": "http://localhost/x", "text": "x"}])
    with pytest.raises(UserError, match="no column headline"):
        bring(workspace, path, caption_column="headline")
    with pytest.raises(UserError, match="threads"):
        parse_import({"threads": 0})


def test_a_list_without_any_available_image_raises_an_error_with_the_reason(
    workspace: Workspace, tmp_path: Path, server: Server
) -> None:
    path = url_list(tmp_path / "list.csv", [{"url": server.address + "/gone.png"}])
    with pytest.raises(UserError) as caught:
        bring(workspace, path)
    assert "no longer there" in caught.value.why and "failures.csv" in caught.value.try_this


def test_a_proxy_of_the_environment_is_used_and_private_servers_stay_refused(
    monkeypatch: pytest.MonkeyPatch, photos: dict[str, np.ndarray]
) -> None:
    asked: list[str] = []

    class Proxy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            body = png(photos["coffee"])
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.server_port}")
        monkeypatch.setenv("no_proxy", "localhost")
        fetcher = Fetcher(ImportConfig(**FAST), threading.Event())
        assert fetcher.get("http://only-the-proxy-knows.invalid/1.png").startswith(b"\x89PNG")
        for private in ("http://10.0.0.1/x.png", "http://127.0.0.1:1/x.png"):
            with pytest.raises(Refused, match="private network"):
                fetcher.get(private)
        fetcher.close()
        proxy.shutdown()
    assert asked == ["http://only-the-proxy-knows.invalid/1.png"]
