"""Starts the app, the demo or the checks in the virtual environment."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from engine.install.audit import audit
from engine.install.browser import VARIABLE, find_browser
from engine.install.console import Console
from engine.install.layout import Layout, read_record


def hand_over(
    layout: Layout, arguments: Sequence[str], environment: Mapping[str, str], python: Path | None = None
) -> int:
    """Replace this process with ``python ...``, by default the virtual environment's, which then receives all signals.

    Windows cannot replace a process. There, this process waits for a child, which receives Ctrl-C because the console
    sends it to all of its processes. Returns the child's exit status.
    """
    command = [str(python or layout.python), *arguments]
    sys.stdout.flush()
    sys.stderr.flush()
    if not layout.windows:
        os.chdir(layout.root)
        os.execve(command[0], command, dict(environment))
    with subprocess.Popen(command, cwd=layout.root, env=dict(environment)) as child:
        while True:
            try:
                return child.wait()
            except KeyboardInterrupt:
                continue  # the app has received it as well and is saving


def run_checks(
    layout: Layout, console: Console, environment: Mapping[str, str], arguments: Sequence[str], long: bool = False
) -> int:
    """Run lint, format, type check and tests. The tests are last, so that the output ends with their summary.

    In continuous integration, known vulnerabilities of the packages are reported after that, without failing the build
    (engine/install/audit.py). The tests run in one process per core and one more, at most 8: browser tests, and
    those that start programs, often wait (tests/conftest.py sets the order).

    Args:
        arguments: more arguments for pytest.
        long: run the tests marked ``long`` instead of the others.

    Returns:
        pytest's exit status, or that of the first check that failed.
    """
    browser = find_browser(read_record(layout), environment) or ""
    environment = {**environment, VARIABLE: browser}
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        environment.setdefault(name, "1")  # the models are tiny: more threads only slow each other down
    processes = str(min(8, 1 + (os.cpu_count() or 1)))
    parallel = ["pytest", "-n", processes, "--dist", "loadfile", "--no-loadscope-reorder"]
    chosen = "long" if long else "not long"
    checks = {
        "ruff check": ["ruff", "check", "."],
        "ruff format": ["ruff", "format", "--check", "."],
        "types": ["mypy"],
        "tests": [*parallel, "-m", chosen if browser else f"not browser and {chosen}", *arguments],
    }
    failed = {}
    for name, command in checks.items():
        console.say(f"--- {name}")
        code = subprocess.run(
            [str(layout.python), "-m", *command], cwd=layout.root, env=environment, check=False
        ).returncode
        console.record(f"  {name}: exit status {code}")
        if code:
            failed[name] = code
    if environment.get("CI", "").lower() == "true":
        audit(layout, console, environment)
    if failed:
        print(f"Failed: {', '.join(failed)}", file=sys.stderr)
    return failed.get("tests") or next(iter(failed.values()), 0)
