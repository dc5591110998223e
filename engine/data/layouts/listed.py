"""Images named in a list: metadata.jsonl or .csv (Hugging Face), train.jsonl, prompt.json (first ControlNet)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engine.data.layouts.model import IMAGE_FOLDERS, FolderLayout, FoundImage, subfolder
from engine.data.layouts.rows import Form, csv_rows, from_listing, json_rows
from engine.data.samples import Problem

METADATA = "metadata.jsonl"
_MAPS = ("conditioning_image_file_name", "conditioning_image", "conditioning_image_path")


def _listing(folder: Path, name: str) -> Path | None:
    """The list in the folder or in its folder of images."""
    places = (folder, subfolder(folder, IMAGE_FOLDERS))
    return next((place / name for place in places if place and (place / name).is_file()), None)


def _layout(name: str, title: str, file: str, form: Form, sure: bool = False) -> FolderLayout:
    """``sure``: the file's name is enough. Otherwise a row must name an image."""

    def names_image(row: Any) -> bool:
        return isinstance(row, dict) and any(column in row for column in form.images)

    def find(folder: Path, problems: list[Problem]) -> list[FoundImage] | None:
        listing = _listing(folder, file)
        if listing is None or not (sure or any(names_image(row) for _, row in form.read(listing))):
            return None
        return from_listing(folder, listing, form, problems)

    return FolderLayout(name, title, find)


METADATA_JSONL = _layout(
    "metadata", f"images listed in {METADATA}", METADATA, Form("JSON", json_rows, ("file_name",), _MAPS), sure=True
)
METADATA_CSV = _layout(
    "metadata_csv",
    "images listed in metadata.csv",
    "metadata.csv",
    Form("CSV", csv_rows, ("file_name", "image", "image_path"), _MAPS),
)
TRAIN_JSONL = _layout(
    "train_jsonl",
    "images listed in train.jsonl",
    "train.jsonl",
    Form("JSON", json_rows, ("image", "image_path", "file_name"), _MAPS),
)
PROMPT_JSON = _layout(
    "prompt_json",
    "pairs listed in prompt.json, as for the original ControlNet",
    "prompt.json",
    Form("JSON", json_rows, ("target",), ("source",)),
)
