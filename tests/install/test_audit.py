"""Known vulnerabilities of the packages are always reported and fail nothing; so is a database without an answer."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from engine.install import launch
from engine.install.audit import COMMAND, parse_report
from engine.install.console import Console
from engine.install.layout import Layout, clean_environment

CLEAN = {"name": "numpy", "version": "2.4.6", "vulns": []}
FAULTY = {
    "name": "pillow",
    "version": "12.3.0",
    "vulns": [
        {"id": "PYSEC-2030-1", "fix_versions": ["12.3.1", "13.0"], "aliases": ["CVE-2030-77"], "description": "Boom."},
        {"id": "GHSA-xxxx", "fix_versions": [], "aliases": []},
    ],
}
SKIPPED = {"name": "torch", "skip_reason": "its version is not on the list"}


def printed(*packages: dict[str, Any]) -> str:
    """As pip-audit prints with --format json."""
    return json.dumps({"dependencies": list(packages), "fixes": []})


def test_a_known_vulnerability_is_reported_with_its_names_and_its_fix() -> None:
    assert parse_report(printed(CLEAN, FAULTY, SKIPPED), "Found 2 known vulnerabilities in 1 package") == [
        "Packages looked up: 2. Known vulnerabilities: 2.",
        "VULNERABLE pillow 12.3.0: PYSEC-2030-1, CVE-2030-77; fixed in 12.3.1, 13.0",
        "VULNERABLE pillow 12.3.0: GHSA-xxxx; no fixed version yet",
        "torch: not looked up (its version is not on the list)",
    ]
    assert parse_report(printed(CLEAN), "") == ["Packages looked up: 1. Known vulnerabilities: none."]


@pytest.mark.parametrize(
    ("output", "errors", "why"),
    [
        ("", "Traceback ...\nrequests.exceptions.ConnectionError: Failed to resolve 'api.osv.dev'\n", "Failed to reso"),
        ("", "/usr/bin/python: No module named pip_audit\n", "No module named pip_audit"),
        ("[]", "", "printed nothing"),
        ('{"dependencies": [{"name": 1, "vulns": [{}]}]}', "odd\n", "odd"),
    ],
)
def test_a_database_that_cannot_be_asked_is_reported_with_the_reason(output: str, errors: str, why: str) -> None:
    (line,) = parse_report(output, errors)
    assert line.startswith("NOT CHECKED") and why in line


def in_ci(root: Path, monkeypatch: pytest.MonkeyPatch, result: Any, ci: str) -> tuple[int, str, list[str]]:
    """``--test`` with pretended tools: its exit status, what it printed, and which tools ran."""
    ran: list[str] = []

    def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        ran.append(command[2])
        if command[2] != COMMAND[0]:
            return subprocess.CompletedProcess(command, 0)
        assert options["timeout"] <= 600, "a database that hangs does not hold the checks up"
        if isinstance(result, Exception):
            raise result
        return subprocess.CompletedProcess(command, 1, *result)

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(launch, "find_browser", lambda *_: None)
    out = io.StringIO()
    return launch.run_checks(Layout(root), Console(None, out), {"PATH": "", "CI": ci}, ()), out.getvalue(), ran


@pytest.mark.parametrize(
    ("result", "words"),
    [
        ((printed(FAULTY), ""), "VULNERABLE pillow 12.3.0: PYSEC-2030-1"),
        (("", "No module named pip_audit"), "NOT CHECKED"),
        (subprocess.TimeoutExpired("pip_audit", 180), "did not respond within 180 seconds"),
        (FileNotFoundError("no python"), "could not be started: no python"),
    ],
)
def test_ci_reports_below_the_tests_and_fails_for_none_of_it(
    root: Path, monkeypatch: pytest.MonkeyPatch, result: Any, words: str
) -> None:
    code, shown, ran = in_ci(root, monkeypatch, result, "true")
    assert code == 0
    assert ran[-2:] == ["pytest", "pip_audit"]
    assert words in shown.split("--- known vulnerabilities")[1]


def test_elsewhere_nobody_is_asked(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No request leaves a person's computer for a report that they did not ask for."""
    code, shown, ran = in_ci(root, monkeypatch, ("", ""), "")
    assert (code, "pip_audit" in ran, "vulnerabilities" in shown) == (0, False, False)


class Osv(BaseHTTPRequestHandler):
    """A database that knows one thing, of one package."""

    def do_POST(self) -> None:  # noqa: N802  (the library's name)
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        known = {"id": "PYSEC-2030-1", "summary": "Boom.", "aliases": ["CVE-2030-77"], "affected": []}
        known["affected"] = [{"package": {"name": "holey", "ecosystem": "PyPI"}, "versions": ["1.0"]}]
        body = json.dumps({"vulns": [known]} if asked["package"]["name"] == "holey" else {}).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


def test_the_tool_itself_takes_the_options_and_is_understood(tmp_path: Path) -> None:
    """The real pip-audit, over two packages that are not there, with a database of our own."""
    pytest.importorskip("pip_audit")
    for name in ("holey", "whole"):
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n", encoding="utf-8")
    with ThreadingHTTPServer(("127.0.0.1", 0), Osv) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        osv = f"http://127.0.0.1:{server.server_port}"
        command = [sys.executable, "-m", *COMMAND, "--path", str(tmp_path), "--osv-url", osv]
        options: dict[str, Any] = {"capture_output": True, "text": True, "timeout": 120, "check": False}
        done = subprocess.run(command, env=clean_environment({"NO_PROXY": "*", "HOME": str(tmp_path)}), **options)
        server.shutdown()
    assert parse_report(done.stdout, done.stderr) == [
        "Packages looked up: 2. Known vulnerabilities: 1.",
        "VULNERABLE holey 1.0: PYSEC-2030-1, CVE-2030-77; no fixed version yet",
    ]
