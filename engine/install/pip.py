"""Runs pip in the virtual environment and shows its progress."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence

from engine.install.console import Console, Outcome
from engine.install.failures import explain, is_damaged
from engine.install.layout import Layout, clean_environment, delete

TEMPORARY = ("TMPDIR", "TEMP", "TMP")
"""What names the folder for temporary files: the first on Linux and macOS, the others on Windows."""


def show_progress(line: str) -> str | None:
    """The text that ``Console.tick`` shows for a line of pip's output (see ``Console.run``)."""
    raw = re.match(r"\s*Progress (\d+) of (\d+)", line)
    if raw:
        done, total = (int(number) / 2**20 for number in raw.groups())
        return f"\t{done:,.0f} of {total:,.0f} MB" if total else "\t"
    named = re.match(r"\s*(Collecting|Downloading|Installing|Building)\b(.*)", line)
    if not named:
        return None
    what = named.group(2).strip().split("/")[-1]
    return f"{named.group(1).lower()} {what}"


class Pip:
    """pip of one virtual environment."""

    def __init__(self, layout: Layout, console: Console, environment: Mapping[str, str] | None = None) -> None:
        self.layout = layout
        self.console = console
        self.environment = clean_environment(os.environ if environment is None else environment)

    def version(self) -> tuple[int, int]:
        """(24, 1) for pip 24.1.2; (0, 0) if pip is missing."""
        for folder in self.layout.site_packages.glob("pip-*.dist-info"):
            found = re.match(r"pip-(\d+)\.(\d+)", folder.name)
            if found:
                return int(found.group(1)), int(found.group(2))
        return 0, 0

    def run(self, *arguments: str) -> Outcome:
        """Run `pip ...` without questions to the user."""
        command = [str(self.layout.python), "-m", "pip", "--no-input", *arguments]
        return self.console.run(command, self.environment, self.layout.root, show_progress)

    def install(self, doing: str, arguments: Sequence[str]) -> None:
        """Run `pip install ...`, and a second time without pip's cache if what it downloaded was damaged.

        Raises:
            InstallError: with the cause and the fix.
        """
        options = []
        if self.version() >= (24, 1):
            options += ["--progress-bar", "raw" if self.console.out.isatty() else "off"]
        if self.version() >= (25, 1):
            options += ["--resume-retries", "5"]  # torch alone is 2.5 GB, and connections drop
        with self._room_for_downloads():
            outcome = self.run("install", *options, *arguments)
            if outcome.code and is_damaged(outcome.output):
                outcome = self.run("--no-cache-dir", "install", *options, *arguments)
        if outcome.code:
            raise explain(outcome, doing)

    @contextlib.contextmanager
    def _room_for_downloads(self) -> Iterator[None]:
        """Within the block pip keeps unfinished downloads on the app's disk.

        The system's folder for temporary files is often a part of the memory (tmpfs), or on a smaller disk: a wheel of
        5 GB does not fit there. What a killed installation left is deleted first.
        """
        folder = self.layout.downloads
        if folder.exists():
            delete(folder)
        folder.mkdir(parents=True)
        before = self.environment
        self.environment = {**before, **dict.fromkeys(TEMPORARY, str(folder))}
        try:
            yield
        finally:
            self.environment = before
            with contextlib.suppress(OSError):  # the next installation deletes it
                delete(folder)

    def offers(self, package: str, version: str, *options: str) -> bool:
        """Whether pip finds exactly this version (local part included). Reads the index page, downloads nothing."""
        outcome = self.run("index", "versions", package, *options)
        found = re.search(r"^Available versions:(.*)$", outcome.output, re.MULTILINE)
        return found is not None and version in {offered.strip() for offered in found.group(1).split(",")}
