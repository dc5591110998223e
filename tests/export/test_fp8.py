"""Files in fp8: written only where the loss of adherence was measured and is small, and read back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from engine.errors import UserError
from engine.export import export
from engine.export.quantization_loss import Interval, QuantizationLoss, find_loss, keep_loss, read_losses
from engine.inference.request import TryRequest
from engine.inference.session import TrySession
from engine.workspace.paths import Workspace
from tests.checkpoint_folder import write_checkpoint

MEASURED = "Adherence was measured."


def loss(written: float, step: str = "step-000010") -> QuantizationLoss:
    gap = Interval(written - 0.9, written - 0.92, written - 0.88)
    return QuantizationLoss(
        step, "ema", "fp8", Interval(0.9, 0.85, 0.95), Interval(written, written - 0.1, 1.0), gap, 24
    )


@pytest.mark.parametrize("format", ["single_file", "ldm"])
def test_every_tensor_is_fp8_as_comfyui_holds_it(checkpoint: Path, tmp_path: Path, format: str) -> None:
    whole = export(checkpoint, format, tmp_path, "whole", "fp32")
    made = export(checkpoint, format, tmp_path, "small", "fp8", quantization_check=lambda source: MEASURED)
    tensors = load_file(made.path)
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float8_e4m3fn}
    for name, tensor in load_file(whole.path).items():
        assert torch.equal(tensors[name].float(), tensor.to(torch.float8_e4m3fn).float())
    assert made.bytes < 0.4 * whole.bytes
    assert made.checked.startswith(MEASURED) and "rounded to fp8" in made.checked
    assert "ComfyUI recognizes it" in made.checked and "AUTOMATIC1111" not in made.checked


def test_the_file_draws_like_the_checkpoint(
    checkpoint: Path, tmp_path: Path, tiny_base: Path, workspace: Workspace, edges: Image.Image
) -> None:
    made = export(
        checkpoint, "single_file", tmp_path, "small", "fp8", "plain", quantization_check=lambda source: MEASURED
    )
    size: dict[str, Any] = {"steps": 2, "width": 64, "height": 64}
    nets = [checkpoint / "controlnet", made.path]
    requests = [TryRequest(base=str(tiny_base), controlnet=net, prompt="a", control=edges, **size) for net in nets]
    requests.append(TryRequest(**vars(requests[0]) | {"without_control": True}))
    whole, small, bare = (np.asarray(one, int) for one in TrySession(workspace, "cpu").generate(requests))
    assert 0 < np.abs(whole - small).mean() < np.abs(whole - bare).mean() / 2


def test_nothing_is_written_where_it_was_not_measured_or_fell(checkpoint: Path, tmp_path: Path) -> None:
    def refuse(source: Any) -> str:
        loss(0.6).require_acceptable()
        return ""

    with pytest.raises(UserError, match="Nothing was exported in fp8") as unmeasured:
        export(checkpoint, "single_file", tmp_path / "out", "mine", "fp8")
    assert "has to be measured" in unmeasured.value.why
    with pytest.raises(UserError, match="would follow its control images less") as fell:
        export(checkpoint, "single_file", tmp_path / "out", "mine", "fp8", quantization_check=refuse)
    assert "0.60" in fell.value.why and "0.90 (0.85 to 0.95)" in fell.value.why
    for format in ("diffusers", "pth", "control_lora"):
        with pytest.raises(UserError, match="no precision fp8"):
            export(checkpoint, format, tmp_path / "out", "mine", "fp8", quantization_check=lambda source: MEASURED)
    assert not (tmp_path / "out").exists()


def test_weights_that_fp8_cannot_hold_are_refused(loud_controlnet: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    folder = write_checkpoint(tmp_path / "step-000010", loud_controlnet, has_ema=False, files={})
    file = folder / "controlnet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    tensors["conv_in.bias"][0] = 500.0  # the largest number of fp8 is 448
    save_file(tensors, file)
    with pytest.raises(UserError, match="cannot be exported in fp8"):
        export(folder, "single_file", tmp_path / "out", "mine", "fp8", quantization_check=lambda source: MEASURED)


def test_a_loss_is_acceptable_within_the_interval_and_is_remembered(tmp_path: Path) -> None:
    assert loss(0.85).acceptable and loss(0.97).acceptable and not loss(0.84).acceptable
    keep_loss(tmp_path, loss(0.9))
    keep_loss(tmp_path, loss(0.9, "step-000020"))
    keep_loss(tmp_path, loss(0.8))
    assert read_losses(tmp_path) == [loss(0.9, "step-000020"), loss(0.8)]
    assert find_loss(tmp_path, "step-000010", "ema", "fp8") == loss(0.8)
    assert find_loss(tmp_path, "step-000010", "plain", "fp8") is None
