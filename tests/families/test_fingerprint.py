"""The fingerprint of a base: its denoiser's weights, not its name, place, precision or kind of file."""

from __future__ import annotations

import shutil
from pathlib import Path

from safetensors.torch import load_file, save_file

from engine.families.fingerprint import denoiser_fingerprint
from engine.families.registry import detect
from tests.families.ldm_file import write_single_file

WEIGHTS = Path("unet", "diffusion_pytorch_model.safetensors")


def fingerprint(base: Path) -> str:
    return denoiser_fingerprint(detect(str(base)), str(base))


def test_copies_of_a_base_are_the_same_and_another_is_not(tiny_base: Path, tmp_path: Path) -> None:
    known = fingerprint(tiny_base)
    assert fingerprint(write_single_file(tiny_base, tmp_path / "file.safetensors")) == known
    copy = Path(shutil.copytree(tiny_base, tmp_path / "copy"))
    weights = load_file(tiny_base / WEIGHTS)
    save_file({name: tensor.half() for name, tensor in weights.items()}, copy / WEIGHTS)
    assert fingerprint(copy) == known
    name = next(name for name in weights if "attn2.to_k" in name)
    save_file(weights | {name: weights[name] + 0.01}, copy / WEIGHTS)  # as a merged LoRA does
    assert fingerprint(copy) != known
