"""Measurements of trials on this machine, kept by settings. Loads no torch, so that the estimate can read them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Any

from engine.config import RunConfig, speed_settings
from engine.disk.durable import atomic_write_text
from engine.estimate.memory import images_drawn_at_once
from engine.workspace.paths import Workspace

FILE = "measurements.json"
KEPT = 50
ADDED = {"train.allow_tf32": False, "optim.half_gradients": False, "train.modulation_storage": "base"}
"""Settings that came after trials were first kept, with the values of before, where these are not the defaults."""
FORMER_NAME = "rungs"
"""What earlier versions called ``Measured.fallbacks`` in their file."""
FORMER_SETTINGS = (
    "model.base",
    "data.resolution",
    "train.batch_size",
    "train.accumulation",
    "train.precision",
    "train.gradient_checkpointing",
    "optim.optimizer",
    "optim.ema_decay",
    "optim.ema_device",
    "model.control_lora_rank",
    "train.base_storage",
    "optim.offload",
    "train.attention",
    "train.channels_last",
    "train.compile",
)
"""What the key of the first versions consisted of."""


@dataclass(frozen=True)
class Measured:
    """Measurements from a trial of three steps and one set of preview images."""

    seconds_per_step: float
    seconds_per_picture: float
    """For one preview image, with the run's sampling steps."""
    peak_bytes: float
    """Peak memory: of the graphics card, or of the process if there is none."""
    on_card: bool
    fallbacks: tuple[str, ...] = ()
    """What had to be changed for it to fit, in words."""
    settings: dict[str, Any] = field(default_factory=dict)
    """The same, as settings by dotted name."""
    base_error: float | None = None
    """The base's own error on images of ``dataset`` (engine/training/base_check.py). None: not measured."""
    dataset: str = ""


def key_of(config: RunConfig, machine: str) -> str:
    """Equal for settings with which a step and preview images take the same time and memory on the same machine.

    Settings that are as they always were are left out, so that a new setting does not make older trials useless.
    """
    speed, usual = speed_settings(config), speed_settings(RunConfig()) | ADDED
    facts: dict[str, Any] = {name: value for name, value in speed.items() if value != usual[name]}
    drawn = images_drawn_at_once(config)
    facts["images at once"] = drawn
    facts["guided"] = bool(drawn) and config.validation.guidance_scale > 1  # else an image takes half the time
    return digest([machine, *sorted(facts.items())])


def read(workspace: Workspace, config: RunConfig, machine: str) -> Measured | None:
    """The newest trial with these settings, or None."""
    entries = _entries(workspace)
    entry = entries.get(key_of(config, machine)) or _former(entries, config, machine)
    if not entry:
        return None
    try:
        known = {name: value for name, value in entry.items() if name != FORMER_NAME}
        fallbacks = entry[FORMER_NAME] if FORMER_NAME in entry else entry["fallbacks"]
        return Measured(**{**known, "fallbacks": tuple(fallbacks)})
    except (KeyError, TypeError):
        return None  # written by another version: the trial can be repeated


def _former(entries: dict[str, Any], config: RunConfig, machine: str) -> dict[str, Any] | None:
    """A trial of a version whose key left out settings. It counts only for the usual values of those."""
    speed, usual = speed_settings(config), speed_settings(RunConfig()) | ADDED
    if any(speed[name] != usual[name] for name in speed if name not in FORMER_SETTINGS):
        return None
    entry: dict[str, Any] | None = entries.get(digest([machine, *(speed[name] for name in FORMER_SETTINGS)]))
    drew = entry is not None and bool(entry.get("seconds_per_picture"))
    return entry if drew == bool(config.validation.every) else None


def digest(facts: list[Any]) -> str:
    """The key of these plain values."""
    return hashlib.blake2b(json.dumps(facts).encode(), digest_size=8).hexdigest()


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
