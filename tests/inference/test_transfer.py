"""The same image on every base in a folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from engine.errors import UserError
from engine.families.files import bases_in
from engine.families.registry import detect
from engine.inference.request import TryRequest
from engine.inference.session import TrySession
from engine.inference.transfer import transfer
from engine.workspace.paths import Workspace


def test_bases_that_fit_are_drawn_and_the_others_have_a_reason(
    workspace: Workspace, tiny_base: Path, tiny_sd2: Path, loud_controlnet: Path, edges: Image.Image
) -> None:
    other = shutil.copytree(tiny_base, workspace.models / "a finetune")
    unet = detect(str(other)).load_denoiser(str(other), torch.float32)
    with torch.no_grad():
        unet.conv_out.weight.mul_(1.5)
    unet.save_pretrained(other / "unet")
    shutil.copytree(tiny_sd2, workspace.models / "another family")
    (workspace.models / "broken.safetensors").write_bytes(b"not a model")
    (workspace.models / "notes.txt").write_text("no base", encoding="utf-8")

    bases = bases_in(workspace.models)
    assert [Path(base).name for base in bases] == ["a finetune", "another family", "broken.safetensors"]
    request = TryRequest(
        base=str(tiny_base),
        controlnet=loud_controlnet,
        prompt="red circle",
        control=edges,
        steps=2,
        width=64,
        height=64,
    )
    seen: list[tuple[int, int]] = []
    results = transfer(
        TrySession(workspace, device="cpu"),
        request,
        [str(tiny_base), *bases],
        progress=lambda done, total, _: seen.append((done, total)),
    )
    assert [result.image is not None for result in results] == [True, True, False, False]
    assert not np.array_equal(results[0].image, results[1].image)
    assert "does not fit" in results[2].problem and "broken.safetensors" in results[3].problem
    assert seen == [(1, 8), (2, 8), (3, 8), (4, 8)]


def test_a_net_of_another_kind_of_base_is_refused_in_words_by_each(
    workspace: Workspace, tiny_base: Path, tiny_sd3: Path, tiny_flux: Path, tiny_zimage: Path, tmp_path: Path
) -> None:
    """Their configs have few entries in common."""
    bases = [str(base) for base in (tiny_base, tiny_sd3, tiny_flux, tiny_zimage)]
    session, control = TrySession(workspace, device="cpu"), Image.new("RGB", (64, 64))
    for number, base in enumerate(bases):
        family = detect(base)
        net = tmp_path / str(number)
        family.new_controlnet(family.load_denoiser(base, torch.float32)).save_pretrained(net)
        request = TryRequest(base=base, controlnet=net, prompt="", control=control, steps=1, width=64, height=64)
        others = [other for other in bases if other != base]
        for result in transfer(session, request, others):
            assert result.image is None and "another kind of base than" in result.problem, result


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a folder"):
        bases_in(tmp_path / "gone")
