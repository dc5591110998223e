"""The datasets that can be downloaded (presets/datasets.toml): whether each is here, and getting one. No torch."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from engine.config.presets import DATASETS_FILE, PRESETS_FOLDER, read_toml
from engine.data.dataset import Dataset
from engine.data.description import DESCRIPTION, read_description
from engine.data.import_config import ImportConfig
from engine.data.import_result import ImportResult
from engine.data.importing import IMAGES, import_source
from engine.data.sources.hub import hub_id, on_hub
from engine.disk.in_use import remove_folder
from engine.disk.space import folder_bytes
from engine.errors import UserError, choose_from
from engine.hub.download import ask, fetch
from engine.hub.faults import Repository
from engine.jobs.control import CancelToken, OnProgress
from engine.workspace.paths import Workspace


@dataclass(frozen=True)
class CatalogDataset:
    """One section of the list."""

    name: str
    """Also the name of the dataset that it becomes."""
    title: str
    id: str
    """owner/name on the hub."""
    use: str
    """What it holds and what a net learns from it, in sentences."""
    licence: str
    licence_means: str
    """The licence in a sentence or two."""
    images: int
    maps: bool
    """Each image comes with its control image."""
    download_mb: int
    """Rough size of the download, in MiB."""
    files: tuple[str, ...]
    """Names of the files that are read, with * for anything but a slash."""
    caption_column: str


@dataclass(frozen=True)
class DatasetState:
    """Whether a set is on this computer."""

    kind: Literal["downloaded", "partly downloaded", "not downloaded"]
    have: int = 0
    """Bytes on the disk of a download that was started."""


def catalog_datasets(path: Path = PRESETS_FOLDER / DATASETS_FILE) -> list[CatalogDataset]:
    """The list, in its own order.

    Raises:
        UserError: the file cannot be read, or an entry is missing, unknown or of another type.
    """
    return [_entry(path, name, values) for name, values in read_toml(path).items()]


def dataset_named(name: str) -> CatalogDataset:
    """The set with this name, title or id. Raises UserError if there is none."""
    typed, sets = name.strip().lower(), catalog_datasets()
    for one in sets:
        if typed in (one.name, one.title.lower(), one.id.lower()):
            return one
    raise UserError(
        f"There is no dataset called {name.strip() or '(none given)'} in the list.",
        "The list contains only a few datasets whose files are known.",
        f"{choose_from((one.name for one in sets), typed)} Any other dataset on the hub can be read by its id, "
        "owner/name.",
    )


def state_of(workspace: Workspace, one: CatalogDataset) -> DatasetState:
    """Whether a set is a dataset already, or its download was started. Asks no server."""
    folder = workspace.dataset_folder(one.name)
    if (folder / DESCRIPTION).exists() and read_description(folder).get("origin") == on_hub(one.id):
        return DatasetState("downloaded")
    partial = workspace.partial_dataset(one.name)
    return (
        DatasetState("partly downloaded", folder_bytes(partial)) if partial.is_dir() else DatasetState("not downloaded")
    )


def download_dataset(
    workspace: Workspace,
    one: CatalogDataset,
    token: CancelToken | None = None,
    progress: OnProgress | None = None,
    endpoint: str | None = None,
) -> ImportResult:
    """Download a set and make a dataset of it. What an earlier call has downloaded or unpacked is not done again.

    Args:
        token: a cancel keeps what is there.
        progress: called as progress(done, in all, label), first in megabytes, then in images.
        endpoint: of the hub; None: HF_ENDPOINT, else the public one.

    Raises:
        UserError: the hub cannot be reached or refuses, the disk is too small, another dataset has the name, or the set
            is no longer as the list says. Cancelled.
    """
    folder, downloaded = workspace.dataset_folder(one.name), workspace.partial_dataset(one.name)
    origin = on_hub(one.id)
    Dataset.check_name(folder, (folder / IMAGES).absolute(), origin)
    wanted = ask(Repository(one.id, "dataset"), lambda names: wanted_files(one, names), downloaded, token, endpoint)
    # Unpacked, images take about the same room again, until the download is removed.
    fetch(wanted, downloaded, downloaded, token, progress, endpoint, room=wanted.bytes)
    config = ImportConfig(caption_column=one.caption_column)
    result = import_source(workspace, str(downloaded), one.name, config, progress, token, origin=origin)
    remove_folder(downloaded)
    return result


def wanted_files(one: CatalogDataset, names: Sequence[str]) -> list[str]:
    """The files to download. Raises UserError if one of those that the list names is gone."""
    wanted: list[str] = []
    for pattern in one.files:
        depth = pattern.count("/")
        found = [name for name in names if name.count("/") == depth and fnmatch.fnmatchcase(name, pattern)]
        if not found:
            raise UserError(
                f"{one.id} has changed.",
                f"It no longer has a file {pattern}.",
                f"See its page on the hub. It can perhaps still be imported as a stream: import {one.id}",
            )
        wanted += [name for name in found if name not in wanted]
    return wanted


def _entry(path: Path, name: str, values: Any) -> CatalogDataset:
    kinds: dict[str, type] = dict.fromkeys((field.name for field in fields(CatalogDataset)), str)
    kinds |= {"images": int, "maps": bool, "download_mb": int, "files": list}
    del kinds["name"]
    fault = ""
    if not isinstance(values, dict):
        fault = f"{name} is not a section."
    elif set(values) != set(kinds):
        fault = f"[{name}] must have exactly these entries: {', '.join(kinds)}."
    elif wrong := [key for key, kind in kinds.items() if type(values[key]) is not kind]:
        fault = f"{wrong[0]} of [{name}] is {values[wrong[0]]!r}."
    elif not all(isinstance(file, str) and file for file in values["files"]) or not values["files"]:
        fault = f"files of [{name}] must name at least one file."
    elif hub_id(values["id"]) != values["id"]:
        fault = f"id of [{name}] must have the form owner/name."
    if fault:
        raise UserError(f"The list of datasets {path} cannot be used.", fault, "Correct that section.")
    return CatalogDataset(name, **{**values, "files": tuple(values["files"])})
