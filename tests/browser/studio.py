"""Runs the real app in a separate process, and a real browser, for tests and screenshots."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.forked import Forks

ROOT = Path(__file__).resolve().parents[2]
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "microsoft-edge", "chrome")
PATIENCE = 240
"""Seconds until something that a test waits for is given up: the machine may be busy with other tests."""
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--use-fake-device-for-media-stream",  # a camera that shows a moving disc, without a permission prompt
    "--use-fake-ui-for-media-stream",
]


def find_chromium() -> str | None:
    """Return the path of a browser that the tests can drive, or None."""
    chosen = os.environ.get("STUDIO_CHROMIUM")
    if chosen is not None:
        return chosen if Path(chosen).is_file() else None
    return next((found for name in BROWSERS if (found := shutil.which(name))), None)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Studio:
    """app.py as a child process on a free port.

    With ``forks`` it is a fork in which torch and the trainer are loaded already.
    """

    def __init__(
        self,
        workspace: Path,
        *arguments: str,
        port: int | None = None,
        program: tuple[str, ...] = (str(ROOT / "app.py"),),
        forks: Forks | None = None,
        **environment: str,
    ) -> None:
        self.workspace = workspace
        self.port = port or free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        self.output: Path = workspace.parent / f"{workspace.name}-{self.port}.log"
        command = [sys.executable, *program, "--no-browser", "--port", str(self.port)]
        self.process: Any
        if forks is not None:
            module = ".".join(Path(program[0]).relative_to(ROOT).with_suffix("").parts)
            words = (*command[2:], "--workspace", str(workspace), *arguments)
            self.process = forks.popen(module, *words, output=self.output, **environment)
            return
        variables = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", **environment}
        with self.output.open("w", encoding="utf-8") as log:
            self.process = subprocess.Popen(
                [*command, "--workspace", str(workspace), *arguments],
                cwd=ROOT,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=variables,
            )

    def printed(self) -> str:
        return self.output.read_text(encoding="utf-8")

    def wait_until_open(self, seconds: float = PATIENCE) -> Studio:
        """Wait until the page answers."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise AssertionError(f"app.py ended with {self.process.returncode}:\n{self.printed()}")
            try:
                with urllib.request.urlopen(self.address, timeout=5) as answer:
                    if answer.status == 200 and "is open at" in self.printed():
                        return self
            except OSError:
                pass  # not there yet
            time.sleep(0.1)
        raise AssertionError(f"app.py did not answer within {seconds} s:\n{self.printed()}")

    def ask_to_end(self, seconds: float = PATIENCE) -> int:
        """Press Ctrl-C and return the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        return self.process.wait(seconds)

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)


@contextmanager
def studio(workspace: Path, *arguments: str, **how: Any) -> Iterator[Studio]:
    """Open the app, and end it afterwards."""
    app = Studio(workspace, *arguments, **how)
    try:
        yield app.wait_until_open()
    except BaseException as error:
        error.add_note(f"the app said:\n{app.printed()[-4000:]}")
        raise
    finally:
        app.kill()


@contextmanager
def chromium() -> Iterator[Any]:
    """Start a headless browser. Only one in a process can be started like this; ``browser_type`` launches more."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright, launched(playwright.chromium) as browser:
        yield browser


@contextmanager
def launched(browser_type: Any) -> Iterator[Any]:
    """Launch the browser as a process of its own, and close it afterwards."""
    browser = browser_type.launch(executable_path=find_chromium(), args=ARGUMENTS)
    try:
        yield browser
    finally:
        browser.close()


@contextmanager
def page_of(browser: Any, width: int = 1440, height: int = 900, dark: bool = False) -> Iterator[Any]:
    """Open a page that shares neither cookies nor storage with others of this browser."""
    context = browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme="dark" if dark else "light",
        reduced_motion="reduce",
    )
    context.set_default_timeout(1000 * PATIENCE)
    try:
        page = context.new_page()
        with explained(page):
            yield page
    finally:
        context.close()


@contextmanager
def explained(page: Any) -> Iterator[None]:
    """Within the block, an error gets what the pages show, and what the browser's console says, as notes."""
    context, messages = page.context, []

    def note(message: Any) -> None:
        messages.append(f"{message.type}: {message.text}")

    context.on("console", note)
    try:
        yield
    except BaseException as error:
        for number, shown in enumerate(context.pages, 1):
            error.add_note(f"page {number}: {_seen_on(shown)}")
        error.add_note("browser console:\n" + "\n".join(messages[-20:]))
        raise
    finally:
        context.remove_listener("console", note)


@contextmanager
def browser_page(width: int = 1440, height: int = 900, dark: bool = False) -> Iterator[Any]:
    """Open a page of a browser of its own. ``page.context.browser`` opens more."""
    with chromium() as browser, page_of(browser, width, height, dark) as page:
        yield page


def _seen_on(page: Any) -> str:
    """Return the text that a person would see on the page, for the message of a failed test."""
    words = " / ".join(line.strip() for line in page.locator("body").inner_text().splitlines() if line.strip())
    folder = os.environ.get("STUDIO_SCREENSHOTS")
    if folder:
        page.screenshot(path=str(Path(folder) / f"failed-{time.time_ns()}.png"))
    return words[:6000]


def open_tab(page: Any, title: str) -> None:
    """Click a tab by its title."""
    page.get_by_role("tab", name=re.compile(f"^{re.escape(title)}")).first.click()


def watch_foreign_requests(page: Any, address: str) -> list[str]:
    """Return a list that collects every address outside the app that the page requests."""
    foreign: list[str] = []

    def note(request: Any) -> None:
        if not request.url.startswith((address, "data:", "blob:", "ws://127.0.0.1", "about:")):
            foreign.append(request.url)

    page.on("request", note)
    return foreign
