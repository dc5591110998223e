"""The steps of an installation: what they work on, what they consist of, and how they are run."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from engine.install.console import Console
from engine.install.hardware import GpuReport
from engine.install.layout import Layout
from engine.install.pip import Pip
from engine.install.torch_choice import Choice


@dataclass(frozen=True)
class Job:
    """The state that the steps of one installation share."""

    layout: Layout
    console: Console
    pip: Pip
    report: GpuReport
    choice: Choice
    base_python: str = getattr(sys, "_base_executable", None) or sys.executable
    continuous_integration: bool = False
    system: str = sys.platform


@dataclass(frozen=True)
class Step:
    """One step. ``done`` returns a note if there is nothing to do, else None. ``plan`` says what ``run`` would do."""

    title: str
    done: Callable[[Job], str | None]
    plan: Callable[[Job], str]
    run: Callable[[Job], str]


def run_steps(job: Job, steps: Sequence[Step]) -> None:
    """Run the steps that are not done yet. Raises InstallError at the first one that fails."""
    for number, step in enumerate(steps, 1):
        job.console.begin(number, len(steps), step.title)
        job.console.end(step.done(job) or step.run(job))


def print_plan(job: Job, steps: Sequence[Step]) -> None:
    """Print what ``run_steps`` would do now."""
    for number, step in enumerate(steps, 1):
        note_done = step.done(job)
        words = f"nothing to do ({note_done})" if note_done else f"would {step.plan(job)}"
        job.console.say(f"[{number}/{len(steps)}] {step.title}: {words}")
