"""Measurements of trials on this machine, kept by settings. Loads no torch, so that the estimate can read them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Any

from engine.config import RunConfig, speed_settings
from engine.disk.durable import atomic_write_text
from engine.workspace.paths import Workspace

FILE = "measurements.json"
KEPT = 50
ADDED = {"train.allow_tf32": False, "train.cudnn_benchmark": False, "train.deterministic": False}
"""Settings that came after trials were first kept, with the values of before. These stay out of a trial's key."""


@dataclass(frozen=True)
class Measured:
    """What a trial of three steps and one set of preview images measured."""

    seconds_per_step: float
    seconds_per_picture: float
    """For one preview image, with the run's sampling steps."""
    peak_bytes: float
    """Peak memory: of the graphics card, or of the process if there is none."""
    on_card: bool
    rungs: tuple[str, ...] = ()
    """What had to be changed for it to fit, for people."""
    settings: dict[str, Any] = field(default_factory=dict)
    """The same as settings by dotted name."""


def key_of(config: RunConfig, machine: str) -> str:
    """Equal for settings with which a step takes the same time and memory on the same machine."""
    settings = {name: value for name, value in speed_settings(config).items() if ADDED.get(name) != value}
    facts = [machine, *sorted(settings.items())]
    return hashlib.blake2b(json.dumps(facts).encode(), digest_size=8).hexdigest()


def former_key_of(config: RunConfig, machine: str) -> str:
    """The key under which versions before ``affects_speed`` kept a trial: other settings were not in it."""
    train, optim = config.train, config.optim
    facts = [
        machine,
        config.model.base,
        config.data.resolution,
        train.batch_size,
        train.accumulation,
        train.precision,
        train.gradient_checkpointing,
        optim.optimizer,
        optim.ema_decay > 0,
        optim.ema_device,
        config.model.control_lora_rank,
        train.base_storage,
        optim.offload,
        train.attention,
        train.channels_last,
        train.compile,
    ]
    return hashlib.blake2b(json.dumps(facts).encode(), digest_size=8).hexdigest()


def read(workspace: Workspace, config: RunConfig, machine: str) -> Measured | None:
    """The newest trial with these settings, or None."""
    entries = _entries(workspace)
    entry = entries.get(key_of(config, machine))
    if entry is None and not any(speed_settings(config).get(name, value) != value for name, value in ADDED.items()):
        entry = entries.get(former_key_of(config, machine))
    try:
        return Measured(**{**entry, "rungs": tuple(entry["rungs"])}) if entry else None
    except (KeyError, TypeError):
        return None  # written by another version: the trial can be repeated


def write(workspace: Workspace, config: RunConfig, machine: str, measured: Measured) -> None:
    """Keep a trial, and drop the oldest ones beyond KEPT."""
    key = key_of(config, machine)
    entries = {name: entry for name, entry in _entries(workspace).items() if name != key}
    entries = dict([*entries.items(), (key, asdict(measured))][-KEPT:])
    atomic_write_text(workspace.cache / FILE, json.dumps(entries, indent=1))


def _entries(workspace: Workspace) -> dict[str, Any]:
    try:
        return dict(json.loads((workspace.cache / FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}  # none yet, or damaged: a trial takes little time
