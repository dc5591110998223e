"""dataset.json, the description of a dataset: where its images came from and which condition maps it has."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.conditions import registry
from engine.disk.durable import atomic_write_text
from engine.disk.syntax import fault
from engine.errors import UserError

DESCRIPTION = "dataset.json"
INDEX = "index.sqlite"
FIRST_GROUNDS, BY_CONTRAST = "white", "contrast"
"""How transparent parts are read: as by earlier versions, whose datasets do not say it; as in disk/transparency.py."""


def read_description(folder: Path) -> dict[str, Any]:
    """Reads dataset.json. Raises UserError if the folder is not a dataset or is damaged."""
    try:
        description = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        if not isinstance(description, dict) or not {"name", "source", "fingerprint"} <= description.keys():
            raise ValueError("entries are missing")
        if not (folder / INDEX).exists():
            raise FileNotFoundError(INDEX)
    except FileNotFoundError as error:
        raise UserError(
            f"{folder} is not a dataset.",
            f"{DESCRIPTION} or {INDEX} is missing.",
            "Read the image folder again on the Dataset tab.",
        ) from error
    except ValueError as error:
        raise UserError(
            f"The dataset in {folder} is damaged.",
            f"{DESCRIPTION} cannot be read: {fault(error) if isinstance(error, json.JSONDecodeError) else error}.",
            "Read the image folder again on the Dataset tab.",
        ) from error
    return description


def write_description(folder: Path, description: dict[str, Any]) -> None:
    """Replaces the file atomically, so a reader sees either the old description or the new one."""
    atomic_write_text(folder / DESCRIPTION, json.dumps(description, indent=2, ensure_ascii=False))


@dataclass(frozen=True)
class ConditionSpec:
    """The condition maps of a dataset."""

    type: str
    parameters: dict[str, Any]
    fingerprint: str
    """A hash of the type, its parameters and the resolution."""
    provided: bool = False
    """True: the maps came with the images. False: the app makes them and stores them in the dataset's folder."""
    resolution: int | None = None
    """Images are shrunk to this shorter side, in pixels, before extraction. None: they keep their size."""
    varied: int | None = None
    """Seed of the random parameters of each image (see engine.conditions.variation). None: fixed parameters."""


def specify(
    type: str,
    parameters: Mapping[str, Any],
    provided: bool,
    resolution: int | None = None,
    fingerprint: str | None = None,
    varied: int | None = None,
) -> ConditionSpec:
    """Builds a spec, with defaults for the parameters that are not given. Raises UserError for unknown ones."""
    resolved = registry.resolve_parameters(type, parameters)
    own = registry.get(type).identity(resolved)
    made_of = json.dumps([type, own, provided, resolution, *([] if varied is None else [varied])], sort_keys=True)
    fingerprint = fingerprint or hashlib.blake2b(made_of.encode(), digest_size=16).hexdigest()
    return ConditionSpec(type, resolved, fingerprint, provided, resolution, varied)
