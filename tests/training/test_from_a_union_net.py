"""Going on from a published union net for FLUX.1: its mode, and low rank on top of its own weights."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FluxControlNetModel
from PIL import Image
from safetensors.torch import load_file, save_file

from engine.config import RunConfig
from engine.errors import UserError
from engine.estimate.memory import predict
from engine.export.out import export
from engine.export.preprocessors import UNION_TYPES
from engine.families.control_files import MODE
from engine.families.facts import FLUX, SD1
from engine.families.flux_control_files import FLUX_FILES
from engine.families.registry import detect
from engine.inference.request import TryRequest
from engine.inference.session import TrySession
from engine.jobs.control import Control
from engine.nets.importing import open_controlnet
from engine.nets.initial import initial_controlnet
from engine.nets.lora import lora_layers, merged_weights, subtract_factors, to_low_rank_over_itself, trained_tensors
from engine.nets.outputs import net_of
from engine.nets.starting_controlnet import why_not_in_mode
from engine.runs.checkpoints import FACTORS
from engine.training.job import build_trainer
from engine.training.new_run import missing, require_all
from engine.tuning.facts import is_over_start
from engine.workspace.paths import Workspace
from tests.compare_runs import assert_same_checkpoint
from tests.families.test_flux import UNION
from tests.families.transformer_nets import FLUX_OUTPUTS, randomized
from tests.short_runs import RunFactory, train

RANK = 4


@pytest.fixture(scope="module")
def union(tiny_flux: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file as published: no config in it, weights in bf16."""
    family, base = detect(str(tiny_flux)), str(tiny_flux)
    config = family.new_controlnet(family.load_denoiser(base, torch.float32)).config
    net = randomized(FluxControlNetModel.from_config(config, **UNION), FLUX_OUTPUTS)
    path = tmp_path_factory.mktemp("union") / "union.safetensors"
    save_file({name: weight.to(torch.bfloat16).contiguous() for name, weight in net.state_dict().items()}, path)
    return path


def settings(base: Path, union: Path, **more: Any) -> dict[str, Any]:
    found = {"model.base": str(base), "model.controlnet": str(union), "model.union_mode": 2, "train.steps": 2}
    found |= {"validation.every": 0, "validation.check_every": 50, "optim.learning_rate": 1e-2}
    return found | {"objective.timestep_sampling": "logit_normal"} | more


def test_its_mode_has_to_be_chosen_and_goes_into_its_config(
    union: Path, tiny_flux: Path, tmp_path: Path, make_config: Any, ready_workspace: Workspace
) -> None:
    family, base = detect(str(tiny_flux)), str(tiny_flux)
    denoiser = family.load_denoiser(base, torch.float32)

    def start(mode: int) -> Any:
        model = {"base": base, "controlnet": str(union), "union_mode": mode}
        return initial_controlnet(tmp_path, RunConfig.model_validate({"model": model}), family, base, denoiser)

    for mode, words in ((-1, "0 is canny"), (3, "modes 0 to 2, not 3")):
        with pytest.raises(UserError, match=words):
            start(mode)
        assert words in why_not_in_mode(str(union), FLUX, mode)
        asked = make_config(**settings(tiny_flux, union, **{"model.union_mode": mode}))
        assert any(words in sentence for sentence in missing(ready_workspace, asked)), "before anything is cached"
    assert start(2).config[MODE] == 2 and why_not_in_mode(str(union), FLUX, 2) == ""
    start(1).save_pretrained(tmp_path / "net")
    assert why_not_in_mode(str(tmp_path / "net"), FLUX, -1) == "", "a net of this app names its mode"
    assert json.loads((tmp_path / "net" / "config.json").read_text(encoding="utf-8"))[MODE] == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_low_rank_on_top_of_it_is_the_merged_net_and_leaves_it_as_it_was(
    union: Path, tiny_flux: Path, dtype: torch.dtype
) -> None:
    family, base = detect(str(tiny_flux)), str(tiny_flux)
    thin, before = (open_controlnet(union, family, base) for _ in range(2))
    to_low_rank_over_itself(thin, RANK, family.layers, dtype)
    layers = lora_layers(thin)
    kinds = {name.split(".")[0] for name in layers}
    assert {"transformer_blocks", "single_transformer_blocks"} <= kinds and "controlnet_blocks" not in kinds
    same = merged_weights(thin)
    assert all(torch.equal(weight, same[name]) for name, weight in before.state_dict().items()), "it adds nothing yet"
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in thin.parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
        merged = net_of(dict(thin.config), merged_weights(thin))
        if dtype == torch.float32:
            found, whole = (family.control_outputs(net, torch.Generator().manual_seed(0)) for net in (thin, merged))
            assert all(
                torch.allclose(one, other, rtol=1e-5, atol=1e-5) for one, other in zip(found, whole, strict=True)
            )
        subtract_factors(merged, trained_tensors(thin))
        for name, layer in layers.items():
            back = merged.get_submodule(name).weight.to(dtype)
            assert torch.allclose(back, layer.weight, rtol=0, atol=1e-6)  # the smallest weights are rounded otherwise


def test_a_run_on_top_of_it_resumes_leaves_whole_and_draws_in_any_mode(
    union: Path,
    tiny_flux: Path,
    new_run: RunFactory,
    ready_workspace: Workspace,
    edges: Image.Image,
    tmp_path: Path,
) -> None:
    asked = settings(tiny_flux, union, **{"model.control_lora_rank": RANK, "train.precision": "bf16"})
    mine = tmp_path / "mine.safetensors"
    mine.write_bytes(union.read_bytes())
    straight, paused = new_run(**asked), new_run(**asked | {"model.controlnet": str(mine)})
    assert train(ready_workspace, straight).outcome == "completed"
    assert train(ready_workspace, paused, at_step={1: "pause"}).outcome == "paused"
    save_file({name: 2 * weight for name, weight in load_file(mine).items()}, mine)  # it is another one by now
    assert train(ready_workspace, paused).outcome == "completed"
    mine.unlink()
    require_all(ready_workspace, paused)
    last = straight.checkpoints()[-1]
    assert_same_checkpoint(last.folder, paused.checkpoints()[-1].folder)
    assert last.trained_rank == 0 and (last.folder / FACTORS).is_file(), "its factors are no difference to the base"
    trainer = build_trainer(ready_workspace, straight, Control().token, lambda event: None)
    net = trainer.state.trainable.master
    learning = {name for name, weight in net.named_parameters() if weight.requires_grad}
    assert "controlnet_mode_embedder.weight" in learning
    assert not any(f"{name}.weight" in learning for name in lora_layers(net))
    trainer.close()

    over_base = straight.config.model.model_copy(update={"low_rank_over": "base"})
    alone = straight.config.model_copy(update={"model": over_base})
    shared, own = (predict(ready_workspace, config) for config in (alone, straight.config))
    frozen = sum(layer.weight.numel() for layer in lora_layers(net).values())
    assert own.resident - shared.resident == pytest.approx(2 * frozen, rel=0.12), "without an embedder of the guidance"

    exported = export(last.folder, "single_file", tmp_path, "net", base=str(tiny_flux))
    file = exported.path
    assert exported.card is not None
    readme = (exported.card / "README.md").read_text(encoding="utf-8")
    assert '"control_mode": 2' in readme and "| mode of the union net | 2 |" in readme
    server = json.loads((exported.card / "comfyui_workflow_api.json").read_text(encoding="utf-8"))
    of = {node["class_type"]: node["inputs"] for node in server.values()}
    assert of["SetUnionControlNetType"]["type"] == UNION_TYPES[2], "its number is what ComfyUI gives to the net"
    assert server[of["ControlNetApplyAdvanced"]["control_net"][0]]["class_type"] == "SetUnionControlNetType"
    plain = TryRequest(base=str(tiny_flux), controlnet=file, prompt="red", control=edges, steps=1, width=64, height=64)
    session = TrySession(ready_workspace, device="cpu")
    drawn = [np.asarray(session.generate([replace(plain, union_mode=mode)])[0]) for mode in (-1, 0, 2)]
    assert np.array_equal(drawn[0], drawn[2]) and not np.array_equal(drawn[0], drawn[1])
    session.generate([replace(plain, controlnet=union)])
    assert any("0 is canny" in note for note in session.warnings)
    with pytest.raises(UserError, match="modes 0 to 2"):
        session.generate([replace(plain, union_mode=3)])


def test_what_low_rank_is_on_top_of() -> None:
    def over(facts: Any, **model: Any) -> bool:
        return is_over_start(RunConfig.model_validate({"model": {"base": "x", **model}}), facts)

    start = {"controlnet": "net", "control_lora_rank": 4}
    assert over(FLUX, **start) and not over(SD1, **start)
    assert over(SD1, **start, low_rank_over="start") and not over(FLUX, **start, low_rank_over="base")
    assert not over(FLUX, control_lora_rank=4) and not over(FLUX, controlnet="net")
    assert FLUX_FILES.modes({"num_mode": None}) == 0
