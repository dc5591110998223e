"""The report of a problem, to be copied: versions, card, settings, end of the log; with or without private data."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.config import RunConfig
from engine.config.presets import flatten
from engine.data.dataset import Dataset
from engine.errors import UserError
from engine.jobs.snapshot import Failure, JobSnapshot
from engine.machine.hardware import detect
from engine.machine.units import format_memory
from engine.runs.run import Run
from engine.support.doctor import versions
from engine.support.scrub import caption_in, private_words, scrub
from engine.workspace.paths import Workspace

LOG_LINES = 30
MOST_CHANGES = 20
LEFT_OUT = ("name", "data.dataset", "version")
"""Settings that only hold names the user has chosen."""


@dataclass(frozen=True)
class Report:
    """A problem report as plain text, in two versions."""

    public: str
    """Without folders, file names, captions and names."""
    full: str
    """With them."""


def compose(failure: Failure, workspace: Workspace, snapshot: JobSnapshot, run_name: str = "") -> Report:
    """Compose the report of a failure, with the settings and the log of a run if there is one."""
    run = _open(workspace, run_name)
    full = "\n".join(_lines(failure, snapshot, run)).rstrip()
    return Report(scrub(full, _private_strings(workspace, snapshot, run, full)), full)


def _lines(failure: Failure, snapshot: JobSnapshot, run: Run | None) -> list[str]:
    hardware = detect()
    found = ", ".join(f"{name} {version}" for name, version in versions().items() if version != "not installed")
    lines = [
        f"What happened: {failure.what}",
        f"Why: {failure.why}",
        f"What to try: {failure.try_this}",
        "",
        f"System: {platform.system()} {platform.release()} ({platform.machine()})",
        f"Card: {hardware.sentence}; {format_memory(hardware.ram_gib)} RAM",
        f"Versions: {found}",
    ]
    if run is not None:
        step = f"saved at step {run.last_step:,} of {run.config.train.steps:,}, {run.ending}"
        where = f"trained on {run.trained_on}; " if run.trained_on else ""
        lines += [f"Run: {where}{step}", f"Settings that are not the default: {_settings(run.config)}"]
        lines += [f"Changed at step {change.step:,}: {change.words}" for change in run.changes[-MOST_CHANGES:]]
    log = snapshot.log or (tuple(run.log_tail(LOG_LINES)) if run is not None else ())
    if log:
        lines += ["", "The log's end:", *log[-LOG_LINES:]]
    if failure.details:
        lines += ["", failure.details]
    return lines


def _settings(config: RunConfig) -> str:
    """The settings that are not at their default: ``train.steps=500, ...``."""
    default: dict[str, Any] = flatten(RunConfig().model_dump(mode="json"))
    changed = {
        key: value
        for key, value in flatten(config.model_dump(mode="json")).items()
        if key not in LEFT_OUT and value != default.get(key)
    }
    return ", ".join(f"{key}={value}" for key, value in changed.items()) or "none"


def _open(workspace: Workspace, run_name: str) -> Run | None:
    if not run_name:
        return None
    try:
        return Run(workspace.runs / run_name)
    except UserError:
        return None  # damaged; the failure says so


def _private_strings(workspace: Workspace, snapshot: JobSnapshot, run: Run | None, text: str) -> list[tuple[str, str]]:
    """Names and captions of this workspace that are in the text, with their replacements."""
    found = [(platform.node(), "<computer>")]
    found += [(name, "<dataset>") for name in workspace.dataset_names()]
    found += [(folder.name, "<run>") for folder in workspace.run_folders()]
    if run is not None:
        found += [(run.config.name, "<run>"), (run.config.model.controlnet, "<path>")]
        base = run.config.model.base
        if (workspace.models / base).exists() or Path(base).expanduser().exists():
            found.append((base, "<a model of the user's>"))
    for image in snapshot.preview.captions if snapshot.preview else ():
        found += caption_in(image, text)
    return found + list(private_words(_datasets(workspace), text))


def _datasets(workspace: Workspace) -> list[Dataset]:
    """All datasets that can be opened. A damaged one may be what the report is about."""
    found = []
    for name in workspace.dataset_names():
        try:
            found.append(Dataset.open(workspace.datasets / name))
        except UserError:
            continue
    return found
