"""The formats a net can leave in, and the one way out: write under a temporary name, read back, compare, rename.

To add a format: a module with ``write(path, source)`` and ``read(path)`` (config or None, and the tensors under their
diffusers names), and a line in FORMATS.
"""

from __future__ import annotations

import errno
import importlib
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from engine.data.samples import CancelToken, Progress
from engine.errors import UserError

if TYPE_CHECKING:
    from engine.export.source import Source

Precision = Literal["fp16", "bf16", "fp32"]
Weights = Literal["plain", "ema"]
TEMPORARY = ".exporting-"
SPARE_BYTES = 16 * 2**20


@dataclass(frozen=True)
class ExportFormat:
    """One way to take a net away."""

    name: str
    title: str
    hint: str
    goes_to: str
    """Where people put it."""
    ending: str
    """Of the file; empty for a folder."""
    module: str


@dataclass(frozen=True)
class ExportResult:
    """A finished export. ``checked`` says in a sentence what was compared with the checkpoint."""

    path: Path
    bytes: int
    checked: str


@dataclass(frozen=True)
class PrecisionChoice:
    """What the weights are rounded to."""

    name: Precision
    title: str


PRECISIONS: tuple[PrecisionChoice, ...] = (
    PrecisionChoice("fp16", "fp16: half the size, looks the same (usual)"),
    PrecisionChoice("bf16", "bf16: half the size, coarser numbers, wider range"),
    PrecisionChoice("fp32", "fp32: every digit, twice the size"),
)
FORMATS: tuple[ExportFormat, ...] = (
    ExportFormat(
        "single_file",
        "One file (.safetensors)",
        "For ComfyUI, AUTOMATIC1111 and Forge: they read it as it is.",
        "ComfyUI: models/controlnet. AUTOMATIC1111 and Forge: models/ControlNet.",
        ".safetensors",
        "engine.export.single_file",
    ),
    ExportFormat(
        "diffusers",
        "Folder for diffusers",
        "For Python: ControlNetModel.from_pretrained(folder). Also the way to go on training elsewhere.",
        "Anywhere; give the folder's path to diffusers.",
        "",
        "engine.export.diffusers_folder",
    ),
    ExportFormat(
        "ldm",
        "One file with LDM names (.safetensors)",
        "For older programs that know only the original names. ComfyUI, AUTOMATIC1111 and Forge read it too.",
        "ComfyUI: models/controlnet. AUTOMATIC1111 and Forge: models/ControlNet.",
        ".safetensors",
        "engine.export.ldm_file",
    ),
    ExportFormat(
        "pth",
        "One file of the oldest kind (.pth)",
        "Only for programs that want control_model names in a .pth file; it cannot say what it was trained on.",
        "ComfyUI: models/controlnet. AUTOMATIC1111 and Forge: models/ControlNet.",
        ".pth",
        "engine.export.pth_file",
    ),
)


def get(name: str) -> ExportFormat:
    """A format by name.

    Raises:
        UserError: there is none of that name.
    """
    for format in FORMATS:
        if format.name == name:
            return format
    known = ", ".join(format.name for format in FORMATS)
    raise UserError(f"There is no export format {name}.", f"Known are: {known}.", "Choose one of these.")


def export(
    checkpoint: Path,
    format: str,
    out_folder: Path,
    name: str,
    precision: Precision = "fp16",
    weights: Weights | None = None,
    overwrite: bool = False,
    token: CancelToken | None = None,
    progress: Progress | None = None,
) -> ExportResult:
    """Write one net and check it before it gets its name.

    Args:
        checkpoint: the folder step-N of a run.
        name: of the file or folder, as typed; made safe, and marked with the base's version.
        weights: default: the averaged ones where the run keeps them.
        progress: called as progress(stages done, in all, label).

    Raises:
        UserError: the checkpoint is not whole, the name is taken or misleading, the disk is full, or the check failed.
            Nothing is left behind.
    """
    from engine.export import self_check
    from engine.export.naming import export_stem
    from engine.export.source import DTYPES, read_source, whole_checkpoint
    from engine.families import by_name

    def stage(done: int, label: str) -> None:
        if token:
            token.raise_if_cancelled()
        if progress:
            progress(done, 3, label)

    way = get(format)
    if precision not in DTYPES:
        raise UserError(
            f"There is no precision {precision}.", f"Known are: {', '.join(DTYPES)}.", "Choose one of these."
        )
    stage(0, "Reading the checkpoint")
    whole = whole_checkpoint(checkpoint)
    stem = export_stem(name or f"controlnet_{checkpoint.name}", by_name(str(whole.about.get("family"))).file_tag)
    target = Path(out_folder) / f"{stem}{way.ending}"
    _refuse_taken(target, way, overwrite)
    source = read_source(whole, precision, weights or ("ema" if whole.has_ema else "plain"))
    _make_room(target, source.bytes)
    temporary = target.with_name(f"{TEMPORARY}{target.name}")
    _remove(temporary)
    module = importlib.import_module(way.module)
    try:
        stage(1, "Writing")
        _write(module.write, temporary, source, target)
        stage(2, "Checking")
        checked = self_check.check(source, *module.read(temporary))
        stage(3, "Done")
        _refuse_taken(target, way, overwrite)
        if overwrite and target.is_dir():
            shutil.rmtree(target)
        temporary.replace(target)
    finally:
        _remove(temporary)
    files = [target] if target.is_file() else [path for path in target.rglob("*") if path.is_file()]
    return ExportResult(target, sum(path.stat().st_size for path in files), checked)


def _refuse_taken(target: Path, way: ExportFormat, overwrite: bool) -> None:
    if not target.exists():
        return
    if not overwrite:
        raise UserError(
            f"{target.name} exists already.",
            f"{target.parent} holds it from an earlier export, and nothing is overwritten without being told to.",
            "Choose another name, or allow overwriting.",
        )
    # Overwriting is for what this app could have written, never for somebody's folder of other things.
    ours = target.is_file() if way.ending else (target / "config.json").is_file()
    if not ours:
        raise UserError(
            f"{target} cannot be overwritten.", "It is something else than an export.", "Choose another name."
        )


def _make_room(target: Path, needed: int) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(target.parent).free
    except OSError as error:
        raise UserError(
            f"{target.parent} cannot be used.", f"{error.strerror or error}.", "Choose another folder."
        ) from error
    if free < needed + SPARE_BYTES:
        raise _disk_full(target, f"It needs {needed / 2**20:,.0f} MB and the disk has {free / 2**20:,.0f} MB left.")


def _write(write: object, temporary: Path, source: Source, target: Path) -> None:
    from safetensors import SafetensorError

    assert callable(write), "every format's module has write()"
    try:
        write(temporary, source)
    except (OSError, RuntimeError, SafetensorError) as error:  # torch.save says RuntimeError
        full = getattr(error, "errno", None) == errno.ENOSPC or "No space" in str(error) or "os error 112" in str(error)
        if full:
            raise _disk_full(target, "The disk filled up while it was written.") from error
        raise UserError(
            f"{target.name} could not be written.", f"The system says: {error}.", "Choose another folder."
        ) from error


def _disk_full(target: Path, why: str) -> UserError:
    return UserError(f"{target.name} was not exported.", why, "Free some space, or choose a folder on another disk.")


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
