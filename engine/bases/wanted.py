"""Which files of a base's repository training needs: configs, and one set of safetensors weights for each part."""

from __future__ import annotations

import re
from collections.abc import Sequence

from engine.bases.catalog import DENOISERS, INDEX, WITH_WEIGHTS
from engine.errors import UserError
from engine.families.facts import TEXT_PARTS
from engine.families.weight_files import weight_name

PARTS = tuple(dict.fromkeys((*DENOISERS, "vae", *TEXT_PARTS, "scheduler")))
"""Folders that are read. Others hold what training does not use, such as the safety checker."""
VARIANTS = ("fp16", "", "bf16")
"""The kinds of weights that are downloaded, the first that a part has."""
_CONFIG = re.compile(r"[\w-][\w.-]*\.(?:json|txt|model)")
_NO_CONFIG = re.compile(r"(?:openvino|flax)|\.index(?:\.\w+)?\.json$")
_INDEX = re.compile(r".+?(?:\.(?P<before>\w+))?\.safetensors\.index(?:\.(?P<after>\w+))?\.json")


def wanted_files(base: str, files: Sequence[str]) -> list[str]:
    """The files to download, the index last: only a folder that has everything is taken for a base.

    Args:
        base: its name, for errors.
        files: paths in the repository.

    Raises:
        UserError: the repository is no base in diffusers layout, or has no safetensors weights.
    """
    if INDEX not in files:
        single = any("/" not in name and name.endswith((".safetensors", ".ckpt")) for name in files)
        raise UserError(
            f"{base} cannot be downloaded as a base.",
            f"It has no {INDEX}, so it is not a base in diffusers layout"
            + (", only a single file or another kind of model." if single else "."),
            "Download its file with a browser into the workspace's models folder, or choose another base.",
        )
    found: list[str] = []
    for part in PARTS:
        inside = [name.removeprefix(f"{part}/") for name in files if name.startswith(f"{part}/")]
        chosen = _of_part(base, part, sorted(name for name in inside if "/" not in name))
        found += [f"{part}/{name}" for name in chosen]
    for need, choices in (("denoiser", DENOISERS), ("VAE", ("vae",)), ("text encoder", ("text_encoder",))):
        if not any(name.startswith(tuple(f"{part}/" for part in choices)) for name in found):
            raise UserError(
                f"{base} cannot be downloaded as a base.",
                f"It has no {need} of a kind that this app trains for.",
                "Choose another base.",
            )
    return [*found, INDEX]


def _of_part(base: str, part: str, names: list[str]) -> list[str]:
    """The files of one folder: configs first, since they are small, then one set of weights."""
    configs = [name for name in names if _CONFIG.fullmatch(name) and not _NO_CONFIG.search(name)]
    if part not in WITH_WEIGHTS or not names:
        return configs
    kinds = {name: kind for name in names if (kind := weight_name(name))}
    offered = {variant for variant, ending in kinds.values() if ending == "safetensors"}
    variant = next((one for one in VARIANTS if one in offered), None)
    if variant is None:
        raise UserError(
            f"{base} cannot be downloaded as a base.",
            f"Its folder {part} has no safetensors weights, and other kinds of files may contain programs that "
            "run when they are opened.",
            "Choose another base, or a version of it that has been converted to safetensors.",
        )
    weights = [name for name in names if kinds.get(name) == (variant, "safetensors")]
    indexes = [name for name in names if (match := _INDEX.fullmatch(name)) and _variant(match) == variant]
    return [*configs, *indexes, *weights]


def _variant(match: re.Match[str]) -> str:
    return match["before"] or match["after"] or ""
