"""Copies an export into the folder of ComfyUI or AUTOMATIC1111, or shows it in the file manager."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.disk.durable import move_into_place
from engine.disk.in_use import clear
from engine.disk.space import free_bytes
from engine.disk.typed_path import typed_path
from engine.errors import UserError
from engine.export.formats import ExportResult
from engine.export.writing import CARD_ENDING, FOLDER_MARKS, SPARE_BYTES
from engine.families.adapter_kinds import kind_of_file
from engine.families.drawing import ComfyNodes
from engine.families.facts import version_of
from engine.jobs.control import CancelToken, OnProgress
from engine.machine.errors import is_disk_full
from engine.machine.units import MIB

TEMPORARY = ".copying-"
CHUNK = 4 * 2**20
_NETS = "controlnet"
NET_ENDINGS = (".safetensors", ".pth")


@dataclass(frozen=True)
class Program:
    """A program that loads ControlNets from a folder of its own."""

    name: str
    title: str
    signs: tuple[str, ...]
    """A folder with any of these belongs to the program."""
    models: tuple[str, ...]
    """Folders for its ControlNets, the usual one first. The first that exists is used."""
    default: str
    """The folder to create if none exists."""


PROGRAMS: tuple[Program, ...] = (
    Program(
        "comfyui",
        "ComfyUI",
        ("comfy", "models/controlnet", "custom_nodes"),
        ("models/controlnet",),
        "models/controlnet",
    ),
    Program(
        "a1111",
        "AUTOMATIC1111 or Forge",
        ("webui.py", "modules/launch_utils.py", "extensions/sd-webui-controlnet", "models/ControlNet"),
        ("extensions/sd-webui-controlnet/models", "models/ControlNet"),
        "models/ControlNet",
    ),
)
NESTED = (
    "ComfyUI", "webui", "stable-diffusion-webui", "stable-diffusion-webui-forge", "app", "server/ComfyUI",
    "ComfyUI_windows_portable/ComfyUI",
)  # fmt: skip
"""Portable packages, Pinokio and Krita's plugin hold the program in a subfolder with one of these names."""

SHARED = ("Data/Models", "Models", "SwarmUI/Models", "")
"""Folders of models that several programs share, in Stability Matrix, SwarmUI and similar shells; "": such a folder
itself."""
INVOKE_SIGNS = ("invokeai.yaml", "databases/invokeai.db", "autoimport")
INVOKE_FOLDER = "autoimport/controlnet"
"""InvokeAI takes models from any folder that its Model Manager is told to scan."""


A1111_EXTENSION = "extensions/sd-webui-controlnet/models"
FOLDERS_OF_KIND = {
    "lora": ("loras", "Lora"),
    "embedding": ("embeddings", "../embeddings"),
    "base": ("checkpoints", "Stable-diffusion", "StableDiffusion"),
}
"""Folders beside those of ControlNets: ComfyUI's, AUTOMATIC1111's, and those of others."""


def program(name: str) -> Program:
    """Find a program by name."""
    return next(program for program in PROGRAMS if program.name == name)


def models_folder(chosen: Path | str, wanted: Program) -> Path:
    """Find the ControlNet folder in the chosen program folder; the ControlNet folder itself may be chosen, too.

    Raises:
        UserError: the folder does not belong to that program.
    """
    folder = Path(typed_path(chosen))
    if not str(chosen).strip() or not folder.is_dir():
        raise UserError(
            f"The folder of {wanted.title} was not found.",
            f"{chosen or 'Nothing'} is not a folder.",
            f"Enter the folder in which {wanted.title} is installed.",
        )
    for candidate in (folder, *(folder / name for name in NESTED)):
        if _belongs(candidate, wanted):
            places = [candidate / place for place in wanted.models if _is_dir_exactly(candidate, place)]
            return places[0] if places else candidate / wanted.default
    if any(_exists_exactly(folder, sign) for sign in INVOKE_SIGNS):
        return folder / INVOKE_FOLDER
    for place in SHARED:
        if not place or _is_dir_exactly(folder, place):
            found = next((path for path in (folder / place).iterdir() if path.name.casefold() == _NETS), None)
            if found is not None and found.is_dir():
                return found
            if place and _exists_exactly(folder / place, "Stable-Diffusion"):  # SwarmUI, before it has any
                return folder / place / _NETS
    itself = folder.resolve()
    if itself.name.casefold() == "controlnet" and itself.parent.name.casefold() == "models":
        return folder
    if any(itself.as_posix().endswith("/" + place) for place in wanted.models):
        return folder
    raise UserError(
        f"{folder} does not look like {wanted.title}.",
        f"It contains none of {', '.join(wanted.signs)}.",
        f"Enter the folder in which {wanted.title} is installed, or its {wanted.default}.",
    )


def next_step(copied: Path, wanted: Program) -> str:
    """What to do in the program after a file was copied into its folder, as a sentence."""
    if copied.parent.as_posix().endswith("/" + INVOKE_FOLDER):
        return f"In InvokeAI, choose Model Manager, Add models, Scan folder, and give it {copied.parent}."
    return f"In {wanted.title}, refresh the list of models."


def folder_of_kind(folder: Path, file: Path) -> Path:
    """The folder for this file beside the program's ControlNets: programs have one for each kind of file."""
    kind = kind_of_file(file)
    if kind in FOLDERS_OF_KIND:
        extension = folder.as_posix().endswith("/" + A1111_EXTENSION)
        models = folder.parents[2] / "models" if extension else folder.parent
        names = FOLDERS_OF_KIND[kind]
        there = {path.name.casefold(): path for path in models.iterdir()} if models.is_dir() else {}
        usual = names[0] if folder.name == _NETS else names[1]
        if usual == "../embeddings":
            return models.parent / "embeddings"
        return next((there[name.casefold()] for name in names if name.casefold() in there), models / usual)
    family = version_of(file.stem)
    beside = family.comfy.folder if family else folder.name
    return folder.with_name(beside) if folder.name == ComfyNodes().folder else folder


def _belongs(folder: Path, wanted: Program) -> bool:
    return any(_exists_exactly(folder, sign) for sign in wanted.signs)


def _exists_exactly(folder: Path, relative: str) -> bool:
    """Whether a path exists with exactly this case, also on disks that ignore it (``controlnet``, ``ControlNet``)."""
    for part in relative.split("/"):
        try:
            if part not in {entry.name for entry in folder.iterdir()}:
                return False
        except OSError:
            return False
        folder = folder / part
    return True


def _is_dir_exactly(folder: Path, relative: str) -> bool:
    return _exists_exactly(folder, relative) and (folder / relative).is_dir()


def exports_in(folder: Path) -> list[ExportResult]:
    """The exports in a run's exports folder, newest first, each with its card."""
    if not folder.is_dir():
        return []
    nets = [p for p in folder.iterdir() if p.suffix in NET_ENDINGS or any((p / m).is_file() for m in FOLDER_MARKS)]
    found = []
    for path in sorted(nets, key=lambda path: path.stat().st_mtime, reverse=True):
        if path.name.startswith("."):
            continue  # being written
        card = path if path.is_dir() else path.with_name(path.stem + CARD_ENDING)
        size = sum(p.stat().st_size for p in (path.rglob("*") if path.is_dir() else [path]) if p.is_file())
        found.append(ExportResult(path, size, "", card if card.is_dir() else None))
    return found


def copy_to(
    file: Path,
    folder: Path,
    overwrite: bool = False,
    token: CancelToken | None = None,
    progress: OnProgress | None = None,
) -> Path:
    """Copy an exported file under its own name. The new file appears complete or not at all.

    Args:
        progress: called as progress(megabytes done, in all, label).

    Raises:
        UserError: a file of that name exists, the disk is full, or it cannot be written.
        Cancelled: the token is cancelled; nothing is left behind.
    """
    if not file.is_file():
        raise UserError(
            f"{file.name} cannot be copied there.",
            "It is a folder for diffusers or was removed; these programs load single files.",
            "Export one file (.safetensors) and copy that.",
        )
    target = folder / file.name
    if target.exists() and not overwrite:
        raise UserError(
            f"{file.name} already exists there.",
            f"{folder} contains a file of this name, and nothing is overwritten without your permission.",
            "Allow replacing it, or export under another name.",
        )
    temporary = target.with_name(TEMPORARY + target.name)
    total = file.stat().st_size
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if free_bytes(folder) < total + SPARE_BYTES:
            raise _disk_full(file.name)
        copy_into(file, temporary, total, token, progress)
        move_into_place(temporary, target)
    except OSError as error:
        if is_disk_full(error):
            raise _disk_full(file.name) from error
        raise UserError(
            f"{file.name} could not be copied.", f"{folder}: {error.strerror or error}.", "Choose another folder."
        ) from error
    finally:
        clear(temporary)
    return target


def copy_into(source: Path, target: Path, total: int, token: CancelToken | None, progress: OnProgress | None) -> None:
    done = 0
    with source.open("rb") as read, target.open("wb") as write:
        while chunk := read.read(CHUNK):
            if token:
                token.raise_if_cancelled()
            write.write(chunk)
            done += len(chunk)
            if progress:
                progress(done // MIB, total // MIB, "Copying, MB")


def _disk_full(name: str) -> UserError:
    return UserError(
        f"{name} was not copied.", "The disk of that folder is full.", "Free some space, or choose another folder."
    )


def opening_command(folder: Path, platform: str = sys.platform) -> Sequence[str] | None:
    """The command that shows a folder; None on Windows, which has its own function for it."""
    if platform == "win32":
        return None
    return ["open" if platform == "darwin" else "xdg-open", str(folder)]


def open_folder(folder: Path) -> None:
    """Show a folder in the system's file manager.

    Raises:
        UserError: the system has no file manager.
    """
    command = opening_command(folder)
    try:
        if command is None:
            os.startfile(folder)  # type: ignore[attr-defined, unused-ignore]
        else:
            subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    except OSError as error:
        raise UserError(
            "The folder could not be opened.", f"{error.strerror or error}.", f"Open it yourself: {folder}"
        ) from error
