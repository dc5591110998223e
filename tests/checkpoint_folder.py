"""A whole checkpoint on disk, as a run writes it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

ABOUT: dict[str, Any] = {
    "step": 500,
    "images_seen": 2000,
    "has_ema": True,
    "app": "0.1.0",
    "family": "sd1",
    "base": "/home/somebody/private/my-base",
    "condition": {"type": "canny", "parameters": {"low": 50, "high": 150, "blur": 0.0}},
    "dataset_fingerprint": "abc",
    "run": "2026-01-01_secret-project",
}


def write_checkpoint(folder: Path, net: Path, **changes: Any) -> Path:
    """checkpoint.json, controlnet/ and controlnet_ema/ (the same weights, halved)."""
    shutil.copytree(net, folder / "controlnet")
    config = json.loads((net / "config.json").read_text(encoding="utf-8"))
    config["_name_or_path"] = "/home/somebody/private/controlnet"
    (folder / "controlnet" / "config.json").write_text(json.dumps(config), encoding="utf-8")
    shutil.copytree(folder / "controlnet", folder / "controlnet_ema")
    weights = load_file(net / "diffusion_pytorch_model.safetensors")
    halved = {name: weight / 2 for name, weight in weights.items()}
    save_file(halved, folder / "controlnet_ema" / "diffusion_pytorch_model.safetensors")
    files = {p.relative_to(folder).as_posix(): p.stat().st_size for p in folder.rglob("*") if p.is_file()}
    (folder / "checkpoint.json").write_text(json.dumps(ABOUT | {"files": files} | changes), encoding="utf-8")
    return folder
