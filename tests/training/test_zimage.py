"""A run on a tiny Z-Image: its step is the formula, and it trains, resumes, draws and leaves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import ZImageControlNetModel as TheirNet
from PIL import Image
from safetensors import safe_open

from engine.errors import UserError
from engine.estimate.memory import predict
from engine.export.out import export
from engine.families.zimage_net import ZImageControlNetModel
from engine.inference.request import TryRequest
from engine.inference.session import TrySession
from engine.jobs.control import Control
from engine.jobs.events import PreviewMade
from engine.nets.lora import lora_layers
from engine.training.job import build_trainer
from engine.workspace.paths import Workspace
from tests.compare_runs import assert_same_checkpoint, step_gradients
from tests.families.test_zimage import residuals_to_refiners
from tests.short_runs import RunFactory, train

SHORT = {"train.steps": 3, "validation.check_every": 50, "validation.every": 3}
SHORT |= {"validation.pictures": 1, "validation.sampling_steps": 2, "objective.timestep_sampling": "logit_normal"}


@pytest.mark.parametrize("checkpointing", ["none", "both"])
def test_its_step_is_the_formula(
    tiny_zimage: Path, new_run: RunFactory, ready_workspace: Workspace, checkpointing: str
) -> None:
    """Loss and gradients of a step that is written down here with diffusers' classes alone."""
    settings = {"model.base": str(tiny_zimage), "objective.prompt_dropout": 0.0, "optim.max_grad_norm": 1e9}
    run = new_run(**settings, **SHORT, **{"train.gradient_checkpointing": checkpointing})
    trainer = build_trainer(ready_workspace, run, Control().token, lambda event: None)
    state = trainer.state
    net: Any = state.trainable.master
    for block in (net.control_layers[0], net.control_noise_refiner[0]):
        torch.nn.init.normal_(block.after_proj.weight, std=0.1)
    batch = state.batches.get(0)
    loss, gradients = step_gradients(state)
    draws = batch.random
    latents = (batch.mean + torch.exp(0.5 * batch.logvar) * draws.posterior - 0.1159) * 0.3611
    u = torch.sigmoid(torch.special.ndtri((draws.uniform_timesteps.double() + 0.5) / 2**20))
    k = 1 + 16**0.5 / 32  # of 16 tokens
    sigma = (k * u / (1 + (k - 1) * u)).float()
    noisy = latents + sigma[:, None, None, None] * (draws.noise - latents)
    assert batch.maps is not None
    hint = torch.nn.functional.pad(batch.maps, (0, 0, 0, 0, 0, 17))[:, :, None]  # from the cache: latents
    captions = [row[: int(n)] for row, n in zip(batch.text["hidden"], batch.text["real"].sum(1), strict=True)]
    theirs = TheirNet.from_config(net.config)
    theirs.load_state_dict(net.state_dict())
    TheirNet.from_transformer(theirs, state.denoiser).gradient_checkpointing = False  # missing in 0.42.1
    images = [one[:, None] for one in noisy]
    state.denoiser.disable_gradient_checkpointing()
    residuals_to_refiners(theirs, state.denoiser)
    residuals = theirs(images, 1 - sigma, captions, list(hint))
    predicted = state.denoiser(images, 1 - sigma, captions, controlnet_block_samples=residuals).sample
    expected = torch.nn.functional.mse_loss(-torch.stack(predicted)[:, :, 0], draws.noise - latents)
    expected.backward()
    assert float(loss) == pytest.approx(expected.item(), rel=1e-5)
    for name, parameter in theirs.named_parameters():
        if name in gradients and parameter.grad is not None:
            assert torch.allclose(gradients[name], parameter.grad, rtol=1e-4, atol=1e-6), name
    trainer.close()


def test_it_trains_resumes_and_draws(
    tiny_zimage: Path, new_run: RunFactory, ready_workspace: Workspace, edges: Image.Image, tmp_path: Path
) -> None:
    settings = SHORT | {"model.base": str(tiny_zimage), "optim.learning_rate": 1e-2}
    settings |= {"data.dataset": "mixed", "data.buckets": True, "data.bucket_step": 16}
    settings |= {"objective.hidden_captions": 0.5, "objective.control_dropout": 0.5}
    straight, paused = new_run(**settings), new_run(**settings)
    trained = train(ready_workspace, straight)
    assert trained.outcome == "completed" and trained.warnings == []
    assert [event.step for event in trained.of(PreviewMade)] == [0, 3]
    assert train(ready_workspace, paused, at_step={2: "pause"}).outcome == "paused"
    assert train(ready_workspace, paused).outcome == "completed"
    last = straight.checkpoints()[-1].folder
    assert_same_checkpoint(last, paused.checkpoints()[-1].folder)

    plain = TryRequest(
        base=str(tiny_zimage), controlnet=last, prompt="red", control=edges, steps=2, width=64, height=64
    )
    session = TrySession(ready_workspace, device="cpu")
    requests = [plain, replace(plain, image=edges, change=0.6), replace(plain, sampler="dpmpp_2m_karras", guidance=1.0)]
    drawn = [np.asarray(session.generate([one])[0]) for one in requests]
    assert all(one.std() > 1 for one in drawn)
    assert len({one.tobytes() for one in drawn}) == 3
    assert predict(ready_workspace, straight.config).peak > 0

    for kind in ("single_file", "diffusers"):
        left = export(last, kind, tmp_path, f"net-{kind}").path
        again = session.generate([replace(plain, controlnet=left)])[0]
        assert np.abs(np.asarray(again).astype(int) - drawn[0]).max() <= 1, kind
    assert (tmp_path / "net-single_file_zimage.safetensors").is_file()
    with pytest.raises(UserError, match="no such format for Z-Image"):
        export(last, "ldm", tmp_path, "net")


def test_what_a_transformer_has_not_is_refused(
    tiny_zimage: Path, new_run: RunFactory, ready_workspace: Workspace
) -> None:
    for setting, title in (
        ({"objective.sd_locked": False}, "Keep the base frozen"),
        ({"objective.only_mid_control": True}, "Control only in the middle"),
        ({"objective.min_snr_gamma": 5.0}, "Min-SNR gamma"),
    ):
        with pytest.raises(UserError, match=title):
            train(ready_workspace, new_run(**SHORT | {"model.base": str(tiny_zimage)} | setting))


@pytest.mark.long
def test_a_control_lora_shares_the_layers_of_the_base(
    tiny_zimage: Path, new_run: RunFactory, ready_workspace: Workspace, tmp_path: Path
) -> None:
    """In bf16 and over a base in 4 bits, as the preset for 12 GB has it; it leaves as a whole net."""
    settings = SHORT | {"model.base": str(tiny_zimage), "model.control_lora_rank": 4, "train.base_storage": "nf4"}
    settings |= {"train.precision": "bf16", "train.steps": 2, "validation.every": 0, "optim.learning_rate": 1e-2}
    run = new_run(**settings)
    trainer = build_trainer(ready_workspace, run, Control().token, lambda event: None)
    net, base = trainer.state.trainable.master, trainer.state.denoiser
    layers = lora_layers(net)
    assert {name.split(".")[0] for name in layers} == {"control_layers", "control_noise_refiner"}
    assert layers["control_layers.1.attention.to_q"].weight is base.layers[1].attention.to_q.weight
    trainer.close()
    assert train(ready_workspace, run, at_step={1: "pause"}).outcome == "paused"
    assert train(ready_workspace, run).outcome == "completed"
    left = export(run.checkpoints()[-1].folder, "single_file", tmp_path, "net").path
    with safe_open(left, framework="pt") as file:
        names = set(file.keys())
        moved = file.get_tensor("control_layers.0.after_proj.weight")
    assert names == set(ZImageControlNetModel.from_config(net.config).state_dict())
    assert "control_all_x_embedder.2-1.weight" in names and bool(moved.any())
