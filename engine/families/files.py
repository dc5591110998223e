"""Base models on disk, by their files alone: where their configs are, which family, how large. No torch."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.disk.tensor_file import tensor_shapes
from engine.disk.typed_path import typed_path
from engine.errors import UserError
from engine.families.facts import FACTS, FamilyFacts, by_text_width, of_class, of_config
from engine.families.weight_files import weight_files
from engine.workspace.paths import Workspace, in_hub_cache

LAYOUTS = Path(__file__).resolve().parent / "layouts"
"""Configs of the families whose bases come in single files."""
SINGLE_FILES = (".safetensors", ".ckpt")
UNET_PREFIX = "model.diffusion_model."
"""In a single file, in front of the names of the denoiser's tensors."""
TEXT_ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3")


@dataclass(frozen=True)
class BaseConfigs:
    """The configs of a base, from its folder or from the layout of its single file."""

    facts: FamilyFacts
    denoiser: Mapping[str, Any]
    text_encoders: tuple[Mapping[str, Any], ...]
    vae: Mapping[str, Any]
    """Empty where the base has no config for it."""


def bases_in(folder: Path) -> list[str]:
    """Paths of everything in a folder that may be a base (folders in diffusers layout, single files), by name.

    Raises:
        UserError: there is no such folder.
    """
    folder = Path(typed_path(folder))
    if not folder.is_dir():
        raise UserError(
            f"{folder} is not a folder.",
            "Base models are searched for in a folder.",
            "Enter the folder that contains them.",
        )
    found = [
        p
        for p in sorted(folder.iterdir())
        if not p.name.startswith(".")  # among them downloads that are not complete
        if (in_hub_cache(p) / "model_index.json").is_file() or (p.is_file() and p.suffix.lower() in SINGLE_FILES)
    ]
    return [str(path) for path in found]


def denoiser_files(located: str) -> list[Path]:
    """The weight files of a base's denoiser: the single file itself, else those in its folder; none on the hub."""
    path = Path(located)
    if path.is_file():
        return [path]
    names = sorted({facts.denoiser for facts in FACTS})
    return [file for name in names for file in weight_files(path / name)]


def denoiser_parameters(workspace: Workspace, base: str) -> int:
    """Parameters of a base's denoiser, from its safetensors headers; those of SD 1.5 if it is not on this disk."""
    try:
        located = workspace.locate_base(base)
    except UserError:
        return FACTS[0].parameters
    files = [file for file in denoiser_files(located) if file.suffix == ".safetensors"]
    if not files:
        return FACTS[0].parameters
    shapes = {name: shape for file in files for name, shape in shapes_of(file).items()}
    if Path(located).is_file():  # VAE and text encoder are in the same file
        shapes = {name: shape for name, shape in shapes.items() if name.startswith(UNET_PREFIX)}
    return sum(math.prod(shape) for shape in shapes.values())


def is_local(located: str) -> bool:
    """Whether a base can be read without a download: it is on this disk, or in the hub library's cache."""
    if Path(located).exists():
        return True
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        names = {facts.denoiser for facts in FACTS}
        return any(isinstance(try_to_load_from_cache(located, f"{name}/config.json"), str) for name in names)
    except HFValidationError:  # not the form of a hub id: a path that is gone
        return False


def text_width(shapes: Mapping[str, list[int]]) -> int:
    """Width of the text embeddings that the denoiser of a single file reads; 0 if it has no such layer."""
    readers = (n for n in shapes if n.startswith(UNET_PREFIX) and n.endswith("attn2.to_k.weight"))
    first = next(readers, None)
    return shapes[first][1] if first else 0


def config_folder(located: str) -> Path | None:
    """The folder with a base's configs; None if nothing on this disk tells."""
    path = Path(located)
    if path.is_dir():
        return path
    if not path.is_file() or path.suffix != ".safetensors":
        return None
    beside = path.with_suffix("")
    if (beside / "model_index.json").is_file():
        return beside
    facts = by_text_width(text_width(shapes_of(path)))
    return LAYOUTS / facts.name if facts else None


def read_configs(folder: Path) -> BaseConfigs:
    """All configs in a base's folder.

    Raises:
        OSError, ValueError: the denoiser's or a text encoder's config is missing or damaged.
    """
    denoiser = _denoiser_config(folder)
    facts = of_config(denoiser) or next(iter(of_class(denoiser)), FACTS[0])
    texts = tuple(_config(folder, name) for name in TEXT_ENCODERS if (folder / name).is_dir())
    vae = _config(folder, "vae") if (folder / "vae" / "config.json").is_file() else {}
    return BaseConfigs(facts, denoiser, texts, vae)


def part_files(located: str, parts: Sequence[str]) -> list[str]:
    """Size and time of change of the files in these folders of a base, for a cache's key. A local base can be moved."""
    base = Path(located)
    found = [] if base.exists() else [located]
    if base.is_file():
        found.append(f"{base.stat().st_size}:{base.stat().st_mtime_ns}")
    if base.is_dir():
        for part in parts:
            for path in sorted((base / part).glob("*")):
                facts = path.stat()
                found.append(f"{part}/{path.name}:{facts.st_size}:{facts.st_mtime_ns}")
    return found


def made_for(located: str) -> int:
    """Side in pixels of the images that a base was trained on; 0 if nothing on this disk tells.

    As ``Family.default_resolution``, but without loading anything.
    """
    folder = config_folder(located)
    if folder is None:
        return 0
    try:
        configs = read_configs(folder)
        side = configs.denoiser.get("sample_size")
        return int(side) * configs.facts.latents.factor if side else int(configs.vae["sample_size"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0  # an incomplete base is reported when it is used


def lacks_optional_text(located: str) -> bool:
    """Whether a base that may be used without T5 comes without it."""
    folder = config_folder(located)
    try:
        configs = read_configs(folder) if folder else None
    except (OSError, ValueError):
        return False  # an incomplete base is reported when it is used
    has = configs is None or any("d_model" in config for config in configs.text_encoders)
    return configs is not None and configs.facts.t5_can_be_left_out and not has


def configs_of(workspace: Workspace, base: str) -> BaseConfigs:
    """The configs of a base; Stable Diffusion 1.5's if it is not on this disk or incomplete."""
    try:
        return configs_at(workspace.locate_base(base))
    except UserError:
        return read_configs(LAYOUTS / FACTS[0].name)


def configs_at(located: str) -> BaseConfigs:
    """``configs_of`` for a base whose place is known."""
    stand_in = LAYOUTS / FACTS[0].name
    try:
        return read_configs(config_folder(located) or stand_in)
    except (UserError, OSError, ValueError):  # an incomplete base is reported when it is used
        return read_configs(stand_in)


def family_of(workspace: Workspace, base: str) -> str:
    """The name of a base's family; "" if its sizes are those of no family, or it is not on this disk.

    A denoiser of other sizes still is of a family if no other has its class.
    """
    try:
        folder = config_folder(workspace.locate_base(base))
        config = _denoiser_config(folder) if folder else {}
        known, alike = of_config(config), of_class(config)
        if folder and known is None and len(alike) == 1:
            known = alike[0]
        return known.name if folder and known else ""
    except (UserError, OSError, ValueError):
        return ""  # an incomplete base is reported when it is used


def shapes_of(path: Path) -> dict[str, list[int]]:
    """Shapes of a model file's tensors by name.

    Raises:
        UserError: it is no whole safetensors file.
    """
    try:
        return tensor_shapes(path)
    except OSError as error:
        raise UserError(
            f"The model {path.name} cannot be read.",
            f"It is not a complete safetensors file ({error.strerror or error}).",
            "Copy or download it again.",
        ) from error


def _denoiser_config(folder: Path) -> dict[str, Any]:
    names = [facts.denoiser for facts in FACTS]
    return _config(folder, next((name for name in names if (folder / name).is_dir()), names[0]))


def _config(folder: Path, part: str) -> dict[str, Any]:
    return json.loads((folder / part / "config.json").read_text(encoding="utf-8"))
