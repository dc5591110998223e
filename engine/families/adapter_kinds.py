"""What a LoRA or embedding file is and which bases it fits, by its header alone. No torch."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from engine.disk.tensor_file import tensor_names, tensor_shapes
from engine.errors import UserError
from engine.families.facts import FamilyFacts, by_text_width
from engine.families.files import UNET_PREFIX

OTHER_METHODS = {
    "oft_": "OFT",
    "dora_scale": "DoRA",
    "lora_magnitude_vector": "DoRA",
    "glora": "GLoRA (LyCORIS)",
    "ia3": "IA3",
}
"""Parts of tensor names of adapters that are no LoRA, LoHa or LoKr."""
WHOLE_MODELS = (
    ("model.diffusion_model.", "a whole base model"),
    ("first_stage_model.", "a whole base model"),
    ("controlnet_cond_embedding", "a ControlNet"),
    ("control_model", "a ControlNet"),
    ("input_hint_block", "a ControlNet"),
)
"""Parts of tensor names of files that people mistake for a LoRA."""


def other_method(names: Sequence[str]) -> str:
    """The method of an adapter that cannot be merged; "" if it can, or is no adapter."""
    return next((title for mark, title in OTHER_METHODS.items() if any(mark in name for name in names)), "")


def kind_of_file(path: Path) -> Literal["lora", "embedding", "base", "net"]:
    """What a .safetensors file is for a program that has a folder for each kind; "net" also for one it cannot tell."""
    try:
        names = tensor_names(path)
    except (OSError, ValueError):
        return "net"
    if any(name.startswith(UNET_PREFIX) for name in names):
        return "base"
    if {"emb_params", "clip_l", "clip_g"} & set(names):
        return "embedding"
    ends = (".lora_down.weight", ".lora_A.weight", ".hada_w1_a", ".lokr_w1", ".lokr_w1_a")
    return "lora" if any(name.endswith(ends) for name in names) else "net"


def is_lora(names: Sequence[str]) -> bool:
    """Whether tensors have the names of a LoRA, LoHa or LoKr."""
    marks = ("lora", "hada_", "lokr_")
    return any(any(mark in name.lower() for mark in marks) or name.endswith((".diff", ".diff_b")) for name in names)


def made_for(shapes: Mapping[str, Sequence[int]]) -> FamilyFacts | None:
    """The family that a LoRA's widths tell; None if they tell none."""
    for name, shape in shapes.items():
        reads_text = re.search(r"attn2[._](processor[._])?to_k", name)
        if reads_text and re.search(r"(down|lora_A|hada_w1_b)(\.default)?(\.weight)?$", name) and len(shape) >= 2:
            return by_text_width(int(shape[1]))
    return None


def why_unfit(path: Path, family: FamilyFacts) -> str:
    """Why a file cannot be merged into bases of a family, as a sentence; "" if its header does not say so."""
    if path.suffix.lower() != ".safetensors":
        return ""  # has no header: it is checked when it is read
    try:
        shapes = tensor_shapes(path)
    except (OSError, UserError):
        return f"{path.name} cannot be read: it is not a complete safetensors file. Download it again."
    names = list(shapes)
    for mark, what in WHOLE_MODELS:
        if any(mark in name for name in names) and not is_lora(names):
            return f"{path.name} is {what}, not a LoRA or embedding file. Remove it from the list."
    if method := other_method(names):
        return (
            f"{path.name} is a {method} file; only LoRA, LoHa and LoKr files and embeddings can be merged. Remove it "
            "from the list."
        )
    found = made_for(shapes) if is_lora(names) else by_text_width(_vectors_width(shapes))
    if found is not None and found.text_width != family.text_width:
        return (
            f"{path.name} was made for {found.title}, and the base is {family.title}. Choose a file and a base of the "
            "same kind."
        )
    return ""


def _vectors_width(shapes: Mapping[str, Sequence[int]]) -> int:
    """Numbers in a vector of an embedding, for all text encoders together; 0 if it is of no known form."""
    if not {"emb_params", "clip_l", "clip_g"}.issuperset(shapes):
        return 0
    return sum(shape[-1] for shape in shapes.values() if shape)
