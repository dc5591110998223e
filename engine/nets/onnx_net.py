"""A net and its base as ONNX files: the folder that an export writes, and the nets that compute with its graphs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path, PureWindowsPath
from typing import Any

import torch

from engine.disk.durable import atomic_write_text, checksum
from engine.errors import UserError
from engine.families.base import Family
from engine.families.facts import FamilyFacts
from engine.families.fingerprint import denoiser_fingerprint
from engine.families.onnx_graphs import CONTROLNET, DENOISER, OnnxControlNet, OnnxDenoiser, Run, Tensors
from engine.machine.onnx_packages import DESCRIPTION, TO_RUN, provider_of, require_packages
from engine.nets.controlnet_files import check_fits
from engine.workspace.base_reference import JOIN

FILES = {CONTROLNET: "controlnet.onnx", DENOISER: "denoiser.onnx"}


@dataclass(frozen=True)
class OnnxNet:
    """What the description in the folder says."""

    family: str
    base: str
    """Its public name."""
    checkpoint: str
    """Name of the checkpoint's folder."""
    run: str
    weights: str
    precision: str
    controlnet: dict[str, Any]
    """Its config."""
    denoiser: dict[str, Any]
    schedule: dict[str, Any]
    """What the run took the base for (``Checkpoint.noise_schedule``)."""
    checksums: dict[str, str]
    """SHA-256 of each file."""
    base_fingerprint: str = ""
    """``denoiser_fingerprint`` of the base; empty: written by a version that did not note it."""
    ingredients: list[dict[str, Any]] = field(default_factory=list)
    """LoRA and embedding files in the base: file, weight, sha256."""


def is_onnx(path: Path) -> bool:
    """Whether a path is an export in ONNX: its folder, or one of its files."""
    return path.suffix.lower() == ".onnx" or (path / DESCRIPTION).is_file()


def write_description(folder: Path, about: OnnxNet) -> None:
    """Write the description, with the checksums of the files that are in the folder."""
    sums = {file.name: checksum(file) for file in sorted(folder.iterdir()) if file.suffix != ".json"}
    atomic_write_text(folder / DESCRIPTION, json.dumps({**asdict(about), "checksums": sums}, indent=2, sort_keys=True))


def read_description(path: Path) -> OnnxNet:
    """Read an export in ONNX. ``path``: its folder, or a file in it.

    Raises:
        UserError: it is none of this app, or its files are not those that were exported.
    """
    folder = path if path.is_dir() else path.parent
    try:
        found = OnnxNet(**json.loads((folder / DESCRIPTION).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"{path.name} cannot be drawn with.",
            f"It is not an export of this app in ONNX: {folder.name} has no {DESCRIPTION} that can be read.",
            "Export the checkpoint in the format ONNX, and choose that folder.",
        ) from error
    for name, known in found.checksums.items():
        file = folder / name
        if not file.is_file() or checksum(file) != known:
            raise UserError(
                f"{folder.name} cannot be drawn with.",
                f"{name} is {'another file than' if file.is_file() else 'missing; it is part of'} the one that was "
                "exported.",
                "Export it again.",
            )
    return found


def onnx_folder(net: Path) -> Path:
    """The folder of an export in ONNX. ``net``: it, one of its files, or the ControlNet of a run's checkpoint.

    Raises:
        UserError: the checkpoint has not been exported in ONNX.
    """
    if is_onnx(net):
        return net if net.is_dir() else net.parent
    checkpoint = net.parent
    found = export_of(checkpoint.parent.parent / "exports", checkpoint.name)
    if found is None:
        raise UserError(
            f"{checkpoint.name if net.name.startswith('controlnet') else net.name} cannot be drawn with ONNX Runtime.",
            "It has not been exported in ONNX.",
            "Export it in the format “Folder for ONNX Runtime” (on the command line: --format onnx), or choose PyTorch "
            "as the engine.",
        )
    return found


def export_of(exports: Path, checkpoint: str) -> Path | None:
    """The newest export in ONNX of a checkpoint, in a run's exports folder; None: there is none."""
    found = []
    for file in exports.glob(f"*/{DESCRIPTION}"):
        try:
            about = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue  # it is reported when it is chosen
        if about.get("checkpoint") == checkpoint:
            found.append(file)
    return max(found, key=lambda file: file.stat().st_mtime_ns).parent if found else None


def require_ingredients(folder: Path, about: OnnxNet, base: str, ingredients: Sequence[Mapping[str, Any]]) -> None:
    """Refuse a base with other LoRA and embedding files in it than the one that an export holds.

    Args:
        base: its name, for the error.
        ingredients: as in the recipe of a merged base.

    Raises:
        UserError: they are others, or have other weights.
    """
    used, held = ([(one["sha256"], one["weight"]) for one in some] for some in (ingredients, about.ingredients))
    if used != held:
        inside = ", ".join(f"{one['file']} (weight {one['weight']:g})" for one in about.ingredients)
        raise UserError(
            f"{folder.name} does not fit the base {base}.",
            "LoRA and embedding files change the base, and an export in ONNX holds the base as it was then"
            f"{f', with {inside}' if inside else ''}.",
            "Draw with the files that it was exported with, or choose PyTorch as the engine.",
        )


def require_base(folder: Path, about: OnnxNet, base: str, family: Family, located: str) -> str:
    """Refuse another base than the one whose denoiser an export holds.

    Args:
        base: its name. ``located``: where it is.

    Returns:
        A sentence if the export is too old to be sure; else "".

    Raises:
        UserError: it is another one.
    """
    same_name = PureWindowsPath(base.partition(JOIN)[0]).name == PureWindowsPath(about.base).name
    known = about.base_fingerprint
    if denoiser_fingerprint(family, located) == known if known else same_name:
        same = f"{folder.name} was compared with the base by its name only, since an earlier version exported it."
        return "" if known else f"{same} Export it again to be sure that they belong together."
    raise UserError(
        f"{folder.name} does not fit the base {base}.",
        f"It holds the denoiser of {'another base, also called ' if same_name else ''}{about.base}.",
        "Choose that base, or PyTorch as the engine.",
    )


def open_nets(
    folder: Path, about: OnnxNet, denoiser: Mapping[str, Any], base: str, facts: FamilyFacts, engine: str
) -> tuple[Any, Any]:
    """The denoiser and the ControlNet of an export, for diffusers' pipelines.

    Args:
        denoiser: config of the base's denoiser. base: its name, for the error. facts: of its family.
        engine: a name in ``PROVIDERS``.

    Raises:
        UserError: ONNX Runtime is not installed, or the files belong to another kind of base.
    """
    if about.family != facts.name:
        raise UserError(
            f"{folder.name} does not fit the base {base}.",
            f"It was made for another family of bases than {facts.title}.",
            "Choose the base that it was made for.",
        )
    check_fits(about.controlnet, denoiser, folder.name, base, facts)
    provider = provider_of(engine)
    control, denoising = (session(folder / FILES[name], provider) for name in (CONTROLNET, DENOISER))
    return OnnxDenoiser(about.denoiser, denoising), OnnxControlNet(about.controlnet, control)


def input_names(file: Path) -> list[str]:
    """The inputs of a graph."""
    import onnx

    return [one.name for one in onnx.load(str(file), load_external_data=False).graph.input]


def session(file: Path, provider: str) -> Run:
    """A graph, ready to compute. Inputs are given in its precision, outputs are returned in fp32.

    Raises:
        UserError: the package is missing, or the file cannot be read.
    """
    require_packages(TO_RUN, "The image cannot be drawn with ONNX Runtime.")
    import onnxruntime

    try:
        opened = onnxruntime.InferenceSession(str(file), providers=[provider])
    except Exception as error:  # its own classes of errors have no common one
        reason = str(error).splitlines()[0][:200]
        raise UserError(f"{file.name} cannot be read.", f"ONNX Runtime says: {reason}.", "Export it again.") from error
    half = {one.name for one in opened.get_inputs() if one.type == "tensor(float16)"}
    wanted = [one.name for one in opened.get_inputs()]

    def run(inputs: Tensors) -> list[torch.Tensor]:
        given = {name: inputs[name].half() if name in half else inputs[name] for name in wanted}
        outputs = opened.run(None, {name: one.contiguous().numpy() for name, one in given.items()})
        return [torch.from_numpy(one).float() for one in outputs]

    return run
