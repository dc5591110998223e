"""A whole base as a folder and as one file: diffusers' own reader finds the same bits, for every family."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from engine.bases.merging import ready_base
from engine.errors import UserError
from engine.export.base_export import export_merged
from engine.export.base_files import BaseSource, read_base, write_configs, write_file, write_folder
from engine.export.deliver import exports_in
from engine.export.out import export
from engine.families.ldm_base import to_ldm
from engine.families.registry import by_name, describe, detect
from engine.families.single_file import load
from engine.jobs.control import Control
from engine.runs.run import Run
from engine.training.job import build_trainer
from engine.tuning.whole_base import AVERAGED_DENOISER
from engine.workspace.paths import Workspace
from tests.bases.lora_files import factors, kohya, write
from tests.families.ldm_file import described, real_shapes
from tests.short_runs import train
from tests.teaching_runs import add_images, run_of

KINDS = {
    "unet": UNet2DConditionModel,
    "vae": AutoencoderKL,
    "text_encoder": CLIPTextModel,
    "text_encoder_2": CLIPTextModelWithProjection,
}


def read(base: Path, precision: str = "fp32") -> BaseSource:
    return read_base(detect(str(base)), str(base), {}, {}, precision, {"format": "pt"})


def test_diffusers_reads_one_file_as_the_base_it_was_made_of(any_base: Path, tmp_path: Path) -> None:
    source, file = read(any_base), tmp_path / "whole.safetensors"
    write_file(file, source)
    (tmp_path / "whole").mkdir()
    write_configs(tmp_path / "whole", source)
    assert describe(str(file)) == describe(str(any_base))
    assert len(source.parts) == (4 if "sdxl" in str(any_base) else 3)
    for part in source.parts:
        ours = KINDS[part].from_pretrained(any_base, subfolder=part).state_dict()
        theirs = load(KINDS[part], str(file), part, torch.float32).state_dict()
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(theirs[name], tensor) for name, tensor in ours.items())


def test_a_folder_has_the_names_that_every_program_knows(any_base: Path, tmp_path: Path) -> None:
    source = read(any_base, "fp16")
    write_folder(tmp_path / "whole", source)
    for part in source.parts:
        ours = KINDS[part].from_pretrained(any_base, subfolder=part).state_dict()
        theirs = KINDS[part].from_pretrained(tmp_path / "whole", subfolder=part, torch_dtype=torch.float16).state_dict()
        assert all(torch.equal(theirs[name], tensor.half()) for name, tensor in ours.items())
    with safe_open(tmp_path / "whole" / "text_encoder" / "model.safetensors", "pt") as encoder:
        assert all(name.startswith("text_model.") for name in encoder.keys())  # noqa: SIM118
    assert describe(str(tmp_path / "whole")) == describe(str(any_base))


@pytest.mark.parametrize("layout", ["sd1", "sd2", "sdxl"])
def test_the_real_models_get_the_published_names_and_shapes(layout: str) -> None:

    parts = {
        part: {name: torch.empty(shape, device="meta") for name, shape in described(layout, part)}
        for part in ("unet", "vae", "text_encoder", *(["text_encoder_2"] if layout == "sdxl" else []))
    }
    for part, tensors in parts.items():
        if part.startswith("text"):
            long = {n if n.startswith("text_") else f"text_model.{n}": t for n, t in tensors.items()}
            parts[part] = long
    found = to_ldm(parts, by_name(layout).facts, {"prediction_type": "v_prediction"})
    assert {name: tuple(tensor.shape) for name, tensor in found.items()} == {**real_shapes(layout), "v_pred": (0,)}


def test_a_transformer_has_no_such_file(tiny_sd3: Path) -> None:
    with pytest.raises(UserError, match="cannot be written as one file"):
        to_ldm({}, detect(str(tiny_sd3)).facts, {})


@pytest.fixture
def trained(workspace: Workspace, tmp_path: Path, tiny_base: Path) -> Run:
    """A run of two steps on the whole base, with EMA."""
    add_images(workspace, tmp_path / "images")
    run = run_of(workspace, tiny_base, tuning={"what": "base"}, train={"steps": 2}, optim={"ema_decay": 0.5})
    assert train(workspace, run).outcome == "completed"
    return Run(run.folder)


def test_an_export_has_the_weights_that_previews_are_drawn_with(
    trained: Run, workspace: Workspace, tiny_base: Path
) -> None:
    folder = trained.checkpoints()[-1].folder
    made = export(folder, "diffusers", trained.exports, "mine", "fp32", base=str(tiny_base))
    assert made.checked.startswith("Read back as diffusers reads it: ") and "mean difference 0.00" in made.checked
    exported = detect(str(made.path)).load_denoiser(str(made.path), torch.float32).state_dict()
    averaged = load_file(folder / AVERAGED_DENOISER)
    assert exported.keys() == averaged.keys() and all(torch.equal(exported[n], averaged[n]) for n in averaged)
    trainer = build_trainer(workspace, trained, Control().token, lambda event: None)
    with trainer.state.exported_weights():
        drawn = trainer.state.denoiser.state_dict()
        assert all(torch.equal(drawn[name], tensor) for name, tensor in exported.items())
    trainer.close()
    assert "steps | 2 |" in (made.path / "README.md").read_text(encoding="utf-8")
    assert [one.path for one in exports_in(trained.exports)] == [made.path]
    with pytest.raises(UserError, match="already exists"):
        export(folder, "diffusers", trained.exports, "mine", base=str(tiny_base))
    export(folder, "diffusers", trained.exports, "mine", base=str(tiny_base), overwrite=True)


def test_one_file_of_a_run_is_a_base_again(trained: Run, tiny_base: Path) -> None:
    """The tiny base has a structure of its own, so its configs are beside the file."""
    folder = trained.checkpoints()[-1].folder
    made = export(folder, "single_file", trained.exports, "mine", "fp16", base=str(tiny_base))
    assert made.path.name == "mine_sd15.safetensors" and "needs the folder mine_sd15 beside it" in made.checked
    denoiser = detect(str(made.path)).load_denoiser(str(made.path), torch.float32).state_dict()
    averaged = load_file(folder / AVERAGED_DENOISER)
    assert all(torch.equal(denoiser[name], tensor.half().float()) for name, tensor in averaged.items())
    with safe_open(made.path, "pt") as file:
        assert file.metadata()["modelspec.architecture"] == "stable-diffusion-v1"
    with pytest.raises(UserError, match="There is no export format ldm"):
        export(folder, "ldm", trained.exports, "other", base=str(tiny_base))
    with pytest.raises(UserError, match="which was not found"):
        export(folder, "diffusers", trained.exports, "other")


def test_markers_name_velocity_and_zero_snr(tiny_sd2: Path) -> None:
    source = read(tiny_sd2)
    assert {"v_pred", "ztsnr"} <= to_ldm(source.parts, source.family.facts, source.schedule).keys()


def test_a_merged_base_can_be_exported(workspace: Workspace, tiny_base: Path, tmp_path: Path) -> None:
    lora = tmp_path / "style.safetensors"
    write(lora, kohya("lora_unet_", factors(detect(str(tiny_base)).load_denoiser(str(tiny_base), torch.float32))))
    reference = f"{tiny_base} + {lora}:0.5"
    made = export_merged(workspace, reference, precision="fp32", name="merged")
    assert made.path.parent == workspace.models and "mean difference 0.00" in made.checked
    merged = ready_base(workspace, reference)
    ours, theirs = (detect(b).load_denoiser(b, torch.float32).state_dict() for b in (merged, str(made.path)))
    assert all(torch.equal(theirs[name], tensor) for name, tensor in ours.items())
