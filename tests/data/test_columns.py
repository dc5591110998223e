"""The columns of a list on disk and of a table that is unpacked are told apart by the same names."""

from __future__ import annotations

import pytest

from engine.data.import_config import ImportConfig
from engine.data.layouts.columns import Column, roles_of
from engine.data.layouts.words import CAPTION, CAPTION_COLUMNS, IMAGE, IMAGE_COLUMNS, MAP, MAP_COLUMNS
from engine.data.sources import columns
from engine.data.sources.parquet import choose

FILES = {*IMAGE_COLUMNS, *MAP_COLUMNS, "depth_map", "mask"}


def in_a_list(names: list[str]) -> tuple[str | None, ...]:
    """The columns of the image, the caption and the map of a list whose other values are texts."""
    files = {name: 1.0 if name in FILES else 0.0 for name in names}
    sample = {name: Column(name, files[name], files[name], 4.0, 10, ()) for name in names}
    roles, _ = roles_of(sample, {})
    return tuple(next((name for name in names if roles[name] == role), None) for role in (IMAGE, CAPTION, MAP))


@pytest.mark.parametrize(
    "names",
    [
        ["image", "text"],
        ["original_image", "edit_prompt", "edited_image"],
        ["image", "edited_image", "caption"],
        ["source", "target", "prompt"],
        ["image", "conditioning_image", "mask", "description"],
        ["input_image", "output_image", "alt_text"],
        ["tags", "jpg", "hint"],
        ["image", "mask", "depth_map", "text"],
        ["image", "mask", "text"],
    ],
    ids=" ".join,
)
def test_a_list_and_a_table_are_read_alike(names: list[str]) -> None:
    table = choose(names, [name for name in names if name in FILES], ImportConfig())
    assert table == in_a_list(names)


@pytest.mark.parametrize("name", ["source", "mask", "control"])
def test_a_single_column_of_files_is_the_images(name: str) -> None:
    assert choose([name, "text"], [name], ImportConfig()) == (name, "text", None)


def test_no_name_means_two_things() -> None:
    listed = [*IMAGE_COLUMNS, *MAP_COLUMNS, *CAPTION_COLUMNS]
    assert len(set(listed)) == len(listed) and [name for name in listed if name != name.lower()] == []


@pytest.mark.parametrize(
    ("cell", "caption"),
    [
        (" a cat ", "a cat"),
        (["a cat", "a dog"], "a cat"),
        (("a cat", "a dog"), "a cat"),
        ([], ""),
        (None, ""),
        (7, "7"),
        ([{"from": "human", "value": "What is it?"}, {"from": "gpt", "value": "a cat"}], "a cat"),
    ],
)
def test_the_caption_in_a_cell(cell: object, caption: str) -> None:
    assert columns.text(cell) == caption
