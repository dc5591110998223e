"""Reports known vulnerabilities of the installed packages in continuous integration. It never fails the build.

The packages are pinned: a vulnerability that is published tomorrow must not break a commit that passed today, but it
must not be overlooked either. pip-audit asks osv.dev, which has the advisories of the Python Packaging Authority and
of GitHub.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from typing import Any

from engine.install.console import Console
from engine.install.layout import Layout

LIMIT_SECONDS = 180
"""For the whole report; each of the 150 packages is one short request."""
COMMAND = (
    "pip_audit", "--vulnerability-service", "osv", "--format", "json", "--desc", "off", "--progress-spinner", "off",
    "--timeout", "15",
)  # fmt: skip


def audit(layout: Layout, console: Console, environment: Mapping[str, str], limit: float = LIMIT_SECONDS) -> list[str]:
    """Look up every package of the virtual environment, print the report and return its lines.

    Never raises: if the database cannot be queried, the report says so and why.
    """
    command = [str(layout.python), "-m", *COMMAND]
    try:
        done = subprocess.run(
            command,
            cwd=layout.root,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=limit,
            check=False,
        )
    except subprocess.TimeoutExpired:
        lines = not_checked(f"it did not respond within {limit:.0f} seconds")
    except OSError as error:
        lines = not_checked(f"pip-audit could not be started: {error}")
    else:
        lines = parse_report(done.stdout, done.stderr)
    console.say("--- known vulnerabilities of the installed packages")
    for line in lines:
        console.say(line)
    return lines


def parse_report(output: str, errors: str) -> list[str]:
    """The lines of the report.

    Args:
        output: pip-audit's JSON, or what it printed instead.
        errors: its stderr.
    """
    try:
        packages: list[dict[str, Any]] = json.loads(output)["dependencies"]
        known = [(p["name"], p["version"], fault) for p in packages for fault in p.get("vulns", [])]
        skipped = [f"{p['name']}: not looked up ({p['skip_reason']})" for p in packages if "skip_reason" in p]
        found = [_line(name, version, fault) for name, version, fault in known]
    except (ValueError, KeyError, TypeError):
        lines = [line.strip() for line in errors.splitlines() if line.strip()]
        return not_checked(lines[-1][:400] if lines else "pip-audit printed nothing")
    first = f"Packages looked up: {len(packages) - len(skipped)}. Known vulnerabilities: {len(found) or 'none'}."
    return [first, *found, *skipped]


def _line(name: str, version: str, fault: dict[str, Any]) -> str:
    names = ", ".join([fault["id"], *fault.get("aliases", [])])
    fixed = ", ".join(fault.get("fix_versions", []))
    return f"VULNERABLE {name} {version}: {names}; " + (f"fixed in {fixed}" if fixed else "no fixed version yet")


def not_checked(why: str) -> list[str]:
    """The report if the database could not be queried."""
    return [f"NOT CHECKED: the vulnerability database (osv.dev) could not be queried: {why}"]
