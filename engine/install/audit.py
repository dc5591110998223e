"""Are faults known in the installed packages? Asked in continuous integration, told always, and never a failure.

The packages are pinned: a fault that somebody reports tomorrow must not turn a tree red that was green today, but
nobody shall be able to overlook it either. The tool is pip-audit, the database osv.dev: it holds the advisories of the
Python Packaging Authority and GitHub's.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from typing import Any

from engine.install.console import Console
from engine.install.layout import Layout

LIMIT_SECONDS = 180
"""For the whole: 150 packages are one short question each."""
COMMAND = (
    "pip_audit", "--vulnerability-service", "osv", "--format", "json", "--desc", "off", "--progress-spinner", "off",
    "--timeout", "15",
)  # fmt: skip


def audit(layout: Layout, console: Console, environment: Mapping[str, str], limit: float = LIMIT_SECONDS) -> list[str]:
    """Ask about every package of the virtual environment and print what is known; returns the printed lines.

    Nothing that happens here is raised: a database that cannot be asked is a line of the report, with its reason.
    """
    command = [str(layout.python), "-m", *COMMAND]
    try:
        done = subprocess.run(
            command, cwd=layout.root, env=dict(environment), stdin=subprocess.DEVNULL, capture_output=True,
            encoding="utf-8", errors="replace", timeout=limit, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        lines = unasked(f"it did not answer within {limit:.0f} seconds")
    except OSError as error:
        lines = unasked(f"pip-audit could not be started: {error}")
    else:
        lines = told(done.stdout, done.stderr)
    console.say("--- known vulnerabilities of the installed packages")
    for line in lines:
        console.say(line)
    return lines


def told(output: str, errors: str) -> list[str]:
    """The report in lines. output: pip-audit's JSON, or whatever came instead; errors: what it said beside it."""
    try:
        packages: list[dict[str, Any]] = json.loads(output)["dependencies"]
        known = [(p["name"], p["version"], fault) for p in packages for fault in p.get("vulns", [])]
        skipped = [f"{p['name']}: not asked about ({p['skip_reason']})" for p in packages if "skip_reason" in p]
        found = [_line(name, version, fault) for name, version, fault in known]
    except (ValueError, KeyError, TypeError):
        said = [line.strip() for line in errors.splitlines() if line.strip()]
        return unasked(said[-1][:400] if said else "pip-audit said nothing")
    first = f"Packages asked about: {len(packages) - len(skipped)}. Known vulnerabilities: {len(found) or 'none'}."
    return [first, *found, *skipped]


def _line(name: str, version: str, fault: dict[str, Any]) -> str:
    names = ", ".join([fault["id"], *fault.get("aliases", [])])
    mended = ", ".join(fault.get("fix_versions", []))
    return f"VULNERABLE {name} {version}: {names}; " + (f"mended in {mended}" if mended else "no mended version yet")


def unasked(why: str) -> list[str]:
    """What stands in the report instead of an answer."""
    return [f"NOT ASKED: the database (osv.dev) could not be asked whether vulnerabilities are known: {why}"]
