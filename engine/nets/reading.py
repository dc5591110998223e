"""Reads a ControlNet from a file or folder of any kind, recognized by the tensors' names. Runs no code from it."""

from __future__ import annotations

import hashlib
import json
import pickle
import zipfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from engine.errors import UserError
from engine.families import facts as families
from engine.families.control_files import OTHER_MODELS, ControlFiles
from engine.families.pickled import load_tensors
from engine.machine.errors import is_of_machine
from engine.machine.units import GIB, format_bytes
from engine.nets.controlnet_files import CONFIG_KEY, WEIGHTS, locate_controlnet, read_config
from engine.runs.checkpoints import require_intact
from engine.workspace.base_reference import sha256_of

PICKLES = (".pth", ".pt", ".ckpt", ".bin")
ENDINGS = (".safetensors", *PICKLES)
MAX_PICKLE_BYTES = 16 * GIB


@dataclass(frozen=True)
class NetFile:
    """A ControlNet as a file holds it."""

    path: Path
    format: str
    """Name of an export format."""
    tensors: dict[str, torch.Tensor]
    """Under diffusers names; those of a Control-LoRA keep the file's names."""
    config: dict[str, Any] | None
    """The net's config, if the file has it."""
    metadata: dict[str, str]
    files: ControlFiles | None = None
    """The kind of net, by the tensors' names; None: a folder's, which its config shows."""
    needs_base: bool = False
    """The file holds only the difference to the base."""


def read_net_file(path: Path | str) -> NetFile:
    """Read a diffusers folder, a checkpoint's folder, a .safetensors file, or a .pth / .ckpt file of tensors alone.

    Raises:
        UserError: it is missing, half-written, holds program code, or is not a ControlNet.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        return _read_folder(path)
    if not path.is_file():
        raise UserError(
            f"The ControlNet {path.name} was not found.",
            f"{path} does not exist.",
            "Check the path, or choose it again.",
        )
    if path.suffix.lower() == ".safetensors":
        tensors, metadata = read_safetensors(path)
    elif path.suffix.lower() in PICKLES:
        tensors, metadata = read_pickle(path), {}
    else:
        raise UserError(
            f"{path.name} cannot be read as a ControlNet.",
            f"Its file type must be one of {', '.join(ENDINGS)}.",
            "Choose a file of one of these types, or a folder in diffusers layout.",
        )
    config = json.loads(metadata[CONFIG_KEY]) if CONFIG_KEY in metadata else None
    kind, format = recognize(tensors, path.name)
    needs_base = format == "control_lora" or kind.holds_difference(tensors)
    return NetFile(path, format, kind.plain_names(format, tensors), config, metadata, kind, needs_base)


def recognize(names: Collection[str], file: str) -> tuple[ControlFiles, str]:
    """Recognize the kind of control net, and its export format, by the tensors' names.

    Raises:
        UserError: it is not a ControlNet; says what the file looks like.
    """
    for kind in families.control_files():
        if kind.union_marks and any(name.startswith(kind.union_marks) for name in names):
            raise UserError(
                f"{file} cannot be used.",
                "It is a ControlNet Union (or ProMax): one net for many kinds of control images, with additional "
                "layers.",
                "Choose a ControlNet for one kind of control images.",
            )
        if format := kind.recognize(names):
            return kind, format
    looks = next((words for start, words in OTHER_MODELS if any(name.startswith(start) for name in names)), "")
    raise UserError(
        f"{file} is not a ControlNet.",
        f"It looks like {looks}." if looks else "None of its tensors has a name that is typical of a ControlNet.",
        f"Choose a ControlNet file for {' or '.join(facts.title for facts in families.FACTS)}.",
    )


def weight_files(path: Path) -> list[Path]:
    """The files from which ``read_net_file`` reads a net's weights.

    Raises:
        UserError: a folder has none.
    """
    if path.is_file():
        return [path]
    pickles = sorted(path.glob("*.bin")) if (path / "config.json").is_file() else []
    if pickles and not list(path.glob("*.safetensors")):
        return pickles
    folder = locate_controlnet(path)
    whole = folder / WEIGHTS
    return [whole] if whole.is_file() else sorted(folder.glob("*.safetensors"))


def net_sha256(path: Path | str) -> str:
    """SHA-256 of the file with a net's weights; of several files, that of their hashes in order.

    Raises:
        UserError: there is no such file, or a folder has none.
    """
    path = Path(path).expanduser()
    hashes = [sha256_of(file) for file in weight_files(path)]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


def _read_folder(path: Path) -> NetFile:
    files = weight_files(path)
    folder = files[0].parent
    config = {name: value for name, value in read_config(folder).items() if name != "_name_or_path"}
    parts: dict[str, torch.Tensor] = {}
    metadata: dict[str, str] = {}
    if files[0].suffix == ".bin":
        for file in files:
            parts |= read_pickle(file)
        return NetFile(path, "diffusers", parts, config, {})
    require_intact(folder.parent, f"{folder.name}/")  # a checkpoint has checksums, any other folder has none
    for file in files:  # diffusers splits a large net over several files
        part, metadata = read_safetensors(file)
        parts |= part
    return NetFile(path, "diffusers", parts, config, metadata)


@contextmanager
def opened_safetensors(path: Path) -> Iterator[Any]:
    """A file of which single tensors are read, with ``keys`` and ``get_tensor``.

    Raises:
        UserError: it is damaged or half-written.
    """
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (OSError, SafetensorError) as error:
        raise _damaged(path, str(error)) from error


def read_safetensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Read the tensors and the header's metadata of a file.

    Raises:
        UserError: it is damaged or half-written.
    """
    with opened_safetensors(path) as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dict)
        return tensors, dict(file.metadata() or {})


def read_pickle(path: Path) -> dict[str, torch.Tensor]:
    """Read the tensors of a file that torch.save wrote, by name. No code in it is run.

    Raises:
        UserError: it holds more than tensors, is too large, or damaged.
    """
    size = path.stat().st_size
    try:
        if zipfile.is_zipfile(path):  # a small archive may unpack into a huge one
            with zipfile.ZipFile(path) as archive:
                size = max(size, sum(entry.file_size for entry in archive.infolist()))
        if size > MAX_PICKLE_BYTES:
            raise UserError(
                f"{path.name} was not opened.",
                f"It unpacks to {format_bytes(size)}, more than a ControlNet has.",
                "Choose another file.",
            )
        found = load_tensors(path)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path.name} was not opened.",
            "It contains more than numbers, such as program code that would run on your computer, or it is damaged.",
            "Get the same net as a .safetensors file; such files cannot contain code.",
        ) from error
    except (OSError, RuntimeError, EOFError, zipfile.BadZipFile, ValueError, KeyError) as error:
        if is_of_machine(error):
            raise
        raise _damaged(path, str(error)) from error
    while isinstance(found, dict) and isinstance(found.get("state_dict"), dict):
        found = found["state_dict"]
    if not isinstance(found, dict):
        raise _damaged(path, "it contains no tensors with names")
    return {str(name): value for name, value in found.items() if isinstance(value, torch.Tensor)}


def _damaged(path: Path, why: str) -> UserError:
    reason = why.splitlines()[0][:200] if why else "it ends too early"
    return UserError(
        f"{path.name} cannot be read.", f"It is damaged or half-written: {reason}.", "Copy or download it again."
    )
