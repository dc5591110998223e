"""Options that several commands have."""

from __future__ import annotations

import argparse
import tomllib
from collections.abc import Sequence
from typing import Any

from engine.config import changeable
from engine.config.presets import unflatten
from engine.errors import UserError


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Add the option --set for any setting of a run."""
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="any setting, for example train.steps=500"
    )


def add_changes(parser: argparse.ArgumentParser) -> None:
    """Add the option --set for the settings that may be changed at a resume. Its help is made from them."""
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help=f"resume with another value, for example optim.learning_rate=5e-6. One of: {', '.join(changeable())}",
    )


def parse_settings(pairs: Sequence[str]) -> dict[str, Any]:
    """["train.steps=500"] -> {"train": {"steps": 500}}. Values are read as TOML, else as text.

    Raises:
        UserError: no equals sign.
    """
    flat: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise UserError(f"--set {pair} was not understood.", "The equals sign is missing.", "Write NAME=VALUE.")
        try:
            flat[name.strip()] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            flat[name.strip()] = value
    return unflatten(flat)


def add_processes(parser: argparse.ArgumentParser) -> None:
    """Add the option --processes; see engine/cli/processes.py."""
    parser.add_argument(
        "--processes", type=int, default=1, metavar="N", help="run in N processes, one per graphics card"
    )
