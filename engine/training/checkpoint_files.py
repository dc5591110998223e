"""Reading checkpoints on disk, without torch: pages list them long before anything is loaded."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DESCRIPTION = "checkpoint.json"
TEMPORARY = ".writing-"
DECODER = "base_decoder/decoder.safetensors"
"""Beside the ControlNet's folder, where the base's decoder has learnt, too."""
FACTORS, AVERAGED_FACTORS = "control_lora/factors.safetensors", "control_lora/factors_ema.safetensors"
"""There, too, of a run that trains a Control-LoRA: what has learnt, under diffusers names with .up and .down."""


@dataclass(frozen=True)
class Checkpoint:
    """One whole checkpoint on disk."""

    folder: Path
    step: int
    images_seen: int
    has_ema: bool
    resumable: bool
    about: dict[str, Any]

    @property
    def trained_rank(self) -> int:
        """Of a Control-LoRA that was trained as one; 0: the whole net was, or this is an average of several."""
        there = (self.folder / FACTORS).is_file()
        return int((self.about.get("control_lora") or {}).get("rank", 0)) if there else 0

    @property
    def controlnet(self) -> Path:
        """The weights to use: the averaged ones where the run keeps an average."""
        return self.folder / ("controlnet_ema" if self.has_ema else "controlnet")


def read_checkpoint(folder: Path) -> Checkpoint | None:
    """The checkpoint in a folder, or None where it is not whole."""
    try:
        about = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        step, images_seen, files = int(about["step"]), int(about["images_seen"]), dict(about["files"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    for name, size in files.items():
        path = folder / name
        resume_state = name.startswith("training_state/")
        if not resume_state and (not path.is_file() or path.stat().st_size != size):
            return None
    state = [folder / name for name in files if name.startswith("training_state/")]
    return Checkpoint(
        folder=folder,
        step=step,
        images_seen=images_seen,
        has_ema=bool(about.get("has_ema")),
        resumable=bool(state) and all(path.is_file() for path in state),
        about=about,
    )


def list_checkpoints(run_folder: Path) -> list[Checkpoint]:
    """Whole checkpoints of a run, oldest first; half-written ones are never among them."""
    found = (read_checkpoint(folder) for folder in (run_folder / "checkpoints").glob("step-*"))
    return sorted((c for c in found if c is not None), key=lambda c: c.step)


def remove_rubbish(run_folder: Path) -> None:
    """Remove what a killed process left half-written."""
    for folder in (run_folder / "checkpoints").glob(f"{TEMPORARY}*"):
        shutil.rmtree(folder)


def prune(run_folder: Path, keep: int, best: int | None = None) -> list[Checkpoint]:
    """Remove all but the newest ``keep`` checkpoints (0: keep all) and that of step ``best``; returns what is gone."""
    extra = [old for old in list_checkpoints(run_folder)[:-keep] if old.step != best] if keep > 0 else []
    for checkpoint in extra:
        # Renamed first: a half-removed folder must not look like a checkpoint.
        doomed = checkpoint.folder.with_name(TEMPORARY + checkpoint.folder.name)
        os.replace(checkpoint.folder, doomed)
        shutil.rmtree(doomed)
    return extra
