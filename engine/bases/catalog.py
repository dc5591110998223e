"""The base models that can be downloaded (presets/bases.toml), and whether each is on this computer. No torch."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from engine.config.presets import BASES_FILE, PRESETS_FOLDER, read_toml
from engine.disk.space import folder_bytes
from engine.errors import UserError, choose_from
from engine.families.facts import FACTS, NAMES
from engine.families.files import TEXT_ENCODERS
from engine.families.unsupported import is_left_out
from engine.families.weight_files import variant_of, weight_files
from engine.hub.address import named_by
from engine.workspace.paths import Workspace, in_hub_cache

INDEX = "model_index.json"
DENOISERS = tuple(sorted({facts.denoiser for facts in FACTS}))
WITH_WEIGHTS = (*DENOISERS, "vae", *TEXT_ENCODERS)
"""The folders of a base that contain weights."""
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")


@dataclass(frozen=True)
class CatalogBase:
    """One section of the list."""

    name: str
    title: str
    id: str
    """owner/name on the hub."""
    use: str
    """What it is for, in sentences."""
    licence: str
    licence_means: str
    """The licence in one sentence."""
    family: str
    """A name of ``FamilyFacts``."""
    resolution: int
    """In pixels."""
    min_vram_gib: float
    """The smallest card for which a preset trains on it, in GiB."""
    download_gb: float
    """Rough size of the download, in GiB."""


@dataclass(frozen=True)
class BaseState:
    """Whether a base is on this computer."""

    kind: Literal["downloaded", "partly downloaded", "not downloaded"]
    where: Path | None = None
    """Its folder, or that of the download that was started."""
    have: int = 0
    """Bytes on the disk of a download that was started."""


def catalog_bases(path: Path = PRESETS_FOLDER / BASES_FILE) -> list[CatalogBase]:
    """The list, in its own order.

    Raises:
        UserError: the file cannot be read, or an entry is missing, unknown or of another type.
    """
    return [_entry(path, name, values) for name, values in read_toml(path).items()]


def hub_id(name: str, bases: list[CatalogBase] | None = None) -> str:
    """The hub id that a person means: a name or title of the list, or any owner/name.

    Raises:
        UserError: it is none of these.
    """
    address = named_by(name)
    typed = address.id if address is not None and address.kind == "model" else name.strip().strip("/")
    bases = catalog_bases() if bases is None else bases
    for base in bases:
        if typed.lower() in (base.name, base.title.lower(), base.id.lower()):
            return base.id
    if HUB_ID.fullmatch(typed):
        return typed
    raise UserError(
        f"There is no base called {name.strip() or '(none given)'}.",
        "It is neither a name in the list nor a Hugging Face id such as owner/name.",
        choose_from((base.name for base in bases), typed),
    )


def state_of(workspace: Workspace, base_id: str) -> BaseState:
    """Whether a base of the hub is in the workspace's models, or in the hub library's cache. Asks no server."""
    from huggingface_hub import constants

    in_cache = in_hub_cache(Path(constants.HF_HUB_CACHE) / f"models--{base_id.replace('/', '--')}")
    for place in (workspace.models / base_id, workspace.downloaded_base(base_id), in_cache):
        if is_complete(place):
            return BaseState("downloaded", place)
    for place in (workspace.partial_base(base_id), workspace.downloaded_base(base_id)):
        if place.is_dir():
            return BaseState("partly downloaded", place, folder_bytes(place))
    return BaseState("not downloaded")


def is_complete(folder: Path) -> bool:
    """Whether a folder has the index of a base, and weights for each part that the index names."""
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    parts = [part for part in WITH_WEIGHTS if part in index and not is_left_out(index, part)]
    return any(part in DENOISERS for part in parts) and all(_has_weights(folder / part) for part in parts)


def _has_weights(part: Path) -> bool:
    """Whether weights are there, and if they are in shards, all of them."""
    files = weight_files(part)
    counts = [int(match[1]) for file in files if (match := re.search(r"-of-(\d{5})\.", file.name))]
    return variant_of(part) is not None and (not counts or len(files) == max(counts))


def _entry(path: Path, name: str, values: Any) -> CatalogBase:
    kinds: dict[str, type | tuple[type, ...]] = dict.fromkeys(
        ("title", "id", "use", "licence", "licence_means", "family"), str
    )
    kinds |= {"resolution": int, "min_vram_gib": (int, float), "download_gb": (int, float)}
    fault = ""
    if not isinstance(values, dict):
        fault = f"{name} is not a section."
    elif set(values) != set(kinds):
        fault = f"[{name}] must have exactly these entries: {', '.join(kinds)}."
    elif wrong := [key for key, kind in kinds.items() if not isinstance(values[key], kind)]:
        fault = f"{wrong[0]} of [{name}] is {values[wrong[0]]!r}."
    elif not HUB_ID.fullmatch(values["id"]):
        fault = f"id of [{name}] must have the form owner/name."
    elif values["family"] not in NAMES:
        fault = f"family of [{name}] must be one of {', '.join(NAMES)}."
    if fault:
        raise UserError(f"The list of bases {path} cannot be used.", fault, "Correct that section.")
    return CatalogBase(name, **values)
