"""Imports a net as a run of its own, so that it can be tried, compared, exported and trained further."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.conditions import registry
from engine.config.presets import resolve
from engine.disk.durable import ChecksumPool, atomic_write_text
from engine.disk.in_use import clear
from engine.disk.typed_path import typed_path
from engine.families.distilled import usual_settings
from engine.families.registry import detect
from engine.jobs.control import CancelToken, OnProgress
from engine.nets.importing import Imported, read_controlnet, store
from engine.runs.checkpoints import DESCRIPTION, describe_files, description_checksum
from engine.runs.known_bases import known_schedule
from engine.runs.run import Run, write_run
from engine.version import VERSION
from engine.workspace.paths import Workspace


def import_as_run(
    workspace: Workspace,
    path: Path | str,
    base: str,
    condition: str = "",
    name: str = "",
    token: CancelToken | None = None,
    progress: OnProgress | None = None,
) -> Run:
    """Read a ControlNet from a file or folder and keep it as a finished run with one checkpoint.

    Args:
        base: the base it was made for, as in the settings.
        condition: type of the control images it reads; empty: the type in the file's header, else "own" (ready maps).
        name: of the run; empty: the file's name.

    Raises:
        UserError: see ``read_controlnet``. Nothing is left behind.
    """

    def stage(done: int, label: str) -> None:
        if token:
            token.raise_if_cancelled()
        if progress:
            progress(done, 3, label)

    stage(0, "Reading")
    path = Path(path).expanduser()
    path = Path(typed_path(path))
    located = workspace.locate_base(base)
    family = detect(located)
    found = read_controlnet(path, family, located)
    about = condition_of(found, condition)
    steps = max(1, int(found.metadata.get("steps") or 1))
    layer = found.metadata.get("clip_skip", "")
    side = int(found.metadata.get("resolution") or family.default_resolution(located))
    config, _ = resolve(
        *usual_settings(workspace, base),
        (
            path.name,
            {
                "name": name or path.stem,
                "model": {"base": base, "clip_skip": int(layer) if layer.isdecimal() else 1},
                "data": {"resolution": side},
                "train": {"steps": steps},
            },
        ),
    )
    stage(1, "Writing")
    folder = workspace.new_run(config.name)
    try:
        checkpoint = folder / "checkpoints" / f"step-{steps:06d}"
        store(found, checkpoint / "controlnet")
        with ChecksumPool() as pool:
            pool.add(checkpoint / "controlnet")
        stage(2, "Writing")
        facts = {
            "condition": about,
            "dataset_fingerprint": found.metadata.get("dataset_fingerprint", ""),
            "base": base,
            "family": family.name,
            "step": steps,
            "images_seen": int(found.metadata.get("images_seen") or 0),
            "has_ema": False,
            "noise_schedule": known_schedule(workspace, located),
            "app": VERSION,
            **describe_files(checkpoint, pool.checksums()),
        }
        atomic_write_text(checkpoint / DESCRIPTION, json.dumps(facts | {"seal": description_checksum(facts)}, indent=2))
        run = {
            "config": config.model_dump(mode="json"),
            "origins": {},
            "condition": about,
            "dataset_fingerprint": facts["dataset_fingerprint"],
            "imported_from": path.name,
            "versions": {"app": VERSION, "python": platform.python_version()},
        }
        write_run(folder, run)  # last, because it makes the folder a run
    except BaseException:
        clear(folder)
        raise
    stage(3, "Done")
    return Run(folder)


def condition_of(found: Imported, condition: str) -> dict[str, Any]:
    """Condition type and parameters: the chosen ones, those in the file's header, or ready maps."""
    declared = found.metadata.get("condition_type", "")
    known = {kind.name for kind in registry.all()}
    name = condition or (declared if declared in known else "own")
    parameters: Mapping[str, Any] = {}
    if name == declared:
        parameters = json.loads(found.metadata.get("condition_parameters") or "{}")
    stored = registry.stored_parameters(name, parameters) if parameters else {}
    return {"type": name, "parameters": registry.resolve_parameters(name, stored)}
