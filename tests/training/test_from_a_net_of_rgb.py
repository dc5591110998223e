"""XLabs' ControlNets for FLUX.1, which read RGB control images: opened, trained on, drawn with, exported again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FluxControlNetModel, FluxControlNetPipeline, FluxPipeline
from PIL import Image
from safetensors.torch import load_file, save_file

from engine.export.out import export
from engine.families import flux_xlabs
from engine.families.flux import Flux, FluxOfRgb
from engine.families.flux_control_files import FLUX_FILES
from engine.families.registry import detect
from engine.inference.request import TryRequest
from engine.inference.sampling import draw_latents
from engine.inference.session import TrySession
from engine.inference.settings import SamplingOptions
from engine.nets.importing import open_controlnet
from engine.workspace.paths import Workspace
from tests.families.transformer_nets import FLUX_OUTPUTS, maps, randomized
from tests.short_runs import RunFactory, train

OF_RGB = {"conditioning_embedding_channels": 16, "patch_size": 2}


@pytest.fixture(scope="module")
def family(tiny_flux: Path) -> Flux:
    found = detect(str(tiny_flux))
    assert isinstance(found, Flux)
    return found


@pytest.fixture(scope="module")
def net(family: Flux, tiny_flux: Path) -> FluxControlNetModel:
    made = family.new_controlnet(family.load_denoiser(str(tiny_flux), torch.float32))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return randomized(FluxControlNetModel.from_config(made.config, **OF_RGB), FLUX_OUTPUTS)


@pytest.fixture(scope="module")
def file(net: FluxControlNetModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As published: with the names of the base's own code, and no config."""
    path = tmp_path_factory.mktemp("xlabs") / "controlnet.safetensors"
    weights = {name: weight.contiguous() for name, weight in net.state_dict().items()}
    save_file(FLUX_FILES.names_in_file(weights, net.config), path)
    return path


def test_its_names_are_those_that_comfyui_looks_for_and_come_back(file: Path, net: FluxControlNetModel) -> None:
    tensors = load_file(file)
    assert {flux_xlabs.MARK, flux_xlabs.HINT, "controlnet_blocks.0.weight", "pos_embed_input.weight"} <= tensors.keys()
    assert tensors["double_blocks.1.txt_attn.qkv.weight"].shape == (96, 32) and not any(
        name.startswith(("transformer_blocks", "time_text", "controlnet_x")) for name in tensors
    )
    back = FLUX_FILES.plain_names("single_file", tensors)
    assert back.keys() == net.state_dict().keys()
    assert all(torch.equal(back[name], weight) for name, weight in net.state_dict().items())
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    found = FLUX_FILES.config_from_shapes(shapes, "net")
    assert found == {name: net.config[name] for name in found} and FLUX_FILES.is_of_rgb(found)
    assert not FLUX_FILES.why_misread(shapes, found) and FLUX_FILES.why_misread(net.state_dict(), found)


def test_sampling_gives_what_diffusers_pipeline_gives(file: Path, family: Flux, tiny_flux: Path) -> None:
    """Its outputs serve the base's blocks in turn, again and again."""
    base = str(tiny_flux)
    opened = open_controlnet(file, family, base)
    theirs: Any = FluxPipeline.from_pretrained(tiny_flux)
    with torch.no_grad():
        text = family.encode_text(family.load_tokenizer(base), family.load_text_encoder(base, torch.float32), ["a"])
    options = SamplingOptions(steps=2, guidance=3.5, sampler="euler", strength=0.8)
    pipeline = family.pipeline(base, opened, torch.float32)
    vae = family.load_vae(base)
    ours = draw_latents(
        family, pipeline, text=text, negative=text, control=maps()[:1], seeds=[5], options=options, control_vae=vae
    )
    reference = FluxControlNetPipeline(**theirs.components, controlnet=opened)
    reference.set_progress_bar_config(disable=True)
    noise = torch.randn((16, 8, 8), generator=torch.Generator().manual_seed(5))
    expected = reference(
        prompt_embeds=text["hidden"],
        pooled_prompt_embeds=text["pooled"],
        control_image=maps()[:1].permute(0, 3, 1, 2).float() / 255,
        latents=family.latents.pack(noise[None]),
        num_inference_steps=2,
        guidance_scale=3.5,
        controlnet_conditioning_scale=0.8,
        width=64,
        height=64,
        output_type="latent",
    ).images
    expected = family.latents.unpack(expected, 8, 8)
    assert torch.allclose(ours, expected, atol=2e-4), float((ours - expected).abs().max())


def test_a_run_goes_on_from_it(
    file: Path, tiny_flux: Path, new_run: RunFactory, ready_workspace: Workspace, edges: Image.Image, tmp_path: Path
) -> None:
    settings = {"model.base": str(tiny_flux), "model.controlnet": str(file), "train.steps": 2}
    settings |= {"validation.every": 2, "validation.pictures": 1, "validation.sampling_steps": 1}
    settings |= {"validation.check_every": 50, "objective.timestep_sampling": "logit_normal"}
    run = new_run(**settings)
    assert train(ready_workspace, run, at_step={1: "pause"}).outcome == "paused"
    assert train(ready_workspace, run).outcome == "completed"
    last = run.checkpoints()[-1].folder
    config = json.loads((last / "controlnet" / "config.json").read_text(encoding="utf-8"))
    assert FLUX_FILES.is_of_rgb(config) and isinstance(Flux().for_net(config), FluxOfRgb)
    first, trained = load_file(file), load_file(last / "controlnet" / "diffusion_pytorch_model.safetensors")
    assert not torch.equal(first[flux_xlabs.HINT], trained["input_hint_block.conv_in.weight"]), "its encoder learns"

    left = export(last, "single_file", tmp_path, "net", "fp32", base=str(tiny_flux)).path
    assert flux_xlabs.MARK in load_file(left)
    plain = TryRequest(base=str(tiny_flux), controlnet=last, prompt="red", control=edges, steps=1, width=64, height=64)
    session = TrySession(ready_workspace, device="cpu")
    drawn = [np.asarray(session.generate([replace(plain, controlnet=one)])[0]).astype(int) for one in (last, left)]
    assert np.abs(drawn[0] - drawn[1]).max() <= 1 and drawn[0].std() > 1
    inverted = Image.eval(edges.convert("RGB"), lambda value: 255 - value)
    assert not np.array_equal(drawn[0], np.asarray(session.generate([replace(plain, control=inverted)])[0]))
