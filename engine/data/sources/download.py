"""Downloads images: in parallel, at a limited rate per server, and only images on public servers.

Redirects are followed step by step, so that each address is checked. The checked address is also the one that is
connected to, so that a name cannot point elsewhere in between (DNS rebinding). Where the environment names a proxy, the
proxy connects, and names that only it can resolve are left to it.
"""

from __future__ import annotations

import csv
import ipaddress
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

from engine.data.import_config import ImportConfig
from engine.data.sources.image_store import ImageStore, Refused
from engine.data.sources.model import FetchResult, require_package
from engine.disk.in_use import rename
from engine.jobs.control import CancelToken, OnProgress
from engine.machine.proxies import needs_no_proxy, proxies
from engine.machine.units import MIB
from engine.version import VERSION

REDIRECTS = 5
ROBOTS = frozenset({"noai", "noimageai", "noindex", "noimageindex", "none"})
AGENT = f"ControlNetStudio/{VERSION}"
_STATUS = {
    403: "the server does not allow it",
    404: "no longer there",
    410: "no longer there",
    429: "the server received too many requests",
}


@dataclass(frozen=True)
class Download:
    """One row of a list. ``name``: name of the file to write."""

    name: str
    url: str
    caption: str


class RateLimit:
    """Limits the requests to each host to ``per_second``, evenly spaced. Thread-safe."""

    def __init__(self, per_second: float, wait: Callable[[float], Any], clock: Callable[[], float] = time.monotonic):
        self._gap = 1 / per_second
        self._wait = wait
        self._clock = clock
        self._next: dict[str, float] = {}
        self._lock = threading.Lock()

    def turn(self, host: str) -> None:
        """Waits until a request to this host is allowed."""
        with self._lock:
            now = self._clock()
            start = max(now, self._next.get(host, 0.0))
            self._next[host] = start + self._gap
        if start > now:
            self._wait(start - now)


class Fetcher:
    """Downloads files. Each thread that calls it gets one file at a time.

    Args:
        stop: set it to end running downloads.
        private: also allow servers in private networks (for tests).
    """

    def __init__(self, config: ImportConfig, stop: threading.Event, private: bool = False) -> None:
        httpx = require_package("httpx", "to download images")
        self._errors = httpx.HTTPError, httpx.InvalidURL
        self._url = httpx.URL
        self._config = config
        self._stop = stop
        self._private = private
        self._pace = RateLimit(config.per_host, stop.wait)
        # No connection is kept alive: two hosts with the same address must not share one.
        limits = httpx.Limits(max_connections=config.threads, max_keepalive_connections=0)
        common: dict[str, Any] = {
            "follow_redirects": False,
            "trust_env": False,
            "timeout": config.timeout,
            "limits": limits,
            "headers": {"User-Agent": AGENT, "Accept": "image/*", "Accept-Encoding": "identity"},
        }
        self._client = httpx.Client(**common)
        self._through = {scheme: httpx.Client(proxy=proxy, **common) for scheme, proxy in proxies().items()}

    def close(self) -> None:
        for client in (self._client, *self._through.values()):
            client.close()

    def get(self, url: str) -> bytes:
        """Downloads a file. Raises Refused with the reason."""
        try:
            for _ in range(REDIRECTS + 1):
                there = self._one(url)
                if isinstance(there, bytes):
                    return there
                url = urljoin(url, there)
        except self._errors as error:
            if "Timeout" in type(error).__name__:
                raise Refused("the server took too long") from error
            raise Refused(f"no connection ({type(error).__name__})") from error
        except (ValueError, UnicodeError) as error:
            raise Refused("not a valid address") from error
        raise Refused("too many redirects")

    def _one(self, url: str) -> bytes | str:
        """The content, or the address of a redirect."""
        address = self._url(url)
        if address.scheme not in ("http", "https") or not address.host:
            raise Refused("not an http or https address")
        through = None if needs_no_proxy(address.host) else self._through.get(address.scheme)
        port = address.port or (443 if address.scheme == "https" else 80)
        number = self._checked(address.host, port, may_be_unknown=through is not None)
        self._pace.turn(address.host)
        deadline = time.monotonic() + self._config.timeout
        self._check_deadline(deadline)
        if through is not None:
            client, request = through, through.build_request("GET", address.copy_with(username=None, password=None))
        else:
            client = self._client
            request = client.build_request(
                "GET",
                address.copy_with(host=number, username=None, password=None),
                headers={"Host": address.netloc.decode("ascii")},
                extensions={"sni_hostname": address.raw_host.decode("ascii")},  # the certificate is for the name
            )
        answer = client.send(request, stream=True)
        try:
            if answer.is_redirect:
                return str(answer.headers["location"])
            if answer.status_code != 200:
                raise Refused(_STATUS.get(answer.status_code, f"the server answered {answer.status_code}"))
            marks = robots_marks(answer.headers.get_list("x-robots-tag"))
            if marks and self._config.respect_robots:
                raise Refused(f"the owner does not allow its use (X-Robots-Tag: {', '.join(sorted(marks))})")
            if answer.headers.get("content-type", "").startswith(("text/", "application/json")):
                raise Refused("a web page instead of an image")
            return self._body(answer, deadline)
        finally:
            answer.close()

    def _body(self, answer: Any, deadline: float) -> bytes:
        most = self._config.max_megabytes * MIB
        parts, size = [], 0
        declared = answer.headers.get("content-length", "")
        if declared.isdecimal() and int(declared) > most:
            raise Refused("larger than the limit")
        for part in answer.iter_bytes():
            self._check_deadline(deadline)
            parts.append(part)
            size += len(part)
            if size > most:
                raise Refused("larger than the limit")
        return b"".join(parts)

    def _check_deadline(self, deadline: float) -> None:
        if self._stop.is_set():
            raise Refused("cancelled")
        if time.monotonic() > deadline:
            raise Refused("the server took too long")

    def _checked(self, host: str, port: int, may_be_unknown: bool = False) -> str:
        """The host's IP address. Raises Refused unless all its addresses are public.

        ``may_be_unknown``: an empty answer for a name that only a proxy can resolve.
        """
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            if may_be_unknown:
                return ""
            raise Refused("unknown server") from error
        numbers = [str(entry[4][0]) for entry in found]
        if not self._private and not all(is_public(number) for number in numbers):
            raise Refused("an address in a private network")
        return numbers[0]


def is_public(number: str) -> bool:
    """Whether an IP address is public. IPv4 addresses inside IPv6 count as what they are."""
    address = ipaddress.ip_address(number.split("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
        if inner is None and address in ipaddress.ip_network("64:ff9b::/96"):
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
    return address.is_global and not address.is_multicast


def robots_marks(headers: list[str]) -> set[str]:
    """Marks in X-Robots-Tag headers that disallow training. ``bot: noindex`` is for that bot only."""
    marks: set[str] = set()
    for header in headers:
        agent, colon, rest = header.partition(":")
        if colon and "," not in agent and agent.strip().lower() not in ("unavailable_after", AGENT.lower(), "*"):
            continue
        words = rest if colon and agent.strip().lower() != "unavailable_after" else header
        marks |= {word.strip().lower() for word in words.split(",")} & ROBOTS
    return marks


def download_all(
    wanted: Iterator[Download],
    total: int,
    store: ImageStore,
    config: ImportConfig,
    fetched: FetchResult,
    failures: Path,
    progress: OnProgress,
    token: CancelToken,
    private: bool = False,
) -> None:
    """Downloads into the store. Writes a CSV with url and reason of this attempt's failures.

    Raises:
        Cancelled: the token was cancelled. Finished files are kept, and the next call continues.
    """
    stop = threading.Event()
    fetcher = Fetcher(config, stop, private)
    pool = ThreadPoolExecutor(config.threads, thread_name_prefix="download")
    waiting: deque[tuple[Download, Future[str] | None]] = deque()
    asked: set[str] = set()
    temporary = failures.with_name(failures.name + ".tmp")

    def one(row: Download) -> str:
        return store.put_image(row.name, fetcher.get(row.url), min_size=(config.min_width, config.min_height))

    with temporary.open("w", encoding="utf-8", newline="") as file:
        listing = csv.writer(file)
        listing.writerow(["url", "reason"])
        done = 0
        try:
            while True:
                token.raise_if_cancelled()
                while len(waiting) < 4 * config.threads and (row := next(wanted, None)):
                    new = not store.has(row.name) and row.name not in asked
                    asked.add(row.name)
                    waiting.append((row, pool.submit(one, row) if new else None))
                if not waiting:
                    break
                row, future = waiting[0]
                if future is not None and not _finished(future):
                    continue
                waiting.popleft()
                done += 1
                if future is None:
                    fetched.present += 1
                else:
                    try:
                        store.add_row(row.name, future.result(), row.caption, row.url)
                        fetched.new += 1
                    except Refused as refused:
                        fetched.skip(str(refused))
                        listing.writerow([row.url, str(refused)])
                progress(done, total, "Images downloaded")
        finally:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
            fetcher.close()
            file.close()
            rename(temporary, failures)


def _finished(future: Future[str]) -> bool:
    """Waits briefly, so that a cancellation is noticed while a server is slow."""
    try:
        future.exception(timeout=0.2)
    except TimeoutError:
        return False
    return True
