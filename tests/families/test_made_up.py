"""A family that works otherwise than Stable Diffusion needs one module and a line in two lists, nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from engine.config import ValidationConfig
from engine.estimate.memory import predict
from engine.evaluation import pairs
from engine.evaluation.pairs import ImageRequest, Models
from engine.export.out import export
from engine.families import registry
from engine.families.files import family_of
from engine.families.latents import LatentSpace
from engine.families.registry import describe, detect
from engine.inference.request import TryRequest
from engine.inference.session import TrySession
from engine.jobs.control import Control
from engine.jobs.events import PreviewMade
from engine.training.job import build_trainer
from engine.workspace.paths import Workspace
from tests.compare_runs import assert_same_checkpoint, step_gradients
from tests.families import made_up
from tests.short_runs import RunFactory, train


@pytest.fixture
def base(tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    made_up.register(monkeypatch)
    return str(made_up.build(tiny_base, tmp_path / "made-up"))


def test_it_is_recognized_and_described(base: str, workspace: Workspace) -> None:
    assert detect(base).facts is made_up.MADE_UP
    assert describe(base) == "Made Up, predicts flow, made for 64 px"
    assert family_of(workspace, base) == "made_up"


def test_its_step_is_the_formula(base: str, new_run: RunFactory, ready_workspace: Workspace) -> None:
    """Flow matching over shifted latents: loss and gradients of a step written down here."""
    run = new_run(
        **{
            "model.base": base,
            "objective.prompt_dropout": 0.0,
            "optim.max_grad_norm": 1e9,
            "objective.timestep_sampling": "logit_normal",
        }
    )
    trainer = build_trainer(ready_workspace, run, Control().token, lambda event: None)
    state = trainer.state
    batch = state.batches.get(0)
    loss, gradients = step_gradients(state)
    net, draws = state.trainable.master, batch.random
    scale = detect(base).latent_space(base).scale
    latents = (batch.mean + torch.exp(0.5 * batch.logvar) * draws.posterior - 0.1) * scale
    drawn = torch.sigmoid(torch.special.ndtri((draws.uniform_timesteps + 0.5) / 2**20))
    sigma = 3 * drawn / (1 + 2 * drawn)
    noisy = latents + sigma[:, None, None, None] * (draws.noise - latents)
    hidden, control = batch.text["hidden"], batch.maps.permute(0, 3, 1, 2) / 255
    down, middle = net(noisy, 1000 * sigma, hidden, controlnet_cond=control, return_dict=False)
    residuals = {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
    predicted = state.denoiser(noisy, 1000 * sigma, hidden, **residuals).sample
    expected = torch.nn.functional.mse_loss(predicted, draws.noise - latents)
    expected.backward()
    assert float(loss) == pytest.approx(expected.item(), rel=1e-5)
    for name, parameter in net.named_parameters():
        assert torch.allclose(gradients[name], parameter.grad, rtol=1e-4, atol=1e-6), name
    trainer.close()


def test_it_trains_resumes_draws_and_leaves(
    base: str, new_run: RunFactory, ready_workspace: Workspace, edges: Image.Image, tmp_path: Path
) -> None:
    settings = {"model.base": base, "train.steps": 4, "validation.check_every": 50, "validation.every": 4}
    settings |= {"validation.pictures": 2, "validation.sampling_steps": 2}
    straight, paused = new_run(**settings), new_run(**settings)
    trained = train(ready_workspace, straight)
    assert trained.outcome == "completed" and trained.warnings == []
    assert [event.step for event in trained.of(PreviewMade)] == [0, 4]
    assert train(ready_workspace, paused, at_step={2: "pause"}).outcome == "paused"
    assert train(ready_workspace, paused).outcome == "completed"
    last = straight.checkpoints()[-1].folder
    assert_same_checkpoint(last, paused.checkpoints()[-1].folder)

    request = TryRequest(
        base=base, controlnet=last, prompt="red circle", control=edges, steps=2, width=64, height=64, image=edges
    )
    assert np.asarray(TrySession(ready_workspace, device="cpu").generate([request])[0]).std() > 1
    assert export(last, "single_file", tmp_path, "net").path.name == "net_madeup.safetensors"
    assert predict(ready_workspace, straight.config).peak > 0


def test_a_control_net_can_read_latents_of_the_control_image(
    tiny_base: Path,
    new_run: RunFactory,
    ready_workspace: Workspace,
    edges: Image.Image,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made_up.register(monkeypatch, made_up.Encoded)
    base = str(made_up.build(tiny_base, tmp_path / "made-up"))
    settings = {"model.base": base, "train.steps": 3, "validation.check_every": 50, "validation.every": 3}
    settings |= {"validation.pictures": 1, "validation.sampling_steps": 1}
    straight, paused = new_run(**settings), new_run(**settings)
    trained = train(ready_workspace, straight)
    assert trained.outcome == "completed" and trained.warnings == []
    assert [event.step for event in trained.of(PreviewMade)] == [0, 3]
    assert train(ready_workspace, paused, at_step={2: "pause"}).outcome == "paused"
    assert train(ready_workspace, paused).outcome == "completed"
    last = straight.checkpoints()[-1].folder
    assert_same_checkpoint(last, paused.checkpoints()[-1].folder)

    weights = load_file(last / "controlnet" / "diffusion_pytorch_model.safetensors")
    assert weights["controlnet_cond_embedding.conv_in.weight"].shape[1] == LatentSpace().channels
    request = TryRequest(
        base=base, controlnet=last, prompt="", control=edges, steps=2, width=64, height=64, strength=2.0, image=edges
    )
    session = TrySession(ready_workspace, device="cpu")
    drawn, bare = session.generate([request, replace(request, control=Image.new("RGB", (64, 64)))])
    assert not np.array_equal(drawn, bare), "the control image counts"
    predicted = predict(ready_workspace, straight.config, images=10)
    assert "VAE" not in predicted.training, "what it read was encoded before"
    assert predicted.cache < 10 * 3 * 64**2, "and takes less room than pixels"


@pytest.mark.parametrize("from_image", [False, True], ids=["from noise", "over a part of an image"])
def test_pipelines_with_packed_latents_draw_the_same(
    from_image: bool,
    base: str,
    ready_workspace: Workspace,
    edges: Image.Image,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Try it, its live preview and the previews of a run, wide images included."""
    family = detect(base)
    net = family.new_controlnet(family.load_denoiser(base, torch.float32))
    net.controlnet_mid_block.weight.data.normal_()
    net.save_pretrained(tmp_path / "net")
    mask = Image.new("L", (96, 64))
    mask.paste(255, (0, 0, 48, 64))
    image = {"image": edges, "mask": mask, "change": 0.7} if from_image else {}
    one = TryRequest(
        base=base, controlnet=tmp_path / "net", prompt="red", control=edges, steps=3, width=96, height=64, **image
    )

    def draw(shown: list[Image.Image]) -> list[np.ndarray]:
        session = TrySession(ready_workspace, device="cpu")
        images = session.generate([one, replace(one, seed=5)], on_preview=shown.append)
        models = Models(detect(base), base, family.load_denoiser(base, torch.float32), net.eval())
        wanted = ImageRequest(np.asarray(edges.convert("RGB").resize((96, 64))), "red", 1)
        previews = pairs.draw(models, [wanted], ValidationConfig(sampling_steps=2), None, None)
        return [*map(np.asarray, images), previews[0].numpy()]

    seen: tuple[list[Image.Image], list[Image.Image]] = [], []
    plain = draw(seen[0])
    made_up.register(monkeypatch, made_up.Packed)
    monkeypatch.setattr(registry, "FAMILIES", (*registry.FAMILIES[:-2], registry.FAMILIES[-1]))
    assert isinstance(detect(base), made_up.Packed)
    packed = draw(seen[1])
    assert all(np.array_equal(a, b) for a, b in zip(plain, packed, strict=True))
    assert plain[0].shape == (64, 96, 3) and plain[2].shape == (4, 8, 12) and plain[0].std() > 1
    assert len(seen[0]) > 0 and np.array_equal(seen[0][0], seen[1][0])


def test_packed_latents_are_those_of_diffusers() -> None:
    from diffusers import FluxPipeline

    space, latents = LatentSpace(channels=16), torch.randn(2, 16, 6, 10)
    tokens = space.pack(latents)
    assert torch.equal(tokens, FluxPipeline._pack_latents(latents, 2, 16, 6, 10))
    assert torch.equal(space.unpack(tokens, 6, 10), latents)
