"""Where other programs keep their base models: their folders by name, in the usual places of each system. No torch."""

from __future__ import annotations

import os
import re
import string
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.workspace.paths import Workspace
from engine.workspace.remembered import BASES_FOLDERS, remember, remembered

LEVELS = 2
"""How deep below a usual place a program's folder is looked for: ~/ComfyUI, and ~/AI/ComfyUI."""
NOT_ENTERED = frozenset({"node_modules", "site-packages", "venv", "__pycache__", "windows", "program files", "proc"})
"""Folders, in lower case, that hold no models. Hidden ones are not searched either."""


@dataclass(frozen=True)
class Program:
    """A program that has base models."""

    title: str
    folder: str
    """Its folder's name in lower case, as a regular expression."""
    models: tuple[str, ...]
    """Where its bases are, below that folder; the portable editions have one level more."""


PROGRAMS = (
    Program(
        "ComfyUI",
        r"comfyui.*",
        tuple(f"{inner}models/{kind}" for inner in ("", "ComfyUI/") for kind in ("checkpoints", "diffusers")),
    ),
    Program("Fooocus", r"fooocus.*", ("models/checkpoints", "Fooocus/models/checkpoints")),
    Program("Forge", r"(?:.*webui[-_]forge.*|forge.*)", ("models/Stable-diffusion", "webui/models/Stable-diffusion")),
    Program(
        "AUTOMATIC1111",
        r"(?:(?:stable-diffusion|sd)[-_.]webui.*|automatic1111.*|a1111.*)",
        ("models/Stable-diffusion", "webui/models/Stable-diffusion"),
    ),
    Program("InvokeAI", r"invoke-?ai.*", ("models",)),
    Program("Stability Matrix", r"stability-?matrix.*", ("Models/StableDiffusion", "Data/Models/StableDiffusion")),
    Program("kohya", r"(?:kohya[-_]ss.*|sd-scripts.*)", ("models",)),
)
"""The first whose folder name fits counts."""


@dataclass(frozen=True)
class Place:
    """A folder in which bases are looked for."""

    folder: Path
    whose: str
    """The program's name, or whose folder it is."""


def program_of(name: str) -> Program | None:
    """The program whose folder has this name."""
    return next((program for program in PROGRAMS if re.fullmatch(program.folder, name.lower())), None)


def usual_places(workspace: Workspace, check: Callable[[], None] = lambda: None) -> Iterator[Place]:
    """The places that exist: those of the workspace and of the user first, then the programs' as they are found.

    Args:
        check: called for each folder; what it raises ends the search.
    """
    from huggingface_hub import constants

    yield Place(workspace.models, "this app")
    for folder in named_folders(workspace):
        yield Place(folder, "your folder")
    yield Place(Path(constants.HF_HUB_CACHE), "Hugging Face cache")
    for root in search_roots():
        for folder, program in _programs_below(root, LEVELS, check):
            yield from (Place(folder / below, program.title) for below in program.models)
            if program.title == "ComfyUI":
                yield from (Place(path, program.title) for path in _comfyui_elsewhere(folder))


def search_roots(environ: Mapping[str, str] = os.environ, home: Path | None = None) -> list[Path]:
    """Folders below which programs are looked for: home, its folders, other disks, and the app's neighbours."""
    home = home or Path.home()
    found = [home, home / "Documents", home / "Desktop", home / "Downloads"]
    found += [Path(environ[name]) for name in ("APPDATA", "LOCALAPPDATA") if environ.get(name)]
    if sys.platform == "win32":
        found += [Path(f"{letter}:\\") for letter in string.ascii_uppercase[2:] if Path(f"{letter}:\\").exists()]
    else:
        found += [Path("/opt"), Path("/mnt"), Path("/media"), Path("/Volumes")]
    found.append(Path(__file__).resolve().parents[3])
    return list(dict.fromkeys(found))


def named_folders(workspace: Workspace) -> list[Path]:
    """The folders with bases that the user has named."""
    return [Path(line) for line in remembered(workspace).get(BASES_FOLDERS, "").split("\n") if line]


def name_folder(workspace: Workspace, folder: Path) -> None:
    """Remember a folder with bases.

    Raises:
        UserError: the workspace cannot be written.
    """
    known = [str(path) for path in named_folders(workspace)]
    if str(folder) not in known:
        remember(workspace, **{BASES_FOLDERS: "\n".join([*known, str(folder)])})


def forget_folder(workspace: Workspace, folder: Path) -> None:
    """No longer look for bases in a folder. Its files stay."""
    kept = [str(path) for path in named_folders(workspace) if path != folder]
    remember(workspace, **{BASES_FOLDERS: "\n".join(kept)})


def entered(name: str) -> bool:
    """Whether a folder of this name is searched."""
    return not name.startswith((".", "$")) and name.lower() not in NOT_ENTERED


def _programs_below(folder: Path, levels: int, check: Callable[[], None]) -> Iterator[tuple[Path, Program]]:
    check()
    try:
        inside = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and entered(entry.name))
    except OSError:
        return  # it does not exist, or there is no permission
    for name in inside:
        program = program_of(name)
        if program is not None:
            yield folder / name, program
        elif levels > 1:
            yield from _programs_below(folder / name, levels - 1, check)


def _comfyui_elsewhere(folder: Path) -> list[Path]:
    """The folders of checkpoints that ComfyUI's extra_model_paths.yaml names."""
    import yaml

    found = []
    for path in (folder / "extra_model_paths.yaml", folder / "ComfyUI" / "extra_model_paths.yaml"):
        try:
            sections: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError):
            continue  # most people have none, and reporting a damaged one is up to ComfyUI
        for section in sections.values() if isinstance(sections, dict) else ():
            if isinstance(section, dict):
                base = Path(str(section.get("base_path") or path.parent)).expanduser()
                named = [str(section.get(kind) or "") for kind in ("checkpoints", "diffusers")]
                found += [base / line.strip() for text in named for line in text.split("\n") if line.strip()]
    return found
