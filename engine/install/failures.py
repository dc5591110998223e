"""What a failed program's output and exit status say, as a cause and a fix."""

from __future__ import annotations

import re
import signal

from engine.install.console import InstallError, Outcome

DAMAGED = r"DO NOT MATCH THE HASHES|BadZipFile|Bad CRC-32|Wheel '[^']*' located at .* is invalid"
"""What pip says about a file that is not what the server has: cut off, changed on its way, or damaged in its cache."""

# (pattern in pip's output, cause, fix); the first match is shown.
KNOWN_FAILURES = (
    (
        # torch's own words, and what Windows says about its c10.dll; a fresh Windows does not have it.
        r"Visual C\+\+ Redistributable is not installed|WinError (?:126|1114)\b",
        "Microsoft's Visual C++ runtime is missing or too old.",
        "Run https://aka.ms/vs/17/release/vc_redist.x64.exe (Windows asks for permission), then start this again.",
    ),
    (
        # rocBLAS's words and HIP's; CUDA's are "no kernel image is available".
        r"TensileLibrary|invalid device function|device kernel image is invalid|no kernel image is available",
        "The libraries of this PyTorch have no kernels for the card.",
        "Continue without the card: --cpu",
    ),
    (
        # 39 and 112 are Windows', 122 a user's quota.
        r"No space left on device|There is not enough space|Errno 28\b|Errno 122\b|WinError (?:39|112)\b",
        "The disk is full.",
        "Free some space (25 GB for training on a card) and start this again; it continues where it stopped.",
    ),
    (
        r"Read-only file system|Input/output error|Errno (?:5|30)\b|WinError (?:19|23|1117)\b",
        "The disk reports an error, or may only be read.",
        "Check the disk, or move the app's folder to another one, then start this again.",
    ),
    (
        DAMAGED,
        "A download was damaged twice: a proxy, a virus scanner or the disk changes it.",
        "Start this again, best on another network; if it happens again, check the disk.",
    ),
    (
        r"CERTIFICATE_VERIFY_FAILED|certificate verify failed",
        "The download server's certificate was not accepted.",
        "Check the computer's clock. Behind a company proxy, give pip its certificate: pip config set global.cert FILE",
    ),
    (
        r"ProxyError|407 Proxy Authentication|Tunnel connection failed|check proxy URL",
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
        r"IncompleteRead|incomplete-download|not enough bytes were received|Network is unreachable|SSLError|SSL: ",
        "The download was interrupted: no connection, or a slow one.",
        "Check the internet connection (and the proxy, with `pip config list`) and start this again; it continues.",
    ),
    (
        r"HTTP error \d+|too many \d+ error responses|Exceeded \d+ redirects",
        "The download server refused, or is out of order.",
        "Start this again in some minutes. If it happens again, check `pip config list` for an index of your own.",
    ),
    (
        r"No matching distribution found|Could not find a version",
        "The package index offered no version of a package for this computer.",
        "Open https://pypi.org in a browser: a network that asks for a login, or a company's filter, may answer in its "
        "place. Check `pip config list`: an old or private package index (index-url) may hide packages.",
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


def is_damaged(output: str) -> bool:
    """Whether pip failed because a file that it had downloaded, now or earlier, is damaged."""
    return re.search(DAMAGED, output) is not None


def explain(outcome: Outcome, doing: str) -> InstallError:
    """The cause and the fix for a failure of pip.

    Args:
        doing: what was being installed, e.g. "PyTorch".
    """
    known = known_failure(outcome.output) or killed(outcome.code)
    if known:
        return InstallError(f"{doing} could not be installed. {known[0]}", known[1])
    lines = outcome.output.strip().splitlines()
    last = ([line for line in lines if line.startswith("ERROR")] or lines or ["pip printed nothing"])[-1]
    return InstallError(f"{doing} could not be installed: {last.strip()[:300]}", "See the log, or try --repair.")


def killed(code: int) -> tuple[str, str] | None:
    """The cause and the fix if the exit status says that the system ended the program; None for every other status.

    Args:
        code: as subprocess gives it: a signal's number is negative; Windows has NTSTATUS values.
    """
    if code in (-signal.SIGILL, 0xC000001D):
        return (
            "This computer's processor lacks instructions that the packages need.",
            "Use a computer with a newer processor (with AVX2, from about 2013 on).",
        )
    if code == -9:  # SIGKILL, which Windows does not name
        return (
            "The system ended it, usually because memory ran out.",
            "Close other programs and start this again; it continues.",
        )
    if code in (-signal.SIGSEGV, -signal.SIGABRT, -7, 0xC0000005, 0xC0000409):  # 7: SIGBUS
        return (
            "A library crashed.",
            "Start again with --repair. If it happens again, install the newest driver of the card, or add --cpu.",
        )
    return None
