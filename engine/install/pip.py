"""Runs pip in the virtual environment, shows its progress and explains its errors."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence

from engine.install.console import Console, InstallError, Outcome
from engine.install.layout import Layout, clean_environment

# (pattern in pip's output, cause, fix); the first match is shown.
KNOWN_FAILURES = (
    (
        # torch's own words, and what Windows says about its c10.dll; a fresh Windows does not have it.
        r"Visual C\+\+ Redistributable is not installed|WinError (?:126|1114)\b",
        "Microsoft's Visual C++ runtime is missing or too old.",
        "Run https://aka.ms/vs/17/release/vc_redist.x64.exe (Windows asks for permission), then start this again.",
    ),
    (
        r"No space left on device|Errno 28|There is not enough space",
        "The disk is full.",
        "Free some space (25 GB for training on a card) and start this again; it continues where it stopped.",
    ),
    (
        r"CERTIFICATE_VERIFY_FAILED|SSLError|certificate verify failed",
        "The download server's certificate was not accepted.",
        "Check the computer's clock. Behind a company proxy, give pip its certificate: pip config set global.cert FILE",
    ),
    (
        r"ProxyError|407 Proxy Authentication|Tunnel connection failed",
        "The proxy refused the download.",
        "Check the HTTPS_PROXY variable and `pip config list`: name, port, user and password of the proxy.",
    ),
    (
        r"Permission denied|Access is denied|WinError 5\b|WinError 32\b|Errno 13",
        "A file could not be written: it is in use or protected.",
        "Close every window of the app, let the virus scanner finish, check that the folder is yours, and start again.",
    ),
    (
        r"filename or extension is too long|File name too long|Errno 36|WinError 206",
        "A path is too long.",
        "Move the app's folder closer to the root of the drive, e.g. to C:\\ControlNetStudio, and start this again.",
    ),
    (
        r"NewConnectionError|NameResolutionError|Temporary failure in name resolution|Could not resolve|"
        r"ConnectTimeout|ReadTimeout|Read timed out|Connection (?:refused|reset|aborted|broken|interrupted)|"
        r"IncompleteRead|incomplete-download|not enough bytes were received|Network is unreachable",
        "The download was interrupted: no connection, or a slow one.",
        "Check the internet connection (and the proxy, with `pip config list`) and start this again; it continues.",
    ),
    (
        r"No matching distribution found|Could not find a version",
        "There is no version of a package for this computer.",
        "Check `pip config list`: an old or private package index (index-url) may hide packages. Remove it and try "
        "again.",
    ),
    (
        r"ResolutionImpossible|conflicting dependencies",
        "The packages need incompatible versions of each other.",
        "Start again with --repair. If that does not help, please report it with the log.",
    ),
)


def known_failure(output: str) -> tuple[str, str] | None:
    """The cause and the fix if a program's output, or an error's text, has a usual one."""
    found = (words for pattern, *words in KNOWN_FAILURES if re.search(pattern, output, re.IGNORECASE))
    cause_and_fix = next(found, None)
    return (cause_and_fix[0], cause_and_fix[1]) if cause_and_fix else None


def explain(output: str, doing: str) -> InstallError:
    """The cause and the fix for a failure of pip.

    Args:
        output: everything that pip printed.
        doing: what was being installed, e.g. "PyTorch".
    """
    known = known_failure(output)
    if known:
        return InstallError(f"{doing} could not be installed. {known[0]}", known[1])
    errors = [line for line in output.splitlines() if line.startswith("ERROR")]
    last = (errors or output.strip().splitlines() or ["pip printed nothing"])[-1]
    return InstallError(f"{doing} could not be installed: {last.strip()[:300]}", "See the log, or try --repair.")


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
        """Run `pip install ...`. Raises InstallError with the cause and the fix."""
        options = []
        if self.version() >= (24, 1):
            options += ["--progress-bar", "raw" if self.console.out.isatty() else "off"]
        if self.version() >= (25, 1):
            options += ["--resume-retries", "5"]  # torch alone is 2.5 GB, and connections drop
        outcome = self.run("install", *options, *arguments)
        if outcome.code:
            raise explain(outcome.output, doing)

    def offers(self, package: str, version: str, *options: str) -> bool:
        """Whether pip finds exactly this version (local part included). Reads the index page, downloads nothing."""
        outcome = self.run("index", "versions", package, *options)
        found = re.search(r"^Available versions:(.*)$", outcome.output, re.MULTILINE)
        return found is not None and version in {offered.strip() for offered in found.group(1).split(",")}
