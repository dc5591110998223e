"""The export formats.

To add one: a module with ``write(path, source)`` and ``read(path)`` (config or None, and the tensors under diffusers
names), and an entry in FORMATS.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from engine.errors import UserError

Precision = Literal["fp16", "bf16", "fp32", "fp8", "int8_dynamic", "int8_static"]
WHOLE: tuple[Precision, ...] = ("fp16", "bf16", "fp32")
Weights = Literal["plain", "ema"]


@dataclass(frozen=True)
class ExportFormat:
    """One export format."""

    name: str
    title: str
    hint: str
    goes_to: str
    """Where the user puts the file."""
    ending: str
    """The file's suffix; empty for a folder."""
    module: str
    ranks: tuple[int, ...] = ()
    """Ranks to choose from, for a format that approximates the difference to the base; empty: the format is exact."""
    precisions: tuple[Precision, ...] = WHOLE
    holds_base: bool = False
    """The base's denoiser is in it, too. Such an export can be drawn with, but not read back as a ControlNet."""


@dataclass(frozen=True)
class ExportResult:
    """A finished export. ``checked``: sentences about what was compared with the checkpoint."""

    path: Path
    bytes: int
    checked: str
    card: Path | None = None
    """The folder with the model card, the workflow and the notes; for a folder format the export itself."""


@dataclass(frozen=True)
class PrecisionChoice:
    """A precision that the weights are rounded to."""

    name: Precision
    title: str
    measured: bool = False
    """Rounds so coarsely that the loss of adherence is measured first, and decides whether the file is written."""


PRECISIONS: tuple[PrecisionChoice, ...] = (
    PrecisionChoice("fp16", "fp16: half the size, same results (usual)"),
    PrecisionChoice("bf16", "bf16: half the size, coarser numbers, wider range"),
    PrecisionChoice("fp32", "fp32: full precision, twice the size"),
    PrecisionChoice("fp8", "fp8: a quarter of fp32, for ComfyUI; its loss is measured first", measured=True),
    PrecisionChoice("int8_dynamic", "int8, linear layers only; its loss is measured first", measured=True),
    PrecisionChoice("int8_static", "int8, convolutions too: smallest; its loss is measured first", measured=True),
)
FORMATS: tuple[ExportFormat, ...] = (
    ExportFormat(
        "single_file",
        "One file (.safetensors)",
        "For ComfyUI, AUTOMATIC1111 and Forge.",
        "ComfyUI: models/controlnet. AUTOMATIC1111 and Forge: models/ControlNet.",
        ".safetensors",
        "engine.export.single_file",
        precisions=(*WHOLE, "fp8"),
    ),
    ExportFormat(
        "diffusers",
        "Folder for diffusers",
        "For Python: ControlNetModel.from_pretrained(folder). Also for continuing its training in another program.",
        "Anywhere; pass the folder's path to diffusers.",
        "",
        "engine.export.diffusers_folder",
    ),
    ExportFormat(
        "ldm",
        "One file with LDM names (.safetensors)",
        "For older programs that know only the original names. ComfyUI, AUTOMATIC1111 and Forge also read it.",
        "ComfyUI: models/controlnet. AUTOMATIC1111 and Forge: models/ControlNet.",
        ".safetensors",
        "engine.export.ldm_file",
        precisions=(*WHOLE, "fp8"),
    ),
    ExportFormat(
        "pth",
        "One file in the oldest format (.pth)",
        "Only for programs that need a .pth file with control_model names; it has no header.",
        "ComfyUI: models/controlnet. AUTOMATIC1111 and Forge: models/ControlNet.",
        ".pth",
        "engine.export.pth_file",
    ),
    ExportFormat(
        "control_lora",
        "Small file (Control-LoRA, .safetensors)",
        "A fraction of the size: contains only the difference to the base, approximated unless the net was trained "
        "as a Control-LoRA. Works only with that base or a similar one.",
        "ComfyUI: models/controlnet. AUTOMATIC1111 and Forge: models/ControlNet (not for Stable Diffusion 2.x).",
        ".safetensors",
        "engine.export.control_lora",
        ranks=(32, 64, 128, 256),
    ),
    ExportFormat(
        "onnx",
        "Folder for ONNX Runtime (.onnx)",
        "ControlNet and base for ONNX Runtime, which is faster on a processor: in Try it, with sample and serve, and "
        "in your own programs. Needs the packages in requirements-onnx.txt.",
        "Stays where it is: Try it lists it below the run. ComfyUI and AUTOMATIC1111 do not read it.",
        "",
        "engine.export.onnx_folder",
        precisions=("fp32", "fp16", "int8_dynamic", "int8_static"),
        holds_base=True,
    ),
)
BASE_FORMATS: tuple[ExportFormat, ...] = (
    ExportFormat(
        "single_file",
        "One checkpoint file (.safetensors)",
        "The whole base with VAE and text encoders, for ComfyUI, AUTOMATIC1111 and Forge.",
        "ComfyUI: models/checkpoints. AUTOMATIC1111 and Forge: models/Stable-diffusion.",
        ".safetensors",
        "engine.export.base_files",
    ),
    ExportFormat(
        "diffusers",
        "Folder for diffusers",
        "For Python: DiffusionPipeline.from_pretrained(folder). Also a base for this app, with all of its words.",
        "Anywhere; for this app the workspace's models folder.",
        "",
        "engine.export.base_files",
    ),
)
"""The forms of a whole base."""
TRAINED_BASE_FORMATS: tuple[ExportFormat, ...] = (
    *BASE_FORMATS,
    ExportFormat(
        "lora",
        "Small file (LoRA, .safetensors)",
        "Only what training has changed, approximated: the result says how much of it is kept. For the same base, or a "
        "similar one.",
        "ComfyUI: models/loras. AUTOMATIC1111 and Forge: models/Lora.",
        ".safetensors",
        "engine.export.extracted_lora",
        ranks=(32, 64, 128, 256),
    ),
)
"""The forms of a base that a run has trained."""
ADAPTER_FORMATS: tuple[ExportFormat, ...] = (
    ExportFormat(
        "single_file",
        "One file (.safetensors)",
        "For ComfyUI, AUTOMATIC1111, Forge and diffusers. It is added to a base when images are drawn.",
        "ComfyUI: models/loras, embeddings: models/embeddings. AUTOMATIC1111 and Forge: models/Lora, embeddings.",
        ".safetensors",
        "engine.export.lora_file",
    ),
)
"""The forms of a file that is added to a base."""
FORMATS_OF = {"control net": FORMATS, "adapter": ADAPTER_FORMATS, "base": TRAINED_BASE_FORMATS}
"""By what an export is (``engine.tuning.trainable_facts.Exported``)."""
DEFAULT_RANK = 128
AS_TRAINED = 0
"""In place of a rank: the factors as a Control-LoRA run trained them; for any other net, ``DEFAULT_RANK``."""


def check_format(name: str, formats: Sequence[ExportFormat], of: str = "") -> str:
    """Return the name of a format, for settings that are read from files and commands.

    Args:
        of: what the formats are of, for the error: " of bases".

    Raises:
        ValueError: none of these has it.
    """
    known = list(dict.fromkeys(one.name for one in formats))
    if name not in known:
        raise ValueError(f"there is no format {name}{of}; there are {', '.join(known)}")
    return name


def usual_precision(format: str) -> Precision:
    """The precision of an export for which none was chosen."""
    return next((way.precisions[0] for way in FORMATS if way.name == format), WHOLE[0])


def measured(precision: str) -> bool:
    """Whether the loss of adherence of an export in this precision is measured before it is written."""
    return any(choice.measured for choice in PRECISIONS if choice.name == precision)


def require_precision(precision: str, precisions: Sequence[str]) -> None:
    """Refuse a precision that a format does not have.

    Args:
        precisions: those that it has.

    Raises:
        UserError: names them.
    """
    if precision not in precisions:
        known = any(choice.name == precision for choice in PRECISIONS)
        what = f"This format has no precision {precision}." if known else f"There is no precision {precision}."
        raise UserError(what, f"The precisions are: {', '.join(precisions)}.", "Choose one of these.")


def get(name: str, formats: tuple[ExportFormat, ...] = FORMATS) -> ExportFormat:
    """Find a format by name.

    Raises:
        UserError: there is none of that name.
    """
    for format in formats:
        if format.name == name:
            return format
    known = ", ".join(format.name for format in formats)
    raise UserError(f"There is no export format {name}.", f"The formats are: {known}.", "Choose one of these.")
