"""The description of a dataset on disk, dataset.json: what it was made of, and the type of its maps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from engine.disk.images import replace_bytes
from engine.errors import UserError

DESCRIPTION = "dataset.json"
INDEX = "index.sqlite"


def read_description(folder: Path) -> dict[str, Any]:
    """Raises UserError where the folder is no dataset or is damaged."""
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
            "Scan the image folder again on the Dataset tab.",
        ) from error
    except ValueError as error:
        raise UserError(
            f"The dataset in {folder} is damaged.",
            f"{DESCRIPTION} cannot be read ({error}).",
            "Scan the image folder again on the Dataset tab.",
        ) from error
    return description


def write_description(folder: Path, description: dict[str, Any]) -> None:
    """In one go: whoever reads meanwhile finds the old one or the new one."""
    replace_bytes(folder / DESCRIPTION, json.dumps(description, indent=2, ensure_ascii=False).encode("utf-8"))
