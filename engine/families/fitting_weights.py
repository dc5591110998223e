"""Whether the weights of a base's parts are those that its configs describe, found without reading any of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from engine.families.files import shapes_of
from engine.families.parts import read_component_config
from engine.families.weight_files import weight_files
from engine.machine.units import counted

_NO_WEIGHTS = "position_ids"
"""A part of names of tensors that files of older versions hold, and that nothing needs."""


def misfit(base: str, index: Mapping[str, Any], parts: Iterable[str]) -> str:
    """Why a base's weights cannot be those of its configs, as a sentence; "" if they fit, or nothing here tells.

    Args:
        base: a folder in diffusers layout.
        index: model_index.json, which names the class of each part.
        parts: those that are looked at.
    """
    for part in parts:
        files = [*weight_files(Path(base) / part), Path(base) / part / "config.json"]
        kind = _class(index, part) if len(files) > 1 and files[-1].is_file() else ("", "")
        why = _misfit(base, part, kind, tuple((file, file.stat().st_mtime_ns) for file in files)) if kind[0] else ""
        if why:
            return why
    return ""


def _class(index: Mapping[str, Any], part: str) -> tuple[str, str]:
    entry = index.get(part)
    usual = isinstance(entry, list) and len(entry) == 2 and entry[0] in ("diffusers", "transformers")
    return (str(entry[0]), str(entry[1])) if usual and entry is not None else ("", "")


@lru_cache(maxsize=64)
def _misfit(base: str, part: str, kind: tuple[str, str], files: tuple[tuple[Path, int], ...]) -> str:
    """``files``: the files that are read, with their times, so that changed ones are looked at anew."""
    wanted = _described(base, part, kind)
    held = {name: shape for path, _ in files[:-1] for name, shape in shapes_of(path).items()}
    if not wanted or not held:
        return ""
    other = next((name for name, shape in wanted.items() if held.get(name, shape) != shape), None)
    if other is not None:
        return (
            f"The weights of its {part} are not those that {part}/config.json describes: {other} has the shape "
            f"{_shape(held[other])} instead of {_shape(wanted[other])}."
        )
    missing = [name for name in wanted if name not in held]
    unknown = [name for name in held if name not in wanted and _NO_WEIGHTS not in name]
    if missing and not unknown:  # with unknown ones, an earlier version may have named them otherwise
        tensors = counted(len(missing), "tensor")
        return (
            f"The weights of its {part} are not complete: {tensors} of {len(wanted):,} not there, such as {missing[0]}."
        )
    return ""


def _described(base: str, part: str, kind: tuple[str, str]) -> dict[str, list[int]]:
    """The shapes of the tensors that a part's config describes. Empty if its class cannot be made of it."""
    import diffusers
    import transformers

    found = getattr({"diffusers": diffusers, "transformers": transformers}.get(kind[0]), kind[1], None)
    if found is None:
        return {}
    config = read_component_config(base, part, "config.json")
    try:
        with torch.device("meta"):
            net = found.from_config(config) if kind[0] == "diffusers" else found(found.config_class.from_dict(config))
    except (TypeError, ValueError, KeyError, AttributeError, NotImplementedError, RuntimeError):
        return {}  # loading it tells the cause
    return {name: list(weight.shape) for name, weight in net.named_parameters()}


def _shape(shape: list[int]) -> str:
    return " x ".join(map(str, shape)) or "1"
