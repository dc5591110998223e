"""A LoRA that is trained on the text encoders, too: names, gradients, rates, and what its file does elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file

from engine.bases.merging import ready_base
from engine.errors import UserError
from engine.estimate.memory import predict
from engine.export.out import export
from engine.families.embedding_files import parts_by_folder
from engine.families.registry import detect
from engine.jobs.control import Control
from engine.nets.lora import LoraConv2d, LoraLinear
from engine.runs.checkpoints import LORA
from engine.runs.run import Run
from engine.training.job import build_trainer
from engine.training.optim import RATE_SHARE
from engine.training.state import TrainState
from engine.training.trainer import Trainer
from engine.workspace.paths import Workspace
from tests.compare_runs import assert_same_run, step_gradients
from tests.short_runs import train
from tests.teaching_runs import add_images
from tests.teaching_runs import run_of as run_that_teaches

KINDS = (LoraLinear, LoraConv2d)


@pytest.fixture
def images_only(workspace: Workspace, tmp_path: Path) -> Workspace:
    add_images(workspace, tmp_path / "images")
    return workspace


def run_of(workspace: Workspace, base: Path, **sections: Any) -> Run:
    tuning = {"what": "lora", "rank": 4, "text_rate": 5e-3} | sections.pop("tuning", {})
    optim = {"learning_rate": 1e-2} | sections.pop("optim", {})
    return run_that_teaches(workspace, base, tuning=tuning, optim=optim, **sections)


def built(workspace: Workspace, run: Run) -> Trainer:
    return build_trainer(workspace, run, Control().token, lambda event: None)


def encoders_of(state: TrainState) -> dict[str, Any]:
    assert state.trainable.learned_text is not None
    return parts_by_folder(state.family, "text_encoder", state.trainable.learned_text.encoder)


@pytest.mark.parametrize("base", ["tiny_base", pytest.param("tiny_sdxl", marks=pytest.mark.long)])
def test_the_file_changes_text_and_denoiser_as_the_run_did(
    base: str, images_only: Workspace, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(base)
    run = run_of(images_only, folder)
    trained = train(images_only, run)
    assert trained.outcome == "completed" and trained.warnings == []
    checkpoint = run.checkpoints()[-1].folder
    names = {name.split("_layers_")[0] for name in load_file(checkpoint / LORA) if "_te" in name[:8]}
    inside = "text_model_encoder"
    expected = {f"lora_te1_{inside}", f"lora_te2_{inside}"} if base == "tiny_sdxl" else {f"lora_te_{inside}"}
    assert names == expected
    made = export(checkpoint, "single_file", run.exports, "style", "fp32", base=str(folder))
    assert made.checked == "Read back: all tensors are equal. Every layer fits the base."
    merged = ready_base(images_only, f"{folder} + {made.path}")
    family = detect(merged)
    tokenizer, encoder = family.load_tokenizer(merged), family.load_text_encoder(merged, torch.float32)
    plain = family.load_text_encoder(str(folder), torch.float32)
    trainer = built(images_only, Run(run.folder))
    text = trainer.state.trainable.learned_text
    assert text is not None
    with torch.no_grad():
        now = text.encode(text.numbers_of("noise 1"))
        from_file = family.encode_text(tokenizer, encoder, ["noise 1"])
        before = family.encode_text(tokenizer, plain, ["noise 1"])
    trainer.close()
    for name, rows in now.items():
        torch.testing.assert_close(from_file[name], rows, rtol=0, atol=1e-4)
        assert (before[name] - rows).abs().max() > 1e-3


@pytest.mark.long
def test_a_paused_run_ends_as_a_straight_one(images_only: Workspace, tiny_base: Path) -> None:
    settings: dict[str, Any] = {"train": {"precision": "bf16", "accumulation": 2}, "optim": {"ema_decay": 0.9}}
    straight, paused = (run_of(images_only, tiny_base, **settings) for _ in range(2))
    train(images_only, straight)
    assert train(images_only, paused, {2: "pause"}).outcome == "paused"
    assert train(images_only, Run(paused.folder)).outcome == "completed"
    assert_same_run(straight, Run(paused.folder))


def test_the_text_encoders_have_their_own_rate(images_only: Workspace, tiny_base: Path) -> None:
    run = run_of(images_only, tiny_base, optim={"warmup_steps": 2})
    trainer = built(images_only, run)
    state = trainer.state
    state.set_learning_rate(1e-2)
    rates = {parameter: group["lr"] for group in state.parallel.optimizer.param_groups for parameter in group["params"]}
    found = {(name.startswith("lora_te_"), rates[p]) for name, p in state.trainable.master.named_parameters()}
    assert found == {(False, 1e-2), (True, 5e-3)}
    assert {group.get(RATE_SHARE, 1) for group in state.optimizer.param_groups} == {1, 0.5}
    trainer.close()


def test_loss_and_gradients_are_those_of_peft(images_only: Workspace, tiny_base: Path) -> None:
    """The factors in peft's layers, and the loss by hand: the mean squared error of one batch's prediction."""
    trainer = built(images_only, run_of(images_only, tiny_base))
    state, base = trainer.state, str(tiny_base)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in state.trainable.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.05)
    loss, ours = step_gradients(state)

    family = state.family
    unet, encoder = family.load_denoiser(base, torch.float32), family.load_text_encoder(base, torch.float32)
    expected: dict[str, torch.Tensor] = {}
    for net, own, prefix in ((unet, state.denoiser, "lora_unet_"), (encoder, encoders_of(state)["text_encoder"], "")):
        layers = {name: layer for name, layer in own.named_modules() if isinstance(layer, KINDS)}
        settings = peft.LoraConfig(r=4, lora_alpha=4, target_modules=list(layers), lora_dropout=0.0)
        peft.inject_adapter_in_model(settings, net)
        for name, layer in layers.items():
            theirs: Any = net.get_submodule(name)
            theirs.lora_A["default"].weight.data.copy_(layer.down)
            theirs.lora_B["default"].weight.data.copy_(layer.up)
            flat = (prefix or "lora_te_text_model_") + name.replace(".", "_")
            expected |= {
                f"{flat}__down": theirs.lora_A["default"].weight,
                f"{flat}__up": theirs.lora_B["default"].weight,
            }
    batch = state.batches.get(0)
    latents = state.latent_space.sample(batch.mean, batch.logvar, batch.random.posterior)
    size = (latents.shape[-2], latents.shape[-1])
    objective = state.config.objective
    timesteps = state.noise_process.shape_timesteps(batch.random.uniform_timesteps, objective.timestep_sampling, size)
    noisy = state.noise_process.add_noise(latents, batch.random.noise, timesteps)
    hidden = encoder(batch.text["tokens_1"][:, 0])[0]
    predicted = unet(noisy, timesteps, hidden, return_dict=False)[0]
    target = state.noise_process.target(latents, batch.random.noise, timesteps)
    theirs_loss = (predicted - target).square().mean()
    theirs_loss.backward()
    torch.testing.assert_close(loss, theirs_loss.detach(), rtol=1e-5, atol=0)
    norm = torch.nn.utils.get_total_norm([parameter.grad for parameter in expected.values()])
    clip = min(1.0, state.config.optim.max_grad_norm / (float(norm) + 1e-6))
    assert ours.keys() == expected.keys()
    for name, parameter in expected.items():
        assert parameter.grad is not None
        torch.testing.assert_close(ours[name], parameter.grad * clip, rtol=1e-3, atol=1e-6)
    trainer.close()


@pytest.mark.parametrize("base", ["tiny_base", "tiny_sdxl"])
def test_memory_is_predicted(base: str, images_only: Workspace, request: pytest.FixtureRequest) -> None:
    run = run_of(images_only, request.getfixturevalue(base), train={"precision": "bf16"}, optim={"ema_decay": 0.9})
    predicted = predict(images_only, run.config, images=4)
    trainer = built(images_only, run)
    trained = sum(parameter.nbytes for parameter in trainer.state.trainable.parameters())
    encoders = sum(
        p.nbytes for e in encoders_of(trainer.state).values() for n, p in e.named_parameters() if "up" not in n
    )
    trainer.close()
    assert predicted.training["trained weights"] == predicted.training["EMA"] == trained
    assert predicted.training["optimizer"] == 2 * trained
    assert 0.6 < predicted.training["text encoder"] / encoders <= 1.05


def test_text_encoders_of_other_families_are_refused(images_only: Workspace, tiny_sd3: Path) -> None:
    with pytest.raises(UserError, match="text encoders of Stable Diffusion 3 cannot be trained"):
        run_of(images_only, tiny_sd3)
