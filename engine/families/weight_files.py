"""Which weight files of a base's folder are used: whole or in shards, plain or a variant such as fp16. No torch."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path

from engine.errors import UserError
from engine.families.invalid_weights import why_invalid
from engine.machine.units import counted

_NAME = re.compile(
    r"(?:diffusion_pytorch_model|pytorch_model|model)(?:\.(?P<variant>\w+?))?(?:-\d{5}-of-\d{5})?"
    r"\.(?P<kind>safetensors|bin)"
)
_INDEX = re.compile(
    r"(?:diffusion_pytorch_model|pytorch_model|model)\.(?P<kind>safetensors|bin)\.index(?:\.(?P<variant>\w+))?\.json"
)
"""Lists the files that weights are split into, whatever these are called."""
_SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.(safetensors|bin)")
_MOST_SHARDS = 1000
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
    return [folder / name for name in _names_listed(folder, variant) if (folder / name).is_file()]


def absent_shards(folder: Path, variant: str) -> list[str]:
    """Names of the files that weights are split into and that are not there, by their list or by their numbers."""
    if listed := _names_listed(folder, variant):
        return [name for name in listed if not (folder / name).is_file()]
    shards = [match for path in folder.iterdir() if (match := _SHARD.fullmatch(path.name))]
    here = {match[0] for match in shards if (weight_name(match[0]) or ("",))[0] == variant}
    wanted = {
        f"{match[1]}-{number:05d}-of-{match[3]}.{match[4]}"
        for match in shards
        if match[0] in here
        for number in range(1, min(int(match[3]), _MOST_SHARDS) + 1)
    }
    return sorted(wanted - here)


def _names_listed(folder: Path, variant: str) -> list[str]:
    for path in sorted(folder.glob("*.safetensors.index*.json")):
        if weight_name(path.name) == (variant, "safetensors"):
            try:
                return sorted({str(name) for name in json.loads(path.read_text("utf-8"))["weight_map"].values()})
            except (OSError, ValueError, KeyError, TypeError, AttributeError):
                return []  # a damaged list is reported when the weights are loaded
    return []


def _found(folder: Path) -> set[tuple[str, str]]:
    """(variant, ending) of the weight files in a folder."""
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return {kind for name in names if (kind := weight_name(name))}


VOCABULARIES = (
    "tokenizer.json",
    "vocab.json",
    "spiece.model",
    "tokenizer.model",
    "vocab.txt",
    "sentencepiece.bpe.model",
)
"""Files of which a tokenizer has at least one."""


def require_base(base: Path) -> None:
    """Check that a folder is that of a base.

    Raises:
        UserError: says what it is instead, and what to choose.
    """
    if (base / "model_index.json").is_file():
        return
    why, choose = "It has no model_index.json, which every folder in diffusers layout has.", "Choose such a folder."
    files = sorted(path.name for path in base.iterdir() if path.suffix in (".safetensors", ".ckpt"))
    beside = {Path(name).stem for name in files}  # folders with the configs of these
    inner = sorted({path.parent.name for path in base.glob("*/model_index.json")} - beside)
    if (base.parent / "model_index.json").is_file():
        why, choose = f"It is a part of the base {base.parent.name}.", f"Choose the folder {base.parent}."
    elif inner:
        why, choose = f"The base is inside it: {', '.join(inner[:3])}.", f"Choose the folder {base / inner[0]}."
    elif kind := class_of(base / "config.json"):
        why = f"It is a single part of a model: {kind}."
        choose = "Choose a whole base: a folder with a model_index.json."
    elif files:
        why, choose = f"It is a folder with {', '.join(files[:3])}.", f"Choose the file itself: {base / files[0]}."
    raise UserError(f"The folder {base.name} is not a base model.", why, choose)


def class_of(config: Path) -> str:
    """The class of diffusers that a part's config names. "": none."""
    try:
        found = json.loads(config.read_text(encoding="utf-8"))
        return str(found.get("_class_name") or "") if isinstance(found, dict) else ""
    except (OSError, ValueError):
        return ""


def require_weights(base: Path, parts: Iterable[str]) -> None:
    """Check that each part of a base's folder has weights that can be loaded.

    Raises:
        UserError: names the part, and what lies there instead.
    """
    for part in parts:
        folder = base / part
        if (variant := variant_of(folder)) is not None:
            files = weight_files(folder) or [
                path for path in folder.iterdir() if weight_name(path.name) == (variant, "bin")
            ]
            absent = absent_shards(folder, variant)
            broken = (
                (folder / absent[0], f"It is missing, one of {counted(len(absent), 'missing file')}")
                if absent
                else None
            )
            broken = broken or next(((path, why) for path in sorted(files) if (why := why_invalid(path))), None)
            if broken is None:
                continue
            why = f"{part}/{broken[0].name}: {broken[1]}."
        elif not folder.is_dir():
            why = f"It has no folder {part}."
        else:
            others = sorted({kind for path in folder.iterdir() if (kind := _OTHERS.get(path.suffix))})
            held = f" (there are {' and '.join(others)} files, which are not read)" if others else ""
            why = f"{part} has no weights: neither .safetensors nor .bin files{held}."
        raise incomplete_base(base, why)


def require_words(base: Path, parts: Iterable[str]) -> None:
    """Check that each tokenizer's folder of a base has a vocabulary, and that its JSON files are whole.

    Raises:
        UserError: names the folder or the file.
    """
    for part in parts:
        folder = base / part
        if not folder.is_dir():
            raise incomplete_base(base, f"It has no folder {part}.")
        if not any((folder / name).is_file() for name in VOCABULARIES):
            raise incomplete_base(base, f"{part} has no vocabulary, such as {VOCABULARIES[0]}.")
        for path in sorted(folder.glob("*.json")):
            content = path.read_bytes().strip()
            if (content[:1], content[-1:]) not in ((b"{", b"}"), (b"[", b"]")):
                why = why_invalid(path) or "It is not a complete JSON file"
                raise incomplete_base(base, f"{part}/{path.name}: {why}.")


def incomplete_base(base: Path, why: str) -> UserError:
    """The error for a base of which something is missing or does not fit. ``why``: a sentence."""
    again = "Download it again, including its safetensors files, or choose another base."
    if base.is_file():
        again = (
            "Download it again, or choose another base. A base with a different structure needs its configs next to "
            f"it: a folder {base.stem} in diffusers layout, without weights."
        )
    return UserError(f"The base model {base.name} is not complete.", why, again)
