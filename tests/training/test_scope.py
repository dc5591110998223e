"""Which weights learn, and by which rule."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from engine.config import OptimConfig
from engine.errors import UserError
from engine.training.ema import build_average
from engine.training.optim import build_optimizer
from engine.workspace import Workspace

from .conftest import RunFactory, Worker


def test_only_the_middle_speaks(new_run: RunFactory, ready_workspace: Workspace) -> None:
    run = new_run(**{"objective.only_mid_control": True, "train.steps": 2})
    Worker(ready_workspace, run)
    weights = load_file(run.checkpoints()[-1].controlnet / "diffusion_pytorch_model.safetensors")
    outlets = [weight for name, weight in weights.items() if name.startswith("controlnet_down_blocks")]
    assert outlets and not any(weight.any() for weight in outlets)
    assert weights["controlnet_mid_block.weight"].any()


def test_offset_noise_shifts_whole_channels() -> None:
    from engine.training.objective import draw

    draws = draw(1, 0, 500, (4, 8, 8), 1000, 0.1)
    assert draws.offset.shape == (500, 4, 1, 1)
    assert draws.offset.std().item() == pytest.approx(1, abs=0.05)
    shifted = draws.noise + 0.5 * draws.offset
    assert shifted.mean(dim=(2, 3)).std() > 3 * draws.noise.mean(dim=(2, 3)).std()


def test_an_average_in_ram_equals_one_beside_the_net() -> None:
    model = torch.nn.Linear(3, 3)
    averages = [build_average(model, OptimConfig(ema_decay=0.5, ema_device=place)) for place in ("same", "cpu")]
    for step in range(3):
        with torch.no_grad():
            model.weight.add_(step + 1)
        for average in averages:
            average.step(model.parameters())
    for first, second in zip(averages[0].shadow_params, averages[1].shadow_params, strict=True):
        assert torch.equal(first, second)
    assert build_average(model, OptimConfig()) is None


@pytest.mark.parametrize(("name", "version"), [("adamw8bit", "0.49.2"), ("paged_adamw8bit", "0.50.2")])
def test_eight_bits_on_a_processor_are_refused_in_words(
    monkeypatch: pytest.MonkeyPatch, name: str, version: str
) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda package: version)
    with pytest.raises(UserError, match="NVIDIA graphics cards only"):
        build_optimizer(torch.nn.Linear(2, 2), OptimConfig(optimizer=name))


def on_a_card() -> torch.nn.Module:
    """Stands in for a net on a graphics card."""
    weight = SimpleNamespace(device=torch.device("cuda"), requires_grad=True, ndim=2)
    return SimpleNamespace(parameters=lambda: iter([weight]))  # type: ignore[return-value]


def test_a_missing_bitsandbytes_is_named_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)  # as if it were not installed
    with pytest.raises(UserError, match="pip install bitsandbytes"):
        build_optimizer(on_a_card(), OptimConfig(optimizer="paged_adamw8bit"))


@pytest.mark.parametrize(("name", "kind"), [("adamw8bit", "AdamW8bit"), ("paged_adamw8bit", "PagedAdamW8bit")])
def test_bitsandbytes_gets_our_groups_and_rates(monkeypatch: pytest.MonkeyPatch, name: str, kind: str) -> None:
    seen = {}

    def make(groups: list, lr: float, betas: tuple) -> None:
        seen.update(decays=[group["weight_decay"] for group in groups], lr=lr, betas=betas)

    package = ModuleType("bitsandbytes")
    package.optim = SimpleNamespace(**{kind: make})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "bitsandbytes", package)
    build_optimizer(on_a_card(), OptimConfig(optimizer=name, learning_rate=3e-5, weight_decay=0.2))
    assert seen == {"decays": [0.2, 0.0], "lr": 3e-5, "betas": (0.9, 0.999)}


def test_an_unlocked_base_learns_and_goes_along_into_try_it(
    new_run: RunFactory, ready_workspace: Workspace, tiny_base: Path, edges: Image.Image
) -> None:
    from engine.inference.session import TryRequest, TrySession

    run = new_run(
        **{"objective.sd_locked": False, "train.steps": 2, "optim.learning_rate": 0.05, "validation.check_every": 50}
    )
    Worker(ready_workspace, run)
    folder = run.checkpoints()[-1].folder
    learnt = load_file(folder / "base_decoder" / "decoder.safetensors")
    before = load_file(tiny_base / "unet" / "diffusion_pytorch_model.safetensors")
    assert learnt and not torch.equal(learnt["conv_out.weight"], before["conv_out.weight"])

    request = TryRequest(str(tiny_base), folder, "red circle", edges, steps=2, width=64, height=64)
    session = TrySession(ready_workspace, device="cpu")
    drawn = session.generate([request])[0]
    shutil.move(folder / "base_decoder", folder.parent / "elsewhere")
    plain = TrySession(ready_workspace, device="cpu").generate([request])[0]
    assert not np.array_equal(drawn, plain)
    other = shutil.copytree(folder, folder.parent / "other")
    again = session.generate([replace(request, controlnet=other)])[0]
    assert np.array_equal(again, plain), "the base of the run before is not kept for the next one"


def test_an_average_needs_a_locked_base() -> None:
    from engine.presets import resolve

    with pytest.raises(UserError, match="holds only the ControlNet"):
        resolve(("test", {"objective": {"sd_locked": False}, "optim": {"ema_decay": 0.9}}))
