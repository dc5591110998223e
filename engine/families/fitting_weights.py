"""Whether the weights of a base's parts are those that its configs describe, found without reading any of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from engine.families import single_file
from engine.families.facts import FACTS
from engine.families.files import shapes_of
from engine.families.weight_files import weight_files
from engine.machine.units import counted

CONFIG = "config.json"
_NO_WEIGHTS = "position_ids"
"""A part of names of tensors that files of older versions hold, and that nothing needs."""


def misfit(base: str, index: Mapping[str, Any], parts: Iterable[str]) -> str:
    """Why a base's weights cannot be those of its configs, as a sentence; "" if they fit, or nothing here tells.

    Args:
        base: a folder in diffusers layout, or a single file.
        index: model_index.json, which names the class of each part.
        parts: those that are looked at. Those that the base lacks are passed over.
    """
    for part in parts:
        if part in index and (why := _of_part(base, index, part)):
            return why
    return ""


def _of_part(base: str, index: Mapping[str, Any], part: str) -> str:
    path = Path(base)
    if not path.is_dir():
        configs = single_file.recognize(base).configs
        beside = [file for file in (path.with_suffix(".yaml"),) if file.is_file()]
        return _misfit(
            base, part, configs, _class(index, part, configs), _dated(path, configs / part / CONFIG, *beside)
        )
    files = [*weight_files(path / part), path / part / CONFIG]
    if len(files) == 1 or not files[-1].is_file():
        return ""
    return _misfit(base, part, path, _class(index, part, path), _dated(*files))


def _dated(*files: Path) -> tuple[tuple[Path, int], ...]:
    return tuple((file, file.stat().st_mtime_ns) for file in files if file.is_file())


def _class(index: Mapping[str, Any], part: str, configs: Path) -> tuple[str, str]:
    """Library and class of a part. The layouts of single files leave it to the part's own config."""
    entry = index.get(part)
    if isinstance(entry, list) and len(entry) == 2 and entry[0] in ("diffusers", "transformers"):
        return str(entry[0]), str(entry[1])
    if entry != ["", ""] or not (configs / part / CONFIG).is_file():
        return "", ""
    config = json.loads((configs / part / CONFIG).read_text(encoding="utf-8"))
    named = config.get("_class_name")
    return ("diffusers", str(named)) if named else ("transformers", str(config["architectures"][0]))


@lru_cache(maxsize=64)
def _misfit(base: str, part: str, configs: Path, kind: tuple[str, str], files: tuple[tuple[Path, int], ...]) -> str:
    """``files``: the files that are read, with their times, so that changed ones are looked at anew."""
    net = _described(configs, part, kind, (configs / part / CONFIG).stat().st_mtime_ns) if kind[0] else None
    if net is None:
        return ""
    # A thread that loads a net of transformers meanwhile keeps all nets of the process from tying their weights.
    tied = getattr(net, "all_tied_weights_keys", {})
    wanted = {name: list(weight.shape) for name, weight in net.named_parameters() if name not in tied}
    of_file = not Path(base).is_dir()
    try:
        if of_file:
            held = single_file.part_shapes(base, part, net)
        else:
            held = {name: shape for path, _ in files[:-1] for name, shape in shapes_of(path).items()}
    except KeyError as error:
        return f"Its {part} is not complete: the tensor {error.args[0]} is missing."
    if not held:
        return f"Its {part} is not complete: all of its tensors are missing." if of_file and wanted else ""
    other = next((name for name, shape in wanted.items() if held.get(name, shape) != shape), None)
    if other is not None:
        described = f"{part}/config.json" if not of_file else f"those of {_kind_of(configs)}"
        return (
            f"The weights of its {part} do not match {described}: {other} has the shape "
            f"{_shape(held[other])} instead of {_shape(wanted[other])}."
        )
    missing = [name for name in wanted if name not in held]
    unknown = [name for name in held if name not in wanted and _NO_WEIGHTS not in name]
    if missing and (of_file or not unknown):  # a folder of an earlier version may have named them otherwise
        tensors = counted(len(missing), "tensor")
        named = " and ".join([missing[0], *missing[-1:]][: len(missing)])
        return f"The weights of its {part} are not complete: {tensors} of {len(wanted):,} missing, such as {named}."
    return ""


@lru_cache(maxsize=32)
def _described(configs: Path, part: str, kind: tuple[str, str], changed: int) -> Any:
    """A part as its config describes it, without weights. None if its class cannot be made of it."""
    import diffusers
    import transformers

    found = getattr({"diffusers": diffusers, "transformers": transformers}.get(kind[0]), kind[1], None)
    if found is None:
        return None
    config = json.loads((configs / part / CONFIG).read_text(encoding="utf-8"))
    try:
        with torch.device("meta"):
            return found.from_config(config) if kind[0] == "diffusers" else found(found.config_class.from_dict(config))
    except (TypeError, ValueError, KeyError, AttributeError, NotImplementedError, RuntimeError):
        return None  # loading it tells the cause


def _kind_of(configs: Path) -> str:
    """What a file's configs describe, for people."""
    return next((facts.title for facts in FACTS if facts.name == configs.name.removesuffix("-base")), "its configs")


def _shape(shape: list[int]) -> str:
    return " x ".join(map(str, shape)) or "1"
