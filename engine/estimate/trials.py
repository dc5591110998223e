"""What trials of this machine have measured, by settings; read without torch, so that the estimate can use it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Any

from engine.config import RunConfig
from engine.disk.durable import atomic_write_text
from engine.workspace.paths import Workspace

FILE = "measurements.json"
KEPT = 50


@dataclass(frozen=True)
class Measured:
    """A trial of three steps and one set of images."""

    seconds_per_step: float
    seconds_per_picture: float
    """Of the previews, with the sampling steps that were asked for."""
    peak_bytes: float
    """Most memory at any time: of the graphics card, or of the process where there is none."""
    on_card: bool
    rungs: tuple[str, ...] = ()
    """What had to be changed for it to fit, in words."""
    settings: dict[str, Any] = field(default_factory=dict)
    """The same as settings by dotted name."""


def key_of(config: RunConfig, machine: str) -> str:
    """Equal for runs that need the same time and memory at each step on the same machine."""
    train, optim = config.train, config.optim
    facts = [
        machine, config.model.base, config.data.resolution, train.batch_size, train.accumulation, train.precision,
        train.gradient_checkpointing, optim.optimizer, optim.ema_decay > 0, optim.ema_device,
        config.model.control_lora_rank, train.base_storage, optim.offload, train.attention, train.channels_last,
        train.compile,
    ]  # fmt: skip
    return hashlib.blake2b(json.dumps(facts).encode(), digest_size=8).hexdigest()


def read(workspace: Workspace, config: RunConfig, machine: str) -> Measured | None:
    """The newest trial of these settings; None where there was none."""
    entry = _entries(workspace).get(key_of(config, machine))
    try:
        return Measured(**{**entry, "rungs": tuple(entry["rungs"])}) if entry else None
    except (KeyError, TypeError):
        return None  # of another version: the trial can be made again


def write(workspace: Workspace, config: RunConfig, machine: str, measured: Measured) -> None:
    """Keep a trial; the oldest ones go."""
    key = key_of(config, machine)
    entries = {name: entry for name, entry in _entries(workspace).items() if name != key}
    entries = dict([*entries.items(), (key, asdict(measured))][-KEPT:])
    atomic_write_text(workspace.cache / FILE, json.dumps(entries, indent=1))


def _entries(workspace: Workspace) -> dict[str, Any]:
    try:
        return dict(json.loads((workspace.cache / FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}  # none yet, or damaged: a trial is cheap
