"""The report of ``--doctor``: what is installed, what is wrong and how to fix it. Changes nothing."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from engine.install import preflight
from engine.install.browser import find_browser
from engine.install.console import InstallError
from engine.install.edition import edition
from engine.install.exchange import read_journal
from engine.install.hardware import GpuReport, detect_gpus, free_disk_gb, memory_gb
from engine.install.layout import Layout, clean_environment, installed_torch, read_record, stamp
from engine.install.other_cards import OtherCard
from engine.install.packages import OPTIONAL, PACKAGES
from engine.install.steps import driver_advice, is_ready, torch_suits
from engine.install.torch_choice import Choice, choose

BEGIN = "----- ControlNet Studio, state of the installation: to report a problem, paste all from here -----"
END = "----- to here -----"
LOOK = """
import importlib, importlib.metadata, json, sys
answer = {}
for name in sys.argv[1:]:
    try:
        module = importlib.import_module(name)
        answer[name] = str(getattr(module, "__version__", "")) or "installed"
    except Exception as error:
        answer[name] = "!" + type(error).__name__ + ": " + str(error)[:150]
try:
    from engine.machine.cards import use_one
    use_one()
    from engine.machine.device import card_name, is_card, torch_device
    device = torch_device()
    answer["card"] = card_name(device) if is_card(device) else ""
except Exception as error:
    answer["card"] = "!" + str(error)[:150]
print("\\n" + json.dumps(answer))
"""


@dataclass(frozen=True)
class Finding:
    """One line of the report. ``problem`` and ``fix`` are "" if nothing is wrong; a missing extra is not a problem."""

    name: str
    value: str
    problem: str = ""
    fix: str = ""

    def __str__(self) -> str:
        line = f"{'!' if self.problem else ' '} {self.name:<16} {self.value}"
        return line + (f"\n    wrong: {self.problem}\n    fix:   {self.fix}" if self.problem else "")


def examine(layout: Layout, look: Callable[[Layout], dict[str, str]] | None = None) -> list[Finding]:
    """Return all findings.

    Args:
        look: imports the packages in the virtual environment, in a child process, and returns their versions; tests
            pass their own.
    """
    report = detect_gpus()
    record = read_record(layout)
    choice = choose(report, force_cpu=bool(record.get("cpu")), maker=record.get("maker", ""))
    findings = [
        Finding("system", f"{platform.system()} {platform.release()} {platform.machine()}"),
        _folder(layout, choice),
        Finding("version", edition(layout.root), *_interrupted(layout)),
        Finding("memory", f"{memory_gb():.0f} GB"),
        Finding("disk", f"{free_disk_gb(layout.root):.0f} GB free"),
        Finding("installer runs in", f"Python {platform.python_version()}, {sys.executable}"),
        *_cards(report, choice),
        *_environment(layout, choice),
    ]
    if layout.python.exists():
        complete = record.get("requirements.txt") == stamp(layout)
        findings += _packages((look or _look)(layout), choice, complete)
    findings.append(Finding("test browser", find_browser(record) or "none (only the browser tests need one)"))
    findings.append(Finding("log", str(layout.log) if layout.log.exists() else "none yet"))
    return findings


def report(root: Path) -> tuple[str, bool]:
    """Return the report as text, and whether everything is well."""
    findings = examine(Layout(root))
    wrong = [finding for finding in findings if finding.problem]
    verdict = f"{len(wrong)} problem(s), see the lines with '!'." if wrong else "No problems were found."
    lines = [BEGIN, *map(str, findings), "", verdict, END]
    return without_user("\n".join(lines)), not wrong


def without_user(text: str) -> str:
    """The text with "~" for the user's folder and "USER" for the user's name in paths, so that it can be published."""
    home = Path.home()
    for folder in {str(home), str(home.resolve())} - {"", "/", "/root"}:
        text = text.replace(folder, "~")
    text = re.sub(r"([\\/](?:home|Users|users|Documents and Settings)[\\/])[^\\/\r\n]+", r"\1USER", text)
    return text


def _folder(layout: Layout, choice: Choice) -> Finding:
    try:
        warnings = preflight.check(layout.root, choice.build, fresh=not installed_torch(layout)[0])
    except InstallError as error:
        return Finding("app folder", str(layout.root), error.cause, error.fix)
    return Finding("app folder", "; ".join([str(layout.root), *warnings]))


def _interrupted(layout: Layout) -> tuple[str, str]:
    """The problem and the fix if an update was killed."""
    if read_journal(layout) is None:
        return "", ""
    return "An update was interrupted.", "Start install.sh or install.bat: the previous version is restored."


def _cards(report: GpuReport, choice: Choice) -> list[Finding]:
    findings = [Finding("NVIDIA card", gpu.label) for gpu in report.gpus]
    if report.problem or not (report.gpus or report.others):
        fix = "Reinstall the driver from nvidia.com/drivers and restart." if report.problem else ""
        findings.append(Finding("NVIDIA card", "none found", report.problem, fix))
    for card in report.others:
        if report.gpus and (choice.gpu or choice.build != card.build):
            findings.append(Finding(f"{card.maker} card", f"{card.label}, not used"))
        else:
            findings.append(Finding(f"{card.maker} card", card.label, card.why_not, _fix(card)))
    if report.gpus and choice.build == "cpu" and not choice.forced:
        findings.append(Finding("use of the card", "not possible", choice.warnings[0], "See the line above."))
    return findings


def _fix(card: OtherCard) -> str:
    """What to do about a card without a build; "" if it has one."""
    if card.build:
        return ""
    return "None: the app uses the processor." if "PyTorch" in card.why_not else "See the line above, then start again."


def _environment(layout: Layout, choice: Choice) -> list[Finding]:
    version = layout.python_version()
    if not version or not layout.python.exists():
        return [Finding("environment", "none", "Nothing is installed yet.", "Start install.sh or install.bat.")]
    torch, build = installed_torch(layout)
    findings = [Finding("environment", f"Python {version} in {layout.venv}")]
    if not torch:
        findings.append(
            Finding("torch", "none", "PyTorch is missing or only partly installed.", "Start the installer again.")
        )
    elif not torch_suits(layout, choice, sys.platform):
        wanted = f"PyTorch {torch} does not suit this computer; {choice.wanted} would."
        findings.append(
            Finding("torch", torch, wanted, "Start the installer again; if the problem remains, use --repair.")
        )
    else:
        findings.append(Finding("torch", f"{torch} ({build})"))
    if torch and not is_ready(layout, None):
        findings.append(
            Finding("installation", "incomplete", "An installation step is missing.", "Start the installer again.")
        )
    return findings


def _packages(found: dict[str, str], choice: Choice, complete: bool) -> list[Finding]:
    """``complete``: all were installed once, so that one that is missing is damage and not still to come."""
    findings = []
    for name in PACKAGES:
        value = found.get(name, "!not checked")
        wrong = value[1:] if value.startswith("!") else ""
        if wrong and not complete:
            findings.append(Finding(name, "not installed yet"))
            continue
        fix = "Start again with --repair." if wrong else ""
        findings.append(Finding(name, "broken" if wrong else value, wrong, fix))
    for name in OPTIONAL:
        value = found.get(name, "!")
        findings.append(Finding(name, "not in use (optional)" if value.startswith("!") else value))
    card = found.get("card", "")
    if complete and choice.build != "cpu" and (not card or card.startswith("!")):
        why = card.lstrip("!") or "it finds none"
        fix = f"{driver_advice(choice)}."
        findings.append(Finding("torch on the card", "no", f"PyTorch cannot use the card: {why}", fix))
    elif card and not card.startswith("!"):
        findings.append(Finding("torch on the card", card))
    return findings


def _look(layout: Layout) -> dict[str, str]:
    try:
        outcome = subprocess.run(
            [str(layout.python), "-c", LOOK, *PACKAGES, *OPTIONAL],
            cwd=layout.root,
            env=clean_environment(os.environ),
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=300,
            check=False,
        )
        answer = json.loads(outcome.stdout.strip().splitlines()[-1])
    except (OSError, subprocess.TimeoutExpired, ValueError, IndexError) as error:
        return {name: f"!the environment's Python does not respond ({type(error).__name__})" for name in PACKAGES}
    return answer
