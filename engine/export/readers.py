"""How ComfyUI and AUTOMATIC1111 read a file, as far as tensor names, shapes and the file name decide it.

Both recognize the kind of a net by marker tensors and its structure by LDM names; diffusers names are translated first.
Neither reports a tensor that is unknown or missing: the net just works badly. So every name and shape is compared with
the net here. The rules follow ``comfy/controlnet.py`` and sd-webui-controlnet's ``controlnet_model_guess.py`` and
``controlnet_lora.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from engine.families.control_files import DIFFERENCE_MARK, LORA_MARK
from engine.families.facts import FamilyFacts, version_of
from engine.families.ldm_keys import A1111_LORA_MARK, OUTPUTS, PREFIX, TRIGGER, from_ldm, rename_from_ldm
from engine.machine.units import counted

Shapes = Mapping[str, tuple[int, ...]]


class Misread(Exception):
    """One of these programs would reject the file, or read something else from it."""


def raw_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors in a .safetensors or .pth file, under the file's names."""
    if path.suffix == ".safetensors":
        with safe_open(path, framework="pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    return {name: tuple(tensor.shape) for name, tensor in loaded.items()}


def check(raw: Shapes, net: Shapes, config: Mapping[str, Any], stem: str, family: FamilyFacts) -> str:
    """Check that the programs read the file as the net that it is. Returns its kind, for people.

    Args:
        raw: names and shapes in the file.
        net: names and shapes of the net, under diffusers names.
        config: the net's.
        stem: the file's name without suffix.
        family: of the net's base.

    Raises:
        Misread: with the reason.
    """
    if DIFFERENCE_MARK in raw:
        raise Misread(f"a tensor {DIFFERENCE_MARK} makes readers add the base to it")
    files, version = family.control_files, version_of(stem)
    if "AUTOMATIC1111" in files.programs and version is not family:
        raise Misread(f"AUTOMATIC1111 reads the version {version.name if version else None} from the name {stem}")
    if LORA_MARK in raw:
        _check_lora({name: shape for name, shape in raw.items() if name != LORA_MARK}, net, config, family)
        return "a Control-LoRA"
    plain = files.plain_shapes(raw)
    if files.trigger in plain:
        kind, seen = "a ControlNet with diffusers names", plain
        if plain.keys() != raw.keys():
            kind = "a ControlNet of RGB control images, with the names of XLabs"
        if why := files.why_misread(raw, config):
            raise Misread(why)
    elif TRIGGER in raw or PREFIX + TRIGGER in raw:
        kind, seen = "a ControlNet with LDM names", from_ldm(dict(raw))
    else:
        raise Misread("neither recognizes it as a ControlNet")
    _compare(seen, net)
    return kind


def _compare(seen: Shapes, net: Shapes) -> None:
    for words, names in (("lacks", net.keys() - seen.keys()), ("has an unknown", seen.keys() - net.keys())):
        if names:
            raise Misread(f"the file {words} {min(names)} ({len(names):,} of {counted(len(net), 'tensor')})")
    for name, shape in seen.items():
        if tuple(shape) != tuple(net[name]):
            raise Misread(f"{name} is {tuple(shape)} instead of {tuple(net[name])}")


def _check_lora(raw: Shapes, net: Shapes, config: Mapping[str, Any], family: FamilyFacts) -> None:
    outputs = sum(name.startswith(OUTPUTS) and name.endswith(".weight") for name in raw)
    # AUTOMATIC1111 cannot load a net of another size anyway.
    if outputs == family.outputs and (A1111_LORA_MARK in raw) != family.lora_mark:
        raise Misread("AUTOMATIC1111 would treat it as a Control-LoRA of another version")
    seen = rename_from_ldm(dict(raw), config)
    whole = {}
    for name, shape in seen.items():
        stem, _, part = name.rpartition(".")
        if part not in ("up", "down"):
            whole[name] = shape
            continue
        wanted = net.get(f"{stem}.weight", ())
        if len(shape) != len(wanted):
            raise Misread(f"{name} has {len(shape)} dimensions; AUTOMATIC1111 multiplies only {len(wanted)}")
        up, down = seen.get(f"{stem}.up"), seen.get(f"{stem}.down")
        if up is None or down is None or up[1] != down[0] or (up[0], *down[1:]) != tuple(wanted):
            raise Misread(f"{stem}.up and .down do not multiply to {tuple(wanted)}")
        whole[f"{stem}.weight"] = wanted
    _compare(whole, net)
