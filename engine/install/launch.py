"""Hand over to the app or the demo, or run the checks, in the virtual environment."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence

from engine.install.audit import audit
from engine.install.browser import VARIABLE, find_browser
from engine.install.console import Console
from engine.install.layout import Layout, read_record


def hand_over(layout: Layout, arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Become ``python ...`` of the virtual environment: signals, output and exit status are the app's own.

    Windows cannot replace a process, so there the child gets Ctrl-C (as the whole console does) and we wait.
    """
    command = [str(layout.python), *arguments]
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
                continue  # the app received it too and is saving; wait for it


def run_checks(layout: Layout, console: Console, environment: Mapping[str, str], arguments: Sequence[str]) -> int:
    """Lint, format, types, tests: all of them, the tests last so that their summary closes the output. In continuous
    integration known vulnerabilities of the packages are reported below it; these fail nothing (engine/install/audit).

    Tests run in as many processes as there are cores, those with a browser among them: these wait for most of their
    time, which the others fill (tests/conftest.py orders them). Returns pytest's exit status, or that of the first
    check before it that failed. arguments: more for pytest.
    """
    browser = find_browser(read_record(layout), environment) or ""
    environment = {**environment, VARIABLE: browser}
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        environment.setdefault(name, "1")  # the models are tiny: more threads only get in each other's way
    processes = str(max(1, min(8, os.cpu_count() or 1)))
    parallel = ["pytest", "-n", processes, "--dist", "loadfile", "--no-loadscope-reorder"]
    checks = {
        "ruff check": ["ruff", "check", "."],
        "ruff format": ["ruff", "format", "--check", "."],
        "types": ["mypy"],
        "tests": [*parallel, "-m", "not long" if browser else "not browser and not long", *arguments],
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
