"""Sizes of a base model from its files alone: no torch, so that a form can show them at once."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from engine.disk.tensor_file import tensor_shapes
from engine.errors import UserError
from engine.workspace.paths import Workspace

LAYOUTS = Path(__file__).resolve().parent / "layouts"
"""Configs of the families whose bases come in single files."""
TEXT_WIDTHS = {768: "sd1", 1024: "sd2", 2048: "sdxl"}
"""Which layout a single file has, by the width of the text that its UNet reads."""
SINGLE_FILES = (".safetensors", ".ckpt")
UNET_PREFIX = "model.diffusion_model."
SD15_PARAMETERS = 859_520_964
SD15_CONTROLNET_PARAMETERS = 361_279_120


@dataclass(frozen=True)
class BaseFacts:
    """Parameters of the UNet and of a ControlNet for it."""

    parameters: int
    controlnet_parameters: int
    local: bool


def bases_in(folder: Path) -> list[str]:
    """Paths of what lies in a folder and may be a base: folders in diffusers layout and single files, by name.

    Raises:
        UserError: there is no such folder.
    """
    if not folder.is_dir():
        raise UserError(
            f"{folder} is not a folder.", "Bases are looked for in one.", "Give the folder that holds them."
        )
    found = [
        p
        for p in sorted(folder.iterdir())
        if (p / "model_index.json").is_file() or (p.is_file() and p.suffix.lower() in SINGLE_FILES)
    ]
    return [str(path) for path in found]


def base_facts(workspace: Workspace, base: str) -> BaseFacts:
    """Read from the UNet's safetensors header; SD 1.5's figures where the model is not on this disk yet."""
    try:
        located = workspace.locate_base(base)
    except UserError:
        return BaseFacts(SD15_PARAMETERS, SD15_CONTROLNET_PARAMETERS, False)
    path = Path(located)
    single = path.is_file() and path.suffix == ".safetensors"
    files = [path] if single else sorted(path.glob("unet/*.safetensors")) if path.is_dir() else []
    if not files:
        return BaseFacts(SD15_PARAMETERS, SD15_CONTROLNET_PARAMETERS, Path(located).is_dir())
    shapes = {name: shape for file in files for name, shape in shapes_of(file).items()}
    copied: tuple[str, ...] = ("conv_in.", "time_embedding.", "add_embedding.", "down_blocks.", "mid_block.")
    if single:  # the names of the original programs, with VAE and text encoder in the same file
        unet = UNET_PREFIX
        shapes = {name.removeprefix(unet): shape for name, shape in shapes.items() if name.startswith(unet)}
        copied = ("input_blocks.", "middle_block.", "time_embed.", "label_emb.")
    total = sum(_count(shape) for shape in shapes.values())
    trunk = sum(_count(shape) for name, shape in shapes.items() if name.startswith(copied))
    # The zero convolutions and the hint encoder add about 6 % to the copied trunk at SD 1.5's size.
    return BaseFacts(total, round(trunk * 1.06), True)


def at_hand(located: str) -> bool:
    """Whether a base can be read without a download: it lies on this disk, or in the hub library's own cache."""
    if Path(located).exists():
        return True
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        return isinstance(try_to_load_from_cache(located, "unet/config.json"), str)
    except HFValidationError:  # not the form of a hub id: a path that is gone
        return False


def text_width(shapes: Mapping[str, list[int]]) -> int:
    """Numbers for each token that the UNet of a single file reads; 0 where it has no such layer."""
    readers = (n for n in shapes if n.startswith(UNET_PREFIX) and n.endswith("attn2.to_k.weight"))
    first = next(readers, None)
    return shapes[first][1] if first else 0


def configs_of(located: str) -> Path | None:
    """The folder that holds a base's configs; None where nothing on this disk says."""
    path = Path(located)
    if path.is_dir():
        return path
    if not path.is_file() or path.suffix != ".safetensors":
        return None
    beside = path.with_suffix("")
    if (beside / "model_index.json").is_file():
        return beside
    layout = TEXT_WIDTHS.get(text_width(shapes_of(path)))
    return LAYOUTS / layout if layout else None


def family_of(workspace: Workspace, base: str) -> str:
    """The family's name by the width of the text that a base reads; "" where it is another, or not on this disk."""
    try:
        folder = configs_of(workspace.locate_base(base))
        unet = json.loads((folder / "unet" / "config.json").read_text(encoding="utf-8")) if folder else {}
        return TEXT_WIDTHS.get(int(unet.get("cross_attention_dim", 0)), "")
    except (UserError, OSError, ValueError, TypeError):
        return ""  # an incomplete base is refused in words when it is used


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
            f"It is no whole safetensors file ({error.strerror or error}).",
            "Copy or download it again.",
        ) from error


def _count(shape: list[int]) -> int:
    total = 1
    for side in shape:
        total *= side
    return total
