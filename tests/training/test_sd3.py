"""A run on a tiny Stable Diffusion 3: its step is the formula, and it trains, resumes, draws and leaves."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from engine.config import RunConfig
from engine.data.vae_round_trip import LINES_LOST
from engine.errors import UserError
from engine.estimate.memory import predict
from engine.export.out import export
from engine.families.facts import FLUX, SD3
from engine.families.registry import detect
from engine.inference.request import TryRequest
from engine.inference.session import TrySession
from engine.jobs.control import Control
from engine.jobs.events import Message, PreviewMade
from engine.nets.importing import open_controlnet
from engine.nets.initial import require_blocks
from engine.nets.lora import lora_layers
from engine.nets.weight_quantization import STORAGES
from engine.training.job import build_trainer
from engine.training.new_run import missing
from engine.workspace.paths import Workspace
from tests.compare_runs import assert_same_checkpoint, step_gradients
from tests.short_runs import RunFactory, train

SHORT = {"train.steps": 3, "validation.check_every": 50, "validation.every": 3}
SHORT |= {"validation.pictures": 1, "validation.sampling_steps": 2, "objective.timestep_sampling": "logit_normal"}


@pytest.mark.parametrize("checkpointing", ["none", "both"])
def test_its_step_is_the_formula(
    tiny_sd3: Path, new_run: RunFactory, ready_workspace: Workspace, checkpointing: str
) -> None:
    """Loss and gradients of a step that is written down here with diffusers' classes alone."""
    settings = {"model.base": str(tiny_sd3), "objective.prompt_dropout": 0.0, "optim.max_grad_norm": 1e9}
    run = new_run(**settings, **SHORT, **{"train.gradient_checkpointing": checkpointing})
    trainer = build_trainer(ready_workspace, run, Control().token, lambda event: None)
    state = trainer.state
    net: Any = state.trainable.master
    torch.nn.init.normal_(net.controlnet_blocks[0].weight, std=0.1)
    torch.nn.init.normal_(net.pos_embed_input.proj.weight, std=0.1)
    batch = state.batches.get(0)
    loss, gradients = step_gradients(state)
    draws = batch.random
    latents = (batch.mean + torch.exp(0.5 * batch.logvar) * draws.posterior - 0.0609) * 1.5305
    u = torch.sigmoid(torch.special.ndtri((draws.uniform_timesteps.double() + 0.5) / 2**20))
    sigma = (3 * u / (1 + 2 * u)).float()
    noisy = latents + sigma[:, None, None, None] * (draws.noise - latents)
    assert batch.maps is not None
    hint = batch.maps.float()  # from the cache: latents
    text, pooled = batch.text["hidden"], batch.text["pooled"]
    net.zero_grad(set_to_none=True)
    residuals = net(noisy, hint, 1.0, text, torch.zeros_like(pooled), 1000 * sigma, return_dict=False)[0]
    predicted = state.denoiser(noisy, text, pooled, 1000 * sigma, residuals).sample
    expected = torch.nn.functional.mse_loss(predicted, draws.noise - latents)
    expected.backward()
    assert float(loss) == pytest.approx(expected.item(), rel=1e-5)
    for name, parameter in net.named_parameters():
        if parameter.grad is not None:
            assert torch.allclose(gradients[name], parameter.grad, rtol=1e-4, atol=1e-6), name
    trainer.close()


def test_it_trains_resumes_and_draws(
    tiny_sd3: Path, new_run: RunFactory, ready_workspace: Workspace, edges: Image.Image, tmp_path: Path
) -> None:
    settings = SHORT | {"model.base": str(tiny_sd3), "optim.learning_rate": 1e-2, "model.control_blocks": 1}
    settings |= {"objective.control_dropout": 0.5, "objective.t5_dropout": 0.5}
    settings |= {"data.dataset": "mixed", "data.buckets": True, "data.bucket_step": 16}
    straight, paused = new_run(**settings), new_run(**settings)
    trained = train(ready_workspace, straight)
    assert trained.outcome == "completed" and trained.warnings == []
    assert [event.step for event in trained.of(PreviewMade)] == [0, 3]
    lost = [event.text for event in trained.of(Message) if event.text.startswith(LINES_LOST)]
    assert len(lost) == 1 and "% of their pixels are left" in lost[0], "a random VAE keeps no lines"
    assert train(ready_workspace, paused, at_step={2: "pause"}).outcome == "paused"
    assert train(ready_workspace, paused).outcome == "completed"
    last = straight.checkpoints()[-1].folder
    assert json.loads((last / "controlnet" / "config.json").read_text(encoding="utf-8"))["num_layers"] == 1
    assert_same_checkpoint(last, paused.checkpoints()[-1].folder)

    plain = TryRequest(base=str(tiny_sd3), controlnet=last, prompt="red", control=edges, steps=2, width=64, height=64)
    session = TrySession(ready_workspace, device="cpu")
    requests = [plain, replace(plain, image=edges, change=0.6), replace(plain, sampler="dpmpp_2m_karras", guidance=1.0)]
    requests += [replace(plain, sampler=name, guidance=1.0) for name in ("unipc", "euler", "heun")]
    drawn = [np.asarray(session.generate([one])[0]) for one in requests]
    assert all(one.std() > 1 for one in drawn)
    assert len({one.tobytes() for one in drawn}) == 6
    session.generate([replace(plain, image=edges, sampler="heun", end=0.5)])
    with pytest.raises(UserError, match="DDIM is not made for Stable Diffusion 3.*Choose euler, the most similar"):
        session.generate([replace(plain, sampler="ddim")])
    assert predict(ready_workspace, straight.config).peak > 0

    for kind in ("single_file", "diffusers"):
        left = export(last, kind, tmp_path, f"net-{kind}").path
        again = session.generate([replace(plain, controlnet=left)])[0]
        assert np.abs(np.asarray(again).astype(int) - drawn[0]).max() <= 1, kind
    assert (tmp_path / "net-single_file_sd3.safetensors").is_file()
    with pytest.raises(UserError, match="no such format for Stable Diffusion 3"):
        export(last, "ldm", tmp_path, "net")


def test_a_control_lora_trains_resumes_and_leaves_whole(
    tiny_sd3: Path, new_run: RunFactory, ready_workspace: Workspace, tmp_path: Path
) -> None:
    """Its saved and exported weights, factors merged into the base's, give what the factors give in training."""
    settings = SHORT | {"model.base": str(tiny_sd3), "optim.learning_rate": 1e-2, "model.control_lora_rank": 4}
    settings |= {"validation.every": 0}
    straight, paused = new_run(**settings), new_run(**settings)
    assert train(ready_workspace, straight).outcome == "completed"
    assert train(ready_workspace, paused, at_step={2: "pause"}).outcome == "paused"
    assert train(ready_workspace, paused).outcome == "completed"
    last = straight.checkpoints()[-1].folder
    assert_same_checkpoint(last, paused.checkpoints()[-1].folder)

    family = detect(str(tiny_sd3))
    trainer = build_trainer(ready_workspace, straight, Control().token, lambda event: None)
    thin: Any = trainer.state.trainable.master
    assert lora_layers(thin), "the copied layers are the base's, with factors beside them"
    assert any(layer.up.any() for layer in lora_layers(thin).values())
    file = export(last, "single_file", tmp_path, "thin", "fp32").path
    whole = [family.load_controlnet(last / "controlnet"), open_controlnet(file, family, str(tiny_sd3))]
    with torch.no_grad():
        trained, *merged = (family.control_outputs(net, torch.Generator().manual_seed(4)) for net in (thin, *whole))
    assert any(one.abs().max() > 1e-4 for one in trained)
    for outputs in merged:
        for one, other in zip(trained, outputs, strict=True):
            assert torch.allclose(one, other, rtol=1e-5, atol=1e-5)
    trainer.close()


@pytest.mark.parametrize(("rank", "kind", "modulation"), [(0, "fp8", "same"), (4, "nf4", "int8")])
def test_gradients_flow_through_a_quantized_base_with_checkpointing(
    tiny_sd3: Path, new_run: RunFactory, ready_workspace: Workspace, rank: int, kind: str, modulation: str
) -> None:
    settings = SHORT | {"model.base": str(tiny_sd3), "train.base_storage": kind, "train.precision": "bf16"}
    settings |= {"train.modulation_storage": modulation}
    settings |= {"optim.max_grad_norm": 1e9, "model.control_lora_rank": rank}
    found = {}
    for scope in ("none", "both"):
        run = new_run(**settings, **{"train.gradient_checkpointing": scope})
        trainer = build_trainer(ready_workspace, run, Control().token, lambda event: None)
        state = trainer.state
        before = {name: weight.clone() for name, weight in state.denoiser.state_dict().items()}
        modulating, usual = (
            state.denoiser.transformer_blocks[1].norm1.linear,
            state.denoiser.transformer_blocks[1].attn.to_q,
        )
        assert STORAGES[usual.weight.dtype] == kind and STORAGES.get(modulating.weight.dtype, "same") == modulation
        others = [state.denoiser.norm_out.linear, state.denoiser.context_embedder, state.denoiser.proj_out]
        assert {layer.weight.dtype for layer in others} == {torch.bfloat16}
        assert all(not weight.requires_grad for weight in state.denoiser.parameters())
        for block in state.trainable.master.controlnet_blocks:
            torch.nn.init.normal_(block.weight, std=0.1)
        state.trainable.weights.refresh()
        found[scope] = step_gradients(state)[1]
        after = state.denoiser.state_dict()
        assert all(torch.equal(weight.float(), after[name].float()) for name, weight in before.items())
        trainer.close()
    plain, again = found["none"], found["both"]
    assert plain.keys() == again.keys() and all(torch.equal(plain[name], again[name]) for name in plain)
    copied = [gradient for name, gradient in plain.items() if name.startswith("transformer_blocks.")]
    assert all(gradient.isfinite().all() for gradient in plain.values()) and any(one.any() for one in copied)


def test_what_a_transformer_has_not_is_refused(tiny_sd3: Path, new_run: RunFactory, ready_workspace: Workspace) -> None:
    for setting, title in (
        ({"objective.sd_locked": False}, "Keep the base frozen"),
        ({"objective.only_mid_control": True}, "Control only in the middle"),
        ({"objective.min_snr_gamma": 5.0}, "Min-SNR gamma"),
        ({"model.control_blocks": 3}, "ControlNet blocks"),
    ):
        with pytest.raises(UserError, match=title):
            train(ready_workspace, new_run(**SHORT | {"model.base": str(tiny_sd3)} | setting))


def test_numbers_of_blocks_are_refused_before_the_run_and_against_the_net_to_start_from(
    tiny_sd3: Path, tiny_base: Path, ready_workspace: Workspace, make_config: Callable[..., RunConfig]
) -> None:
    def said(base: Path, blocks: int) -> list[str]:
        return missing(ready_workspace, make_config(**{"model.base": str(base), "model.control_blocks": blocks}))

    assert said(tiny_sd3, 0) == said(tiny_sd3, 2) == said(tiny_base, 0) == []
    dropped = {"model.base": str(tiny_base), "objective.control_dropout": 0.1, "objective.t5_dropout": 0.1}
    of_latents, of_t5 = missing(ready_workspace, make_config(**dropped))
    assert "Control dropout" in of_latents and "T5 dropout" in of_t5
    noise = {"objective.min_snr_gamma": 5.0, "objective.offset_noise": 0.05, "objective.timestep_sampling": "cubic"}
    assert missing(ready_workspace, make_config(**noise)) == []
    of_snr, of_offset, of_cubic = missing(ready_workspace, make_config(**noise | {"model.base": str(tiny_sd3)}))
    assert "Min-SNR gamma cannot be used with Stable Diffusion 3" in of_snr and "Noise offset" in of_offset
    assert "set logit_normal" in of_cubic
    (of_captions,) = missing(
        ready_workspace, make_config(**{"model.base": str(tiny_sd3), "objective.hidden_captions": 1})
    )
    assert "Captions can be hidden" in of_captions
    assert missing(ready_workspace, make_config(**dropped | {"model.base": str(tiny_sd3)})) == []
    (guided,) = missing(ready_workspace, make_config(**{"model.base": str(tiny_sd3), "objective.guidance": 1.0}))
    assert "Guidance in training" in guided and FLUX.why_not_guided(1.0) == SD3.why_not_guided(0.0) == ""
    finer = {"data.buckets": True, "data.bucket_step": 16}
    (of_unet,) = missing(ready_workspace, make_config(**finer))
    assert "needs a bucket step of 64 px" in of_unet
    assert missing(ready_workspace, make_config(**finer | {"model.base": str(tiny_sd3)})) == []
    assert "evenly" in said(tiny_sd3, 3)[0] and "whole encoder" in said(tiny_base, 6)[0]
    require_blocks(2, 0)
    require_blocks(2, 2)
    with pytest.raises(UserError, match="a different number of blocks"):
        require_blocks(2, 1)
