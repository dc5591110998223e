"""Training a Control-LoRA: it shares the base, learns, resumes bit for bit, and leaves as it was trained."""

from __future__ import annotations

import gc
import json
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import init_empty_weights
from diffusers import UNet2DConditionModel
from PIL import Image
from safetensors.torch import load_file

from engine.errors import UserError
from engine.export import AS_TRAINED, export, readers
from engine.families.control_files import LORA_MARK
from engine.families.files import LAYOUTS
from engine.families.layers import UNET
from engine.families.ldm_keys import to_ldm
from engine.families.registry import by_name, detect
from engine.families.sizes import Learned
from engine.families.unet_sizes import count
from engine.inference.request import TryRequest
from engine.inference.session import TrySession
from engine.jobs.control import Control
from engine.jobs.events import PreviewMade
from engine.nets import importing
from engine.nets.controlnet_files import WEIGHTS
from engine.nets.importing import read_controlnet
from engine.nets.lora import load_trained, lora_layers, merged_weights, to_control_lora, trained_tensors
from engine.nets.outputs import fixed_outputs, largest_difference
from engine.runs.checkpoints import FACTORS, description_checksum
from engine.training.job import build_trainer
from engine.tuning.controlnet import ControlLora, WholeControlNet
from engine.tuning.trainable import Placement
from engine.workspace.paths import Workspace
from tests import tiny_bases
from tests.compare_runs import assert_same_checkpoint
from tests.short_runs import RunFactory, train

RANK = 4
FAMILIES = ["tiny_base", "tiny_sd2", "tiny_sdxl"]


@pytest.fixture(params=FAMILIES)
def family_base(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(request.param))


def nets(base: str, rank: int = RANK) -> tuple[Any, Any, Any]:
    """UNet, a new ControlNet, and the same as a Control-LoRA."""
    family = detect(base)
    unet = family.load_denoiser(base, torch.float32)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        whole = family.new_controlnet(unet)
        thin = family.new_controlnet(unet)
        thin.load_state_dict(whole.state_dict())
        to_control_lora(thin, unet, rank, family.layers)
    return unet, whole, thin


def stir(net: Any, seed: int = 3) -> None:
    """As training would: everything that learns moves."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator)


def test_it_begins_as_the_whole_net_and_shares_the_bases_weights(family_base: str) -> None:
    unet, whole, thin = nets(family_base)
    layers = lora_layers(thin)
    of_base = dict(unet.named_parameters())
    assert any("attn2.to_k" in name for name in layers) and any("conv1" in name for name in layers)
    assert all(layer.weight is of_base[f"{name}.weight"] for name, layer in layers.items())
    assert all(torch.equal(tensor, whole.state_dict()[name]) for name, tensor in merged_weights(thin).items())
    learning = sum(p.numel() for p in thin.parameters() if p.requires_grad)
    assert learning < 0.8 * sum(p.numel() for p in whole.parameters())
    assert all(p.requires_grad for name, p in thin.named_parameters() if name.endswith((".bias", "norm1.weight")))
    place = Placement(torch.device("cpu"), torch.float32)
    low_rank, full = ControlLora(thin, place), WholeControlNet(whole, place)
    assert low_rank.checkpoint_bytes(False) < full.checkpoint_bytes(False)


def test_its_answers_are_those_of_the_merged_net(family_base: str) -> None:
    _, whole, thin = nets(family_base)
    stir(thin)
    given = fixed_outputs(dict(whole.config), merged_weights(thin))
    with torch.no_grad():
        answers = detect(family_base).control_outputs(thin, torch.Generator().manual_seed(0))
    for one, other in zip(answers, given, strict=True):
        assert float((one - other).abs().max()) < 1e-4 * float(other.abs().max())


def test_what_learnt_goes_into_another_net_and_nothing_else_does(tiny_base: Path) -> None:
    _, whole, thin = nets(str(tiny_base))
    _, _, other = nets(str(tiny_base))
    stir(thin)
    load_trained(other, trained_tensors(thin))
    assert all(torch.equal(tensor, trained_tensors(thin)[name]) for name, tensor in trained_tensors(other).items())
    with pytest.raises((ValueError, RuntimeError)):
        load_trained(nets(str(tiny_base), 8)[2], trained_tensors(thin))
    with pytest.raises(ValueError, match="differs from this net"):
        load_trained(other, whole.state_dict())


def test_a_net_that_has_learnt_is_taken_over_and_every_direction_can_still_learn(tiny_base: Path) -> None:
    unet, whole, thin = nets(str(tiny_base))
    stir(thin)
    whole.load_state_dict(merged_weights(thin))
    to_control_lora(whole, unet, 2 * RANK, UNET, trained=True)  # twice the room: half of it has nothing to hold yet
    there, here = merged_weights(thin), merged_weights(whole)
    assert all(torch.allclose(here[name], tensor, atol=1e-4) for name, tensor in there.items())
    for layer in lora_layers(whole).values():
        alive = layer.up.flatten(1).norm(dim=0) + layer.down.flatten(1).norm(dim=1)
        assert (alive > 1e-3).all()


@pytest.mark.parametrize(
    "family_base",
    [*(pytest.param(name, marks=pytest.mark.long) for name in FAMILIES[:-1]), FAMILIES[-1]],
    indirect=True,
)
def test_a_run_of_each_family_from_start_to_export(
    family_base: str, new_run: RunFactory, ready_workspace: Workspace, edges: Image.Image, tmp_path: Path
) -> None:
    settings = {
        "model.base": family_base,
        "model.control_lora_rank": RANK,
        "train.steps": 4,
        "optim.ema_decay": 0.9,
        "validation.every": 4,
        "validation.pictures": 1,
        "validation.sampling_steps": 2,
        "validation.check_every": 50,
    }
    straight, paused = new_run(**settings), new_run(**settings)
    trained = train(ready_workspace, straight)
    assert trained.outcome == "completed"
    assert trained.warnings == []
    assert [event.step for event in trained.of(PreviewMade)] == [0, 4]
    assert train(ready_workspace, paused, at_step={2: "pause"}).outcome == "paused"
    assert train(ready_workspace, paused).outcome == "completed"
    checkpoint = straight.checkpoints()[-1]
    last = checkpoint.folder
    assert checkpoint.trained_rank == RANK
    assert_same_checkpoint(last, paused.checkpoints()[-1].folder)

    request = TryRequest(
        base=family_base, controlnet=last, prompt="red circle", control=edges, steps=2, width=64, height=64
    )
    assert np.asarray(TrySession(ready_workspace, device="cpu").generate([request])[0]).std() > 1

    family = detect(family_base)
    made = export(last, "control_lora", tmp_path, "mine", "fp32", "plain", base=family_base)
    assert "as they were trained" in made.checked and "a Control-LoRA" in made.checked
    found = read_controlnet(made.path, family, family_base)
    factors = {name for name in load_file(made.path) if name.endswith(".up")}
    assert len(factors) == sum(name.endswith(".up") for name in load_file(last / FACTORS)) > 5
    original = load_file(last / "controlnet" / WEIGHTS)
    assert largest_difference(found.config, original, found.tensors) < 1e-5
    assert (found.metadata["control_lora_rank"], found.metadata["control_lora"]) == (str(RANK), "as trained")
    whole = read_controlnet(export(last, "ldm", tmp_path, "whole", "fp32", "plain").path, family, family_base)
    assert all(torch.equal(whole.tensors[name], weight) for name, weight in original.items())


@pytest.mark.parametrize(("rank", "widths"), [(32, (64, 128)), pytest.param(256, (512, 1024), marks=pytest.mark.long)])
def test_a_run_with_a_rank_as_the_real_families_have_it(
    rank: int, widths: tuple[int, int], new_run: RunFactory, ready_workspace: Workspace, tmp_path: Path
) -> None:
    """The bases above are too narrow for it."""
    unet = tiny_bases.UNET | {"block_out_channels": widths, "norm_num_groups": 32, "attention_head_dim": 8}
    base = tiny_bases.build(tmp_path / "base", tmp_path / "tokenizer", unet, {})
    run = new_run(**{"model.base": str(base), "model.control_lora_rank": rank, "train.steps": 2})
    trained = train(ready_workspace, run)
    assert trained.warnings == []
    last = run.checkpoints()[-1]
    assert last.trained_rank == rank
    factors = load_file(last.folder / FACTORS)
    ups = {name: tensor for name, tensor in factors.items() if name.endswith(".up")}
    assert len(ups) > 5 and {tensor.shape[1] for tensor in ups.values()} == {rank}
    assert all(bool(tensor.any()) for tensor in ups.values()), "each has learnt: it begins as zeros"
    made = export(last.folder, "control_lora", tmp_path, "mine", "fp32", base=str(base), rank=AS_TRAINED)
    found = read_controlnet(made.path, detect(str(base)), str(base))
    assert largest_difference(found.config, load_file(last.folder / "controlnet" / WEIGHTS), found.tensors) < 1e-5


def test_the_average_leaves_as_trained_too(new_run: RunFactory, ready_workspace: Workspace, tmp_path: Path) -> None:
    settings = {"model.control_lora_rank": RANK, "optim.ema_decay": 0.5, "train.precision": "bf16"}
    run = new_run(**settings)
    train(ready_workspace, run)
    last, base = run.checkpoints()[-1].folder, str(run.config.model.base)
    made = [
        load_file(export(last, "control_lora", tmp_path, kind, "fp32", kind, base=base).path)  # type: ignore[arg-type]
        for kind in ("plain", "ema")
    ]
    assert made[0].keys() == made[1].keys()
    assert any(not torch.equal(made[0][name], made[1][name]) for name in made[0] if name.endswith(".up"))


@pytest.mark.long
def test_the_loss_falls(new_run: RunFactory, ready_workspace: Workspace) -> None:
    settings = {"model.control_lora_rank": RANK, "train.steps": 40, "optim.learning_rate": 5e-3}
    run = new_run(**settings, **{"train.batch_size": 4, "objective.prompt_dropout": 0.0})
    train(ready_workspace, run)
    losses = [entry["loss"] for entry in run.metrics() if "loss" in entry]
    assert np.mean(losses[-10:]) < 0.98 * np.mean(losses[:10])


@pytest.mark.parametrize("rank", [RANK, *(pytest.param(rank, marks=pytest.mark.long) for rank in (0, 8))])
def test_a_training_starts_from_a_control_lora(
    rank: int, new_run: RunFactory, ready_workspace: Workspace, tmp_path: Path
) -> None:
    first = new_run(**{"model.control_lora_rank": RANK, "train.steps": 3})
    train(ready_workspace, first)
    last, base = first.checkpoints()[-1].folder, str(first.config.model.base)
    file = export(last, "control_lora", tmp_path, "mine", "fp32", base=base, rank=AS_TRAINED).path
    second = new_run(
        **{
            "model.controlnet": str(file),
            "model.control_lora_rank": rank,
            "optim.learning_rate": 1e-12,
            "train.steps": 1,
        }
    )
    train(ready_workspace, second)
    assert second.checkpoints()[-1].trained_rank == rank
    one, two = (load_file(run.checkpoints()[-1].folder / "controlnet" / WEIGHTS) for run in (first, second))
    assert all(torch.allclose(weight, two[name], atol=1e-5) for name, weight in one.items())


@pytest.mark.parametrize("over", ["base", "start"])
def test_of_the_net_that_it_started_from_no_whole_layer_stays_in_ram(
    over: str,
    new_run: RunFactory,
    ready_workspace: Workspace,
    loud_controlnet: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Beneath the factors are the base's own weights, or copies in half precision, which the step computes with."""
    opened: dict[str, weakref.ref[torch.Tensor]] = {}
    real = importing.open_controlnet

    def open_controlnet(*arguments: Any) -> Any:
        net = real(*arguments)
        opened.update({name: weakref.ref(weight) for name, weight in net.named_parameters()})
        return net

    monkeypatch.setattr(importing, "open_controlnet", open_controlnet)
    settings = {"model.controlnet": str(loud_controlnet), "model.control_lora_rank": RANK, "model.low_rank_over": over}
    run = new_run(**settings, **{"train.precision": "bf16"})
    trainer = build_trainer(ready_workspace, run, Control().token, lambda event: None)
    gc.collect()
    left = {name for name, weight in opened.items() if weight() is not None}
    layers = lora_layers(trainer.state.trainable.master)
    computing = lora_layers(trainer.state.trainable.control_net)
    assert len(layers) > 20 and not left & {f"{name}.weight" for name in layers}
    assert all(layer.weight is computing[name].weight for name, layer in layers.items()), "there is no second copy"
    assert {layer.weight.dtype for layer in layers.values()} == {torch.bfloat16}
    trainer.close()


def test_without_its_base_it_cannot_leave(new_run: RunFactory, ready_workspace: Workspace, tmp_path: Path) -> None:
    run = new_run(**{"model.control_lora_rank": RANK, "train.steps": 1})
    train(ready_workspace, run)
    description = run.checkpoints()[-1].folder / "checkpoint.json"
    about = json.loads(description.read_text(encoding="utf-8")) | {"base": "/gone"}
    description.write_text(json.dumps(about | {"seal": description_checksum(about)}), encoding="utf-8")
    with pytest.raises(UserError, match="Control-LoRA cannot be made"):
        export(description.parent, "control_lora", tmp_path, "mine")


@pytest.mark.parametrize("layout", ["sd1", "sdxl"])
def test_at_the_real_size_the_readers_take_it_and_its_numbers_are_foreseen(layout: str) -> None:
    """On the meta device: names and shapes of the real thing, without its gigabytes."""
    config = json.loads((LAYOUTS / layout / "unet" / "config.json").read_text(encoding="utf-8"))
    family = by_name(layout)
    with init_empty_weights():
        unet = UNet2DConditionModel.from_config(config)
        net: Any = family.new_controlnet(unet)
        shapes = {name: tuple(weight.shape) for name, weight in net.state_dict().items()}
        to_control_lora(net, unet, 64, family.layers)
    raw = {name: tuple(weight.shape) for name, weight in to_ldm(trained_tensors(net), net.config).items()} | {
        LORA_MARK: (1,)
    }
    assert readers.check(raw, shapes, net.config, f"mine_{family.facts.file_tag}", family.facts) == "a Control-LoRA"
    learning = sum(p.numel() for p in net.parameters() if p.requires_grad)
    assert learning == count(config, 512, learned=Learned(rank=64)).controlnet.trained
    assert learning < 0.2 * sum(torch.Size(shape).numel() for shape in shapes.values())
