"""LoRAs of transformer bases: names that diffusers and ComfyUI read, exact resume, counted memory, drawing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from engine.bases.merging import ready_base
from engine.estimate.memory import predict
from engine.export.out import export
from engine.families.registry import detect
from engine.inference.request import TryRequest
from engine.inference.session import TrySession
from engine.jobs.control import Control
from engine.runs.adapters import net_of
from engine.runs.checkpoints import LORA
from engine.runs.run import Run, read_preview
from engine.training.job import build_trainer
from engine.workspace.paths import Workspace
from tests.compare_runs import assert_same_run
from tests.short_runs import train
from tests.teaching_runs import add_images
from tests.teaching_runs import run_of as run_that_teaches

BASES = ["tiny_sd3", "tiny_flux", "tiny_zimage"]
ONE_IS_QUICK = [BASES[0], *(pytest.param(base, marks=pytest.mark.long) for base in BASES[1:])]


@pytest.fixture(params=BASES)
def base(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(request.param)


def run_of(workspace: Workspace, base: Path, tmp_path: Path, **sections: Any) -> Run:
    if not (tmp_path / "images").exists():
        add_images(workspace, tmp_path / "images")
    tuning = {"what": "lora", "rank": 4} | sections.pop("tuning", {})
    settings = {"optim": {"learning_rate": 1e-2}, "train": {"steps": 2}} | sections
    return run_that_teaches(workspace, base, tuning=tuning, **settings)


def test_the_file_changes_the_base_as_the_run_did(base: Path, workspace: Workspace, tmp_path: Path) -> None:
    previews = {"every": 2, "pictures": 1, "sampling_steps": 2}
    run = run_of(workspace, base, tmp_path, validation=previews)
    trained = train(workspace, run)
    assert trained.outcome == "completed" and trained.warnings == []
    record = read_preview(run.folder / "previews" / "step-000002")
    assert record is not None and len(record.pictures) == 1
    checkpoint = run.checkpoints()[-1]
    tensors = load_file(checkpoint.folder / LORA)
    ends = (".lora_A.weight", ".lora_B.weight")
    assert all(name.startswith("transformer.") and name.endswith(ends) for name in tensors)
    made = export(checkpoint.folder, "single_file", run.exports, "style", "fp32", base=str(base))
    assert made.checked == "Read back: all tensors are equal. Every layer fits the base."

    # Merged, the base has the weights that the run computes with: W + up x down.
    family = detect(str(base))
    merged = ready_base(workspace, f"{base} + {made.path}")
    from_file = dict(family.load_denoiser(merged, torch.float32).named_parameters())
    plain = dict(family.load_denoiser(str(base), torch.float32).named_parameters())
    trainer = build_trainer(workspace, Run(run.folder), Control().token, lambda event: None)
    layers = {name: layer for name, layer in trainer.state.denoiser.named_modules() if hasattr(layer, "down")}
    assert 2 * len(layers) == len(tensors)
    changed = 0
    for name, layer in layers.items():
        expected = plain[f"{name}.weight"] + layer.up.float() @ layer.down.float()
        torch.testing.assert_close(from_file[f"{name}.weight"], expected, rtol=0, atol=1e-5)
        changed += not torch.equal(from_file[f"{name}.weight"], plain[f"{name}.weight"])
    trainer.close()
    assert changed >= len(layers) - 1, "the text's query in the last block of Stable Diffusion 3 has no effect"

    request = TryRequest(
        base=str(base), controlnet=net_of(checkpoint), control=Image.new("RGB", (64, 64)), prompt="noise", seed=1
    )
    session = TrySession(workspace, "cpu", torch.float32)
    sized = {"steps": 2, "width": 64, "height": 64}
    assert session.generate([TryRequest(**{**vars(request), **sized})])[0].size == (64, 64)


def test_diffusers_reads_the_file(base: Path, workspace: Workspace, tmp_path: Path) -> None:
    run = run_of(workspace, base, tmp_path)
    train(workspace, run)
    file, family = run.checkpoints()[-1].folder / LORA, detect(str(base))
    denoiser: Any = family.load_denoiser(str(base), torch.float32)
    denoiser.load_lora_adapter(load_file(file), prefix="transformer")
    loaded = {name for name, _ in denoiser.named_parameters() if "lora_A" in name}
    assert 2 * len(loaded) == len(load_file(file))
    denoiser.fuse_lora()
    merged = family.load_denoiser(ready_base(workspace, f"{base} + {file}"), torch.float32)
    theirs = {name.replace(".base_layer", ""): p for name, p in denoiser.named_parameters() if "lora_" not in name}
    for name, parameter in merged.named_parameters():
        torch.testing.assert_close(theirs[name], parameter, rtol=0, atol=1e-5)


@pytest.mark.parametrize("base", ONE_IS_QUICK, indirect=True)
def test_a_paused_run_ends_as_a_straight_one(base: Path, workspace: Workspace, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"train": {"steps": 4, "precision": "bf16"}, "optim": {"ema_decay": 0.9}}
    straight, paused = (run_of(workspace, base, tmp_path, **settings) for _ in range(2))
    train(workspace, straight)
    assert train(workspace, paused, {2: "pause"}).outcome == "paused"
    assert train(workspace, Run(paused.folder)).outcome == "completed"
    assert_same_run(straight, Run(paused.folder))


@pytest.mark.parametrize(
    "layers", [*(pytest.param(one, marks=pytest.mark.long) for one in ("attention", "linear")), "all"]
)
def test_memory_is_predicted(base: Path, layers: str, workspace: Workspace, tmp_path: Path) -> None:
    run = run_of(workspace, base, tmp_path, tuning={"layers": layers}, train={"steps": 1, "precision": "bf16"})
    predicted = predict(workspace, run.config, images=4).training
    trainer = build_trainer(workspace, run, Control().token, lambda event: None)
    trained = sum(parameter.nbytes for parameter in trainer.state.trainable.parameters())
    trainer.close()
    assert predicted["trained weights"] == trained and predicted["optimizer"] == 2 * trained
