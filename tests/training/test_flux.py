"""A run on a tiny FLUX.1: its step is the formula, and it trains, resumes, draws and leaves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FluxControlNetModel
from PIL import Image
from safetensors.torch import load_file, save_file

from engine.errors import UserError
from engine.estimate.memory import predict
from engine.export.out import export
from engine.families.registry import detect
from engine.inference.request import TryRequest
from engine.inference.session import TrySession
from engine.jobs.control import Control
from engine.jobs.events import PreviewMade
from engine.nets.frozen_layers import quantize_base
from engine.nets.importing import open_controlnet
from engine.nets.lora import lora_layers, merged_weights, to_control_lora
from engine.nets.outputs import net_of
from engine.nets.weight_quantization import STORAGES
from engine.training.job import build_trainer
from engine.training.randomness import random_numbers
from engine.workspace.paths import Workspace
from tests.compare_runs import assert_same_checkpoint, step_gradients
from tests.families.transformer_nets import FLUX_OUTPUTS, randomized
from tests.short_runs import RunFactory, train

SHORT = {"train.steps": 3, "validation.check_every": 50, "validation.every": 3, "validation.guidance_scale": 3.5}
SHORT |= {"validation.pictures": 1, "validation.sampling_steps": 2, "objective.timestep_sampling": "logit_normal"}


def as_tokens(latents: torch.Tensor) -> torch.Tensor:
    """(B, C, 8, 8) as (B, 16, 4 C), written for one square at a time."""
    squares = [latents[:, :, y : y + 2, x : x + 2].flatten(1) for y in range(0, 8, 2) for x in range(0, 8, 2)]
    return torch.stack(squares, dim=1)


@pytest.mark.parametrize(("checkpointing", "guidance"), [("none", 0.0), ("both", 2.0)])
def test_its_step_is_the_formula(
    tiny_flux: Path, new_run: RunFactory, ready_workspace: Workspace, checkpointing: str, guidance: float
) -> None:
    """Loss and gradients of a step that is written down here with diffusers' classes alone."""
    settings = {"model.base": str(tiny_flux), "objective.prompt_dropout": 0.0, "optim.max_grad_norm": 1e9}
    settings |= {"objective.guidance": guidance}
    run = new_run(**settings, **SHORT, **{"train.gradient_checkpointing": checkpointing})
    trainer = build_trainer(ready_workspace, run, Control().token, lambda event: None)
    state = trainer.state
    net: Any = state.trainable.master
    torch.nn.init.normal_(net.controlnet_blocks[0].weight, std=0.1)
    torch.nn.init.normal_(net.controlnet_x_embedder.weight, std=0.1)
    batch = state.batches.get(0)
    loss, gradients = step_gradients(state)
    draws = batch.random
    latents = (batch.mean + torch.exp(0.5 * batch.logvar) * draws.posterior - 0.1159) * 0.3611
    assert latents.shape[2:] == (8, 8)
    u = torch.sigmoid(torch.special.ndtri((draws.uniform_timesteps.double() + 0.5) / 2**20))
    k = np.exp(0.5 + (1.15 - 0.5) * (16 - 256) / (4096 - 256))  # 16 tokens
    sigma = (k * u / (1 + (k - 1) * u)).float()
    noisy = latents + sigma[:, None, None, None] * (draws.noise - latents)
    assert batch.maps is not None
    inputs = {
        "hidden_states": as_tokens(noisy),
        "encoder_hidden_states": batch.text["hidden"].float(),
        "pooled_projections": batch.text["pooled"].float(),
        "timestep": sigma,
        "guidance": torch.full_like(sigma, guidance) if guidance else 1 + 6 * draws.even,
        "img_ids": torch.tensor([[0.0, row, column] for row in range(4) for column in range(4)]),
        "txt_ids": torch.zeros(512, 3),
    }
    assert len(set(draws.even.tolist())) == len(draws.even) > 1
    net.zero_grad(set_to_none=True)
    hint = as_tokens(batch.maps.float())  # from the cache: latents
    residuals, _ = net(controlnet_cond=hint, **inputs, return_dict=False)
    predicted = state.denoiser(**inputs, controlnet_block_samples=residuals).sample
    expected = torch.nn.functional.mse_loss(predicted, as_tokens(draws.noise - latents))
    expected.backward()
    assert float(loss) == pytest.approx(expected.item(), rel=1e-5)
    for name, parameter in net.named_parameters():
        if parameter.grad is not None:
            assert torch.allclose(gradients[name], parameter.grad, rtol=1e-4, atol=1e-6), name
    trainer.close()


def test_it_trains_resumes_and_draws(
    tiny_flux: Path, new_run: RunFactory, ready_workspace: Workspace, edges: Image.Image, tmp_path: Path
) -> None:
    settings = SHORT | {"model.base": str(tiny_flux), "optim.learning_rate": 1e-2, "train.precision": "bf16"}
    settings |= {"data.dataset": "mixed", "data.buckets": True, "data.bucket_step": 16}
    settings |= {"train.base_storage": "nf4", "train.modulation_storage": "int8"}
    straight, paused = new_run(**settings), new_run(**settings)
    trained = train(ready_workspace, straight)
    assert trained.outcome == "completed" and trained.warnings == []
    assert [event.step for event in trained.of(PreviewMade)] == [0, 3]
    assert train(ready_workspace, paused, at_step={2: "pause"}).outcome == "paused"
    assert train(ready_workspace, paused).outcome == "completed"
    last = straight.checkpoints()[-1].folder
    assert_same_checkpoint(last, paused.checkpoints()[-1].folder)

    plain = TryRequest(base=str(tiny_flux), controlnet=last, prompt="red", control=edges, steps=2, width=64, height=64)
    plain = replace(plain, guidance=3.5)
    session = TrySession(ready_workspace, device="cpu")
    requests = [plain, replace(plain, image=edges, change=0.6), replace(plain, sampler="dpmpp_2m_karras")]
    requests += [replace(plain, guidance=1.0)]
    drawn = [np.asarray(session.generate([one])[0]) for one in requests]
    assert all(one.std() > 1 for one in drawn)
    assert len({one.tobytes() for one in drawn}) == len(requests)
    assert predict(ready_workspace, straight.config).peak > 0

    def stored() -> set[str]:
        return {STORAGES.get(weight.dtype, "") for weight in session.pipeline.transformer.parameters()}

    assert stored() == {"", "int8", "nf4"}, "a checkpoint is tried with the base beside which it was trained"
    again = []
    for kind in ("single_file", "diffusers"):
        exported = export(last, kind, tmp_path, f"net-{kind}")
        again.append(np.asarray(session.generate([replace(plain, controlnet=exported.path)])[0]).astype(int))
        assert stored() == {""}, "and a file with the base as it is"
        assert (
            "| base stored while training | nf4, its modulation layers in int8 |"
            in (exported.card / "README.md").read_text()
        )
    assert np.abs(again[0] - again[1]).max() <= 1
    assert np.abs(again[0] - drawn[0]).max() > 1, "4 bits show"
    assert (tmp_path / "net-single_file_flux.safetensors").is_file()
    with pytest.raises(UserError, match=r"no such format for FLUX\.1"):
        export(last, "ldm", tmp_path, "net")


@pytest.mark.long
def test_a_run_goes_on_from_a_net_with_blocks_of_one_stream(
    tiny_flux: Path, new_run: RunFactory, ready_workspace: Workspace, tmp_path: Path
) -> None:
    """As those of 4 + 10 blocks, which no new net has."""
    family = detect(str(tiny_flux))
    config = family.new_controlnet(family.load_denoiser(str(tiny_flux), torch.float32)).config
    net = randomized(FluxControlNetModel.from_config(config, num_layers=1, num_single_layers=2), FLUX_OUTPUTS)
    start = tmp_path / "start.safetensors"
    save_file({name: weight.contiguous() for name, weight in net.state_dict().items()}, start)
    settings = SHORT | {"model.base": str(tiny_flux), "model.controlnet": str(start), "train.steps": 2}
    run = new_run(**settings | {"validation.every": 0, "optim.learning_rate": 1e-2})
    assert train(ready_workspace, run, at_step={1: "pause"}).outcome == "paused"
    assert train(ready_workspace, run).outcome == "completed"
    left = export(run.checkpoints()[-1].folder, "single_file", tmp_path, "net", "fp32", base=str(tiny_flux)).path
    first, trained = load_file(start), load_file(left)
    assert first.keys() == trained.keys()
    learned = {name for name in first if not torch.equal(first[name], trained[name])}
    assert {f"single_transformer_blocks.{n}.attn.to_q.weight" for n in (0, 1)} <= learned
    again = open_controlnet(left, family, str(tiny_flux))
    assert (again.config["num_layers"], again.config["num_single_layers"]) == (1, 2)


def test_an_images_guidance_depends_on_seed_and_position_alone() -> None:
    one, other = random_numbers(7, 0, 4, (4, 8, 8), 1000, 0.1), random_numbers(7, 2, 2, (4, 8, 8), 1000, 0.1)
    assert torch.equal(one.even[2:], other.even)
    assert one.even.min() >= 0 and one.even.max() < 1 and len(set(one.even.tolist())) == 4


@pytest.mark.parametrize("storage", ["same", "fp8", "nf4"])
def test_a_control_lora_shares_the_layers_of_the_base_and_is_the_merged_net(tiny_flux: Path, storage: str) -> None:
    family, base = detect(str(tiny_flux)), str(tiny_flux)
    denoiser = family.load_denoiser(base, torch.float32)
    thin = family.new_controlnet(denoiser)
    to_control_lora(thin, denoiser, 4, family.layers)
    if storage != "same":
        quantize_base(denoiser, thin, kind=storage, modulation="base", layers=family.layers)
    of_base = dict(denoiser.named_parameters())
    shared = {name for name, layer in lora_layers(thin).items() if layer.weight is of_base[f"{name}.weight"]}
    assert shared == lora_layers(thin).keys() and any(name.endswith("attn.add_q_proj") for name in shared)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in thin.parameters():
            if weight.requires_grad:
                weight += 0.05 * torch.randn(weight.shape, generator=generator)
        merged = net_of({**thin.config, "_class_name": family.facts.net_class}, merged_weights(thin))
        found, whole = (family.control_outputs(net, torch.Generator().manual_seed(0)) for net in (thin, merged))
    for one, other in zip(found, whole, strict=True):
        assert float((one - other).abs().max()) < 1e-5 * float(other.abs().max())
