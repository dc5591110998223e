"""FLUX.1: text, control, prediction and sampling beside diffusers' own pipeline, on a tiny random base."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxControlNetModel, FluxControlNetPipeline, FluxPipeline, FluxTransformer2DModel
from diffusers.models.transformers.transformer_flux import FluxSingleTransformerBlock, FluxTransformerBlock
from PIL import Image

from engine.errors import UserError
from engine.export.checkpoint_details import CheckpointDetails
from engine.export.model_card import snippet
from engine.families.control_files import MODE
from engine.families.distilled import usual_settings
from engine.families.facts import FLUX
from engine.families.files import LAYOUTS, made_for
from engine.families.flux import Flux
from engine.families.flux_control_files import FLUX_FILES
from engine.families.flux_sizes import ONE_STREAM_KEPT, TWO_STREAMS_KEPT, count
from engine.families.registry import describe, detect
from engine.families.sizes import Learned
from engine.inference.img2img import InitLatents
from engine.inference.sampling import draw_latents
from engine.inference.settings import SamplingOptions
from engine.workspace.paths import Workspace
from tests.families.transformer_nets import FLUX_OUTPUTS, Fused, encoded, maps, randomized

CAPTIONS = ["a red circle", "a blue square, on grey"]


@pytest.fixture(scope="module")
def family(tiny_flux: Path) -> Flux:
    found = detect(str(tiny_flux))
    assert isinstance(found, Flux)
    return found


@pytest.fixture(scope="module")
def theirs(tiny_flux: Path) -> Any:
    pipeline = FluxPipeline.from_pretrained(tiny_flux)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def texts(family: Flux, tiny_flux: Path) -> dict[str, torch.Tensor]:
    return encoded(family, str(tiny_flux), CAPTIONS)


@pytest.fixture(scope="module")
def loud_net(family: Flux, tiny_flux: Path) -> FluxControlNetModel:
    """A ControlNet whose outputs are not zero."""
    net = family.new_controlnet(family.load_denoiser(str(tiny_flux), torch.float32))
    return randomized(net, FLUX_OUTPUTS)


def changed(base: Path, folder: Path, file: str, **values: object) -> str:
    shutil.copytree(base, folder)
    config = json.loads((folder / file).read_text(encoding="utf-8")) | values
    (folder / file).write_text(json.dumps(config), encoding="utf-8")
    return str(folder)


def test_it_is_described(tiny_flux: Path, workspace: Workspace) -> None:
    assert describe(str(tiny_flux)) == "FLUX.1, predicts flow, made for 64 px"
    assert made_for(str(tiny_flux)) == 64
    assert usual_settings(workspace, str(tiny_flux)) == [("FLUX.1", {"validation": {"guidance_scale": 3.5}})]


@pytest.mark.parametrize(
    ("file", "values", "words"),
    [
        ("transformer/config.json", {"guidance_embeds": False}, "schnell"),
        ("transformer/config.json", {"in_channels": 384}, "Fill, Canny and Depth"),
        ("model_index.json", {"_class_name": "FluxKontextPipeline"}, "edits images"),
    ],
)
def test_what_is_not_like_dev_is_refused(
    tiny_flux: Path, tmp_path: Path, file: str, values: dict[str, Any], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        detect(changed(tiny_flux, tmp_path / "base", file, **values))


def test_text_is_that_of_diffusers_pipeline(texts: dict[str, torch.Tensor], theirs: Any) -> None:
    with torch.no_grad():
        hidden, pooled, _ = theirs.encode_prompt(CAPTIONS, None)
    assert texts["hidden"].shape == (2, 512, 128) and texts["pooled"].shape == (2, 24)
    assert torch.allclose(texts["hidden"], hidden, atol=1e-5) and torch.allclose(texts["pooled"], pooled, atol=1e-5)
    assert not torch.equal(pooled[0], pooled[1]) and not torch.equal(hidden[0], hidden[1])


def test_clip_skip_is_refused_before_anything_is_encoded(family: Flux) -> None:
    with pytest.raises(UserError, match="Clip skip"):
        family.encode_text(None, None, CAPTIONS, 2)


def test_a_new_net_adds_nothing_and_leaves_the_base_as_it_is(
    family: Flux, tiny_flux: Path, texts: dict[str, torch.Tensor]
) -> None:
    base = str(tiny_flux)
    denoiser = family.load_denoiser(base, torch.float32)
    before = dict(denoiser.config)
    net = family.new_controlnet(denoiser)
    assert dict(denoiser.config) == before
    assert (net.config.num_layers, net.config.num_single_layers) == (2, 0)
    control = family.encode_control(maps(), family.load_vae(base))
    noisy, sigmas = torch.randn(2, 16, 8, 8), torch.tensor([0.3, 0.9])
    with torch.no_grad():
        assert torch.equal(
            family.predict(denoiser, net, noisy, sigmas, texts, control),
            family.predict(denoiser, None, noisy, sigmas, texts, None),
        )
    copied = denoiser.state_dict()
    own = {name for name, weight in net.state_dict().items() if name in copied and torch.equal(weight, copied[name])}
    assert own == {name for name in net.state_dict() if not name.startswith("controlnet_")}
    assert not any(weight.any() for name, weight in net.state_dict().items() if name.startswith("controlnet_"))


def test_the_control_is_the_mean_latent_as_the_denoiser_sees_it(family: Flux, tiny_flux: Path) -> None:
    vae: Any = family.load_vae(str(tiny_flux))
    with torch.no_grad():
        mean = vae.encode(maps().permute(0, 3, 1, 2).float() / 127.5 - 1).latent_dist.mean
        assert torch.allclose(family.encode_control(maps(), vae), (mean - 0.1159) * 0.3611)


def test_each_image_has_a_guidance_scale_of_its_own_in_training(family: Flux, texts: dict[str, torch.Tensor]) -> None:
    sizes, even = torch.zeros(2, 6), torch.tensor([0.0, 1.0])
    drawn = family.conditioning(texts, sizes, torch.bfloat16, even)
    assert drawn["guidance"].tolist() == [1.0, 7.0] and drawn["hidden"].dtype == torch.bfloat16
    sigmas = torch.tensor([0.3, 0.9])
    noisy = torch.zeros(2, 16, 8, 8)
    usual = family.net_inputs(noisy, sigmas, family.conditioning(texts, sizes, torch.float32))
    assert usual["guidance"].tolist() == [3.5, 3.5]


UNION: dict[str, Any] = {"num_layers": 1, "num_single_layers": 2, "num_mode": 3, "guidance_embeds": False}


@pytest.mark.parametrize(("guidance", "layout"), [(1.0, {}), (3.5, UNION)], ids=["two streams", "union"])
def test_sampling_gives_what_diffusers_pipeline_gives(
    family: Flux,
    tiny_flux: Path,
    theirs: Any,
    texts: dict[str, torch.Tensor],
    loud_net: FluxControlNetModel,
    guidance: float,
    layout: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The trainer predicts as our sampling does, so this also shows that training and diffusers agree on the inputs."""
    base = str(tiny_flux)
    mode = {"control_mode": 2} if layout else {}
    if layout:
        loud_net = randomized(FluxControlNetModel.from_config(loud_net.config, **layout), FLUX_OUTPUTS)
        loud_net.register_to_config(**{MODE: 2})
    vae: Any = family.load_vae(base)
    pipeline = family.pipeline(base, loud_net, torch.float32)
    text, negative = ({name: rows[row : row + 1] for name, rows in texts.items()} for row in (0, 1))
    options = SamplingOptions(steps=4, guidance=guidance, sampler="euler", strength=0.8)
    given = {"text": text, "negative": negative, "control": maps()[:1], "seeds": [5], "control_vae": vae}
    ours = draw_latents(family, pipeline, options=options, **given)
    reference = FluxControlNetPipeline(**theirs.components, controlnet=loud_net)
    reference.set_progress_bar_config(disable=True)
    # The pipeline draws from the posterior, where training takes its mean.
    kind = type(vae.encode(torch.zeros(1, 3, 64, 64)).latent_dist)
    monkeypatch.setattr(kind, "sample", lambda self, generator=None: self.mean)
    noise = torch.randn((16, 8, 8), generator=torch.Generator().manual_seed(5))
    expected = reference(
        prompt_embeds=text["hidden"],
        pooled_prompt_embeds=text["pooled"],
        control_image=maps()[:1].permute(0, 3, 1, 2).float() / 127.5 - 1,
        latents=family.latents.pack(noise[None]),
        num_inference_steps=4,
        guidance_scale=guidance,
        controlnet_conditioning_scale=0.8,
        **mode,
        width=64,
        height=64,
        output_type="latent",
    ).images
    expected = family.latents.unpack(expected, 8, 8)
    assert torch.allclose(ours, expected, atol=2e-4), float((ours - expected).abs().max())
    # One of many steps, from an image: the image stays nearly as it is.
    init = InitLatents(torch.full((1, 16, 8, 8), 0.5), change=0.05)
    near = draw_latents(family, pipeline, options=SamplingOptions(steps=20, sampler="euler"), init=init, **given)
    assert float((near - 0.5).abs().mean()) < 0.5 < float((ours - 0.5).abs().mean())


def test_the_real_base_and_its_net_are_counted_to_the_parameter(family: Flux) -> None:
    config = json.loads((LAYOUTS / "flux" / "transformer" / "config.json").read_text(encoding="utf-8"))
    with torch.device("meta"):
        denoiser = FluxTransformer2DModel.from_config(config)
        net = family.new_controlnet(denoiser)
    sizes = count(config, 1024)
    assert sizes.denoiser.weights == sum(p.numel() for p in denoiser.parameters()) == family.facts.parameters
    assert sizes.controlnet.weights == sum(p.numel() for p in net.parameters()) == pytest.approx(744e6, rel=1e-3)
    assert net.config.num_layers == family.facts.usual_blocks == 2
    # ComfyUI knows the file by these, and reads the structure from the shapes.
    shapes = {name: tuple(weight.shape) for name, weight in net.state_dict().items()}
    assert FLUX_FILES.recognize(shapes) == "single_file" and not FLUX_FILES.why_misread(shapes, dict(net.config))
    found = FLUX_FILES.config_from_shapes(shapes, "net")
    assert found == {name: net.config[name] for name in found}
    assert FLUX_FILES.why_misread({}, dict(net.config))


@pytest.mark.parametrize(("blocks", "single"), [(4, 0), (5, 10)])
def test_other_numbers_of_blocks_are_counted_and_recognized_too(family: Flux, blocks: int, single: int) -> None:
    """5 + 10 with a row for each of 10 kinds of control images: as published for FLUX.1-dev-Controlnet-Union."""
    config = json.loads((LAYOUTS / "flux" / "transformer" / "config.json").read_text(encoding="utf-8"))
    with torch.device("meta"):
        net = family.new_controlnet(FluxTransformer2DModel.from_config(config), blocks)
        if single:
            net = FluxControlNetModel.from_config(net.config, num_single_layers=single, num_mode=10)
    assert FLUX_FILES.blocks(net.config) == (blocks, single) and family.facts.blocks_of(net.config) == blocks
    counted = count(config, 1024, learned=Learned(blocks=blocks, single_blocks=single))
    modes = 10 * 3072 if single else 0
    assert counted.controlnet.weights + modes == sum(p.numel() for p in net.parameters())
    assert counted.residuals == (blocks + single) * 4096 * 3072
    shapes = {name: tuple(weight.shape) for name, weight in net.state_dict().items()}
    found = FLUX_FILES.config_from_shapes(shapes, "net")
    assert found == {name: net.config[name] for name in found} and not FLUX_FILES.why_misread(shapes, net.config)
    for net_units in (
        counted.controlnet.units,
        counted.denoiser.units,
    ):  # each output is made once, and waited for once
        assert sum(unit.reads + unit.writes for unit in net_units) == counted.residuals


def test_numbers_of_blocks_of_which_one_would_do_nothing_are_refused(family: Flux) -> None:
    """diffusers and ComfyUI give the base's block i the output i // ceil(19 / n)."""
    config = {"num_layers": 19}
    for blocks in range(1, 12):
        used = {block // -(-19 // blocks) for block in range(19)}
        assert (family.facts.why_not_blocks(config, blocks) == "") == (used == set(range(blocks))), blocks
    assert "set 1, 2, or 0" in family.facts.why_not_blocks({"num_layers": 2}, 4)


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("kind", [FluxTransformerBlock, FluxSingleTransformerBlock])
def test_what_a_block_keeps_is_counted(kind: Any, trained: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """In bf16 with attention that keeps no matrix; the sizes are proportional to the tokens and to the width."""
    width, image, text = 64, 256, 80

    def attend(query: Any, key: Any, value: Any, **_: Any) -> Any:
        return Fused.apply(query, key, value)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", attend)
    with torch.device("meta"):
        block = kind(width, 4, 16).to(torch.bfloat16).requires_grad_(trained)
        tokens = [torch.empty(1, n, width, dtype=torch.bfloat16, requires_grad=True) for n in (image, text)]
        modulation = torch.empty(1, width, dtype=torch.bfloat16, requires_grad=trained)
        rotations = tuple(torch.empty(image + text, 16) for _ in range(2))
    own = {p.untyped_storage()._cdata for p in (*block.parameters(), *rotations)}
    kept: dict[int, Any] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage()._cdata not in own:
            kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        block(hidden_states=tokens[0], encoder_hidden_states=tokens[1], temb=modulation, image_rotary_emb=rotations)
    found = sum(tensor.untyped_storage().nbytes() for tensor in kept.values()) / 2
    numbers = TWO_STREAMS_KEPT if kind is FluxTransformerBlock else ONE_STREAM_KEPT
    assert found == pytest.approx(numbers[trained] * width * (image + text), rel=0.05), found / width / (image + text)


@pytest.mark.long
def test_the_code_of_a_model_card_runs(
    family: Flux, tiny_flux: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = str(tiny_flux)
    family.new_controlnet(family.load_denoiser(folder, torch.float32)).save_pretrained(tmp_path)
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (64, 64), "red").save("map.png")
    code = snippet("", "diffusers", folder, family.facts, CheckpointDetails(resolution=64))
    exec(compile(code.replace('"your prompt"', '"a", num_inference_steps=1'), "card", "exec"), {})
    assert Path("picture.png").is_file()


@pytest.mark.parametrize("name", FLUX.samplers)
def test_every_samplers_shift_follows_the_size(
    family: Flux, tiny_flux: Path, loud_net: FluxControlNetModel, name: str
) -> None:
    """sigma = k u / (1 + (k - 1) u) with k = e^0.5 at 256 tokens and e^1.15 at 4096, from the steps in even spaces."""
    pipeline = family.pipeline(str(tiny_flux), loud_net, torch.float32)
    pipeline.register_modules(scheduler=family.sampling_scheduler(name, pipeline.scheduler.config, {}))
    for side, k in ((32, math.exp(0.5)), (128, math.exp(1.15))):
        family.set_timesteps(pipeline, 10, torch.zeros(1, 16, side, side))
        u = torch.tensor([1 - step / 10 for step in range(10)])
        expected = k * u / (1 + (k - 1) * u)
        assert torch.allclose(pipeline.scheduler.sigmas[:10].float(), expected, atol=2e-2), name
