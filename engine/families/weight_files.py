"""Which weight files of a base's folder are used: whole or in shards, plain or a variant such as fp16. No torch."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path

from engine.errors import UserError

_NAME = re.compile(
    r"(?:diffusion_pytorch_model|pytorch_model|model)(?:\.(?P<variant>\w+?))?(?:-\d{5}-of-\d{5})?"
    r"\.(?P<kind>safetensors|bin)"
)
_INDEX = re.compile(
    r"(?:diffusion_pytorch_model|pytorch_model|model)\.(?P<kind>safetensors|bin)\.index(?:\.(?P<variant>\w+))?\.json"
)
"""Lists the files that weights are split into, whatever these are called."""
_OTHERS = {".msgpack": "Flax", ".onnx": "ONNX", ".xml": "OpenVINO", ".tflite": "TensorFlow", ".gguf": "GGUF"}


def weight_name(name: str) -> tuple[str, str] | None:
    """(variant, ending) of a weight file, or of a list of shards, as ("fp16", "safetensors"); None for other files."""
    match = _NAME.fullmatch(name) or _INDEX.fullmatch(name)
    return (match["variant"] or "", match["kind"]) if match else None


def variant_of(folder: Path) -> str | None:
    """The variant of a part's weights that is loaded: "" for plain files, else for example "fp16". None: no weights.

    Plain files count first, then fp16, then any other; safetensors before .bin.
    """
    found = _found(folder)
    ranked = sorted(found, key=lambda one: (one[1] != "safetensors", one[0] != "", one[0] != "fp16", one[0]))
    return ranked[0][0] if ranked else None


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of the variant that is loaded, sorted: one, or all shards."""
    variant = variant_of(folder)
    if listed := _listed(folder, variant or ""):
        return listed
    return [
        path for path in sorted(folder.glob("*.safetensors")) if (kind := weight_name(path.name)) and kind[0] == variant
    ]


def _listed(folder: Path, variant: str) -> list[Path]:
    """The shards that a variant's list of safetensors files names; none without such a list."""
    for path in sorted(folder.glob("*.safetensors.index*.json")):
        if weight_name(path.name) == (variant, "safetensors"):
            try:
                names = set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values())
            except (OSError, ValueError, KeyError, TypeError, AttributeError):
                return []  # a damaged list is reported when the weights are loaded
            return sorted(folder / str(name) for name in names if (folder / str(name)).is_file())
    return []


def _found(folder: Path) -> set[tuple[str, str]]:
    """(variant, ending) of the weight files in a folder."""
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return {kind for name in names if (kind := weight_name(name))}


def require_weights(base: Path, parts: Iterable[str]) -> None:
    """Check that each part of a base's folder has weights that can be loaded.

    Raises:
        UserError: names the part, and what lies there instead.
    """
    for part in parts:
        folder = base / part
        if variant_of(folder) is not None:
            continue
        if not folder.is_dir():
            why = f"It has no folder {part}."
        else:
            others = sorted({kind for path in folder.iterdir() if (kind := _OTHERS.get(path.suffix))})
            held = f" ({' and '.join(others)} files are there, which are not read)" if others else ""
            why = f"{part} has no weights: neither .safetensors nor .bin files{held}."
        raise UserError(
            f"The base model {base.name} is not complete.",
            why,
            "Download it again, with its safetensors files, or choose another base.",
        )
