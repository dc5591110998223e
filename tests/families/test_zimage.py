"""Z-Image: text, control net, prediction and sampling beside diffusers' own classes, on a tiny random base."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import ZImageControlNetModel as TheirNet
from diffusers import ZImageControlNetPipeline, ZImagePipeline, ZImageTransformer2DModel
from diffusers.models.transformers.transformer_z_image import ZImageTransformerBlock

from engine.families.files import LAYOUTS
from engine.families.registry import describe, detect
from engine.families.sizes import Learned
from engine.families.text_encoding import together
from engine.families.zimage import ZImage
from engine.families.zimage_control_files import ZIMAGE_FILES
from engine.families.zimage_net import ZImageControlNetModel
from engine.families.zimage_sizes import KEPT, control_places, count
from engine.inference.sampling import draw_latents
from engine.inference.settings import SamplingOptions
from tests.families.transformer_nets import ZIMAGE_OUTPUTS, Fused, encoded, maps, randomized

CAPTIONS = ["a red circle, and two blue squares beside it", "a"]
NOISY, SIGMAS = torch.randn(2, 16, 8, 8, generator=torch.Generator().manual_seed(1)), torch.tensor([0.3, 0.9])
LAYOUT_OF_6 = {"control_in_dim": 16, "add_control_noise_refiner": None}


@pytest.fixture(scope="module")
def family(tiny_zimage: Path) -> ZImage:
    found = detect(str(tiny_zimage))
    assert isinstance(found, ZImage)
    return found


@pytest.fixture(scope="module")
def theirs(tiny_zimage: Path) -> Any:
    pipeline = ZImagePipeline.from_pretrained(tiny_zimage)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def texts(family: ZImage, tiny_zimage: Path) -> dict[str, torch.Tensor]:
    return encoded(family, str(tiny_zimage), CAPTIONS)


@pytest.fixture(scope="module")
def denoiser(family: ZImage, tiny_zimage: Path) -> Any:
    return family.load_denoiser(str(tiny_zimage), torch.float32)


def pair(family: ZImage, denoiser: Any, changes: dict[str, Any]) -> tuple[ZImageControlNetModel, Any]:
    """Our net and diffusers', with the same weights."""
    config = {**family.new_controlnet(denoiser).config, **changes}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        ours = randomized(ZImageControlNetModel.from_config(config), ZIMAGE_OUTPUTS)
    other = TheirNet.from_config(ours.config)
    other.load_state_dict(ours.state_dict())
    other.gradient_checkpointing = False  # an attribute that diffusers 0.42.1 forgets, without which it cannot learn
    return ours, TheirNet.from_transformer(other, denoiser)


def residuals_to_refiners(net: Any, denoiser: Any) -> None:
    """Make diffusers' classes give the residuals of the net's refiners to the denoiser's own, too, for good.

    As VideoX-Fun's model and ComfyUI's do. The net runs the same refiners itself; there it has added them already.
    """
    inside, found = [False], []

    def before(*_: Any) -> None:
        inside[0] = True
        found.clear()

    def after(*_: Any) -> None:
        inside[0] = False

    net.register_forward_pre_hook(before)
    net.register_forward_hook(after)
    net.control_noise_refiner[-1].register_forward_hook(lambda _, __, stacked: found.extend(stacked.unbind()[:-1]))
    for number, refiner in enumerate(denoiser.noise_refiner):
        refiner.register_forward_hook(lambda _, __, out, n=number: out if inside[0] or not found else out + found[n])


def test_it_is_described(tiny_zimage: Path) -> None:
    assert describe(str(tiny_zimage)) == "Z-Image, predicts flow, made for 64 px"


def test_text_is_that_of_diffusers_pipeline_at_its_own_length(theirs: Any, texts: dict[str, torch.Tensor]) -> None:
    with torch.no_grad():
        expected, _ = theirs.encode_prompt(list(CAPTIONS), do_classifier_free_guidance=False)
    assert texts["real"].sum(1).tolist() == [len(one) for one in expected]
    for row, one in zip(texts["hidden"], expected, strict=True):
        assert torch.allclose(row[: len(one)], one, atol=1e-5) and not row[len(one) :].any()


def test_captions_of_other_lengths_beside_it_change_nothing(
    family: ZImage, tiny_zimage: Path, denoiser: Any, texts: dict[str, torch.Tensor]
) -> None:
    base = str(tiny_zimage)
    net = randomized(family.new_controlnet(denoiser), ZIMAGE_OUTPUTS)
    control = torch.randn(2, 16, 8, 8)
    with torch.no_grad():
        encoder, tokenizer = family.load_text_encoder(base, torch.float32), family.load_tokenizer(base)
        alone = [family.encode_text(tokenizer, encoder, [caption]) for caption in CAPTIONS]
        predicted = family.predict(denoiser, net, NOISY, SIGMAS, together(alone), control)
        for n in range(2):
            one = family.predict(denoiser, net, NOISY[n : n + 1], SIGMAS[n : n + 1], alone[n], control[n : n + 1])
            assert torch.allclose(predicted[n], one[0], atol=1e-5)
    assert alone[1]["hidden"].shape[1] < texts["hidden"].shape[1]
    assert torch.allclose(together(alone)["hidden"], texts["hidden"], atol=1e-5)


@pytest.mark.parametrize("layers, channels", [(3, 33), (6, 16)])
def test_a_new_net_is_a_copy_and_adds_nothing(
    family: ZImage, tiny_zimage: Path, denoiser: Any, texts: dict[str, torch.Tensor], layers: int, channels: int
) -> None:
    net = family.new_controlnet(denoiser, layers)
    assert net.config.control_layers_places == control_places(6, layers) and net.config.control_in_dim == channels
    control = family.encode_control(maps(), family.load_vae(str(tiny_zimage)))
    with torch.no_grad():
        assert torch.equal(
            family.predict(denoiser, net, NOISY, SIGMAS, texts, control),
            family.predict(denoiser, None, NOISY, SIGMAS, texts, None),
        )
    base = denoiser.state_dict()
    for name, weight in net.state_dict().items():
        if "_proj" in name:
            assert not weight.any(), name
        elif name.startswith(("control_layers", "control_noise_refiner")):
            assert torch.equal(weight, base[name.removeprefix("control_")]), name
    embedder, copied = net.control_all_x_embedder["2-1"].weight, base["all_x_embedder.2-1.weight"]
    cells = embedder.unflatten(1, (4, channels))
    assert torch.equal(cells[..., :16], copied.unflatten(1, (4, 16))) and not cells[..., 16:].any()
    assert all(name.startswith("control_") for name in net.state_dict())


@pytest.mark.parametrize("changes", [{}, LAYOUT_OF_6], ids=["3 layers, 2 refiners", "plain refiners"])
def test_residuals_and_gradients_are_those_of_diffusers(
    family: ZImage, denoiser: Any, texts: dict[str, torch.Tensor], changes: dict[str, Any]
) -> None:
    """With captions of two lengths; the image's 16 tokens are filled up to 32."""
    ours, other = pair(family, denoiser, changes)
    control = torch.randn(2, 16, 8, 8)
    wide = torch.nn.functional.pad(control, (0, 0, 0, 0, 0, ours.config.control_in_dim - 16))[:, :, None]
    captions = [row[: int(n)] for row, n in zip(texts["hidden"], texts["real"].sum(1), strict=True)]
    expected = other([one[:, None] for one in NOISY], 1 - SIGMAS, captions, list(wide))
    early, late = family.residuals(denoiser, ours, NOISY, SIGMAS, texts, control)
    assert list(expected) == [0, 2, 4] == [place for place, one in enumerate(late) if one is not None]
    assert len(early) == 2 and all((one is None) == bool(changes) for one in early)
    found = [one for one in late if one is not None]
    weights = [torch.randn(one.shape) for one in found]
    real = torch.cat([torch.ones(2, 32), (torch.arange(found[0].shape[1] - 32) < 32).expand(2, -1)], dim=1)
    real[0] = 1  # the first caption is the longest
    for one, theirs in zip(found, expected.values(), strict=True):
        assert torch.allclose(one[real > 0], theirs[real > 0], atol=1e-5)
    for residuals, net in ((found, ours), (expected.values(), other)):
        sum((r * w * real[..., None]).sum() for r, w in zip(residuals, weights, strict=True)).backward()
        assert net.control_layers[0].after_proj.weight.grad is not None
    gradients = dict(other.named_parameters())
    for name, weight in ours.named_parameters():
        theirs = gradients[name].grad
        assert (weight.grad is None) == (theirs is None), name
        assert theirs is None or torch.allclose(weight.grad, theirs, atol=1e-4, rtol=1e-4), name


def test_a_net_from_which_a_caption_is_hidden_does_not_read_it(
    family: ZImage, denoiser: Any, texts: dict[str, torch.Tensor]
) -> None:
    """In the row that is chosen alone, and what it adds is zero behind the caption's tokens."""
    ours, _ = pair(family, denoiser, {})
    control = torch.randn(2, 16, 8, 8)
    changed = {**texts, "hidden": texts["hidden"] + texts["real"][..., None]}
    with torch.no_grad():
        found = []
        for text in (texts, changed):
            hidden = family.hidden_from_net(text, torch.tensor([False, True]))
            found.append(
                [one for one in family.residuals(denoiser, ours, NOISY, SIGMAS, hidden, control)[1] if one is not None]
            )
        whole = [one for one in family.residuals(denoiser, ours, NOISY, SIGMAS, texts, control)[1] if one is not None]
    for one, other, plain in zip(*found, whole, strict=True):
        assert not one[1, 32:].any() and torch.allclose(one[1], other[1], atol=1e-6)
        assert not torch.allclose(one[0], other[0], atol=1e-3)
        assert torch.allclose(one[0, :32], plain[0, :32], atol=1e-5)
        assert not torch.allclose(one[1, :32], plain[1, :32], atol=1e-3)


def test_without_control_the_prediction_is_that_of_diffusers(
    family: ZImage, denoiser: Any, texts: dict[str, torch.Tensor]
) -> None:
    captions = [row[: int(n)] for row, n in zip(texts["hidden"], texts["real"].sum(1), strict=True)]
    with torch.no_grad():
        expected = denoiser([one[:, None] for one in NOISY], 1 - SIGMAS, captions).sample
        found = family.predict(denoiser, None, NOISY, SIGMAS, texts, None)
    assert torch.allclose(found, -torch.stack(expected)[:, :, 0], atol=1e-6)


@pytest.mark.parametrize("changes", [{}, LAYOUT_OF_6], ids=["3 layers, 2 refiners", "plain refiners"])
def test_checkpointing_changes_no_bit(
    family: ZImage, denoiser: Any, texts: dict[str, torch.Tensor], changes: dict[str, Any]
) -> None:
    net, _ = pair(family, denoiser, changes)
    control, gradients = torch.randn(2, 16, 8, 8), []
    for checkpointed in (False, True):
        if checkpointed:
            net.enable_gradient_checkpointing()
            denoiser.enable_gradient_checkpointing()
        net.zero_grad(set_to_none=True)
        family.predict(denoiser, net, NOISY, SIGMAS, texts, control).square().mean().backward()
        gradients.append({n: w.grad.clone() for n, w in net.named_parameters() if w.grad is not None})
    denoiser.disable_gradient_checkpointing()
    assert gradients[0].keys() == gradients[1].keys() and len(gradients[0]) > 20
    assert all(torch.equal(gradients[1][name], gradient) for name, gradient in gradients[0].items())


@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_sampling_gives_what_diffusers_pipeline_gives(
    family: ZImage, tiny_zimage: Path, theirs: Any, texts: dict[str, torch.Tensor], denoiser: Any, guidance: float
) -> None:
    """diffusers adds guidance x (prompt - negative) to the prompt's prediction: its 4 is the usual 5."""
    base = str(tiny_zimage)
    transformer = copy.deepcopy(theirs.transformer)
    net, other = pair(family, transformer, {})
    pipeline = family.pipeline(base, net, torch.float32)
    text, negative = ({name: rows[n : n + 1] for name, rows in texts.items()} for n in range(2))
    options = SamplingOptions(steps=4, guidance=guidance, sampler="euler", strength=1.0)
    ours = draw_latents(
        family,
        pipeline,
        text=text,
        negative=negative,
        control=maps()[:1],
        seeds=[5],
        options=options,
        control_vae=family.load_vae(base),
    )
    parts = theirs.components | {"transformer": transformer, "controlnet": other}
    reference = ZImageControlNetPipeline(**parts)
    reference.set_progress_bar_config(disable=True)
    residuals_to_refiners(other, transformer)
    lengths = [int(n) for n in texts["real"].sum(1)]
    with torch.no_grad():
        expected = reference(
            prompt_embeds=[texts["hidden"][0, : lengths[0]]],
            negative_prompt_embeds=[texts["hidden"][1, : lengths[1]]],
            control_image=maps()[:1].permute(0, 3, 1, 2).float() / 127.5 - 1,
            latents=torch.randn((16, 8, 8), generator=torch.Generator().manual_seed(5))[None],
            num_inference_steps=4,
            guidance_scale=guidance - 1 if guidance > 1 else 0,
            controlnet_conditioning_scale=1.0,
            width=64,
            height=64,
            output_type="latent",
        ).images
    assert torch.allclose(ours, expected, atol=2e-4), float((ours - expected).abs().max())


def test_the_shift_of_training_is_2_at_512_px_and_3_at_1024(family: ZImage, tiny_zimage: Path) -> None:
    process: Any = family.noise_process(str(tiny_zimage))
    assert process.shift(32 * 32) == 2 and process.shift(64 * 64) == 3
    assert family.default_scheduler(str(tiny_zimage), {}).config.shift == 6


def shape_of(net: ZImageControlNetModel) -> dict[str, Any]:
    names = ("control_layers_places", "control_in_dim", "add_control_noise_refiner", "n_refiner_layers")
    return {name: net.config[name] for name in names}


@pytest.mark.parametrize("places, changes, millions", [(3, {}, 1008), (6, LAYOUT_OF_6, 1550), (15, {}, 3356)])
def test_the_real_base_and_its_nets_are_counted_to_the_parameter(
    family: ZImage, places: int, changes: dict[str, Any], millions: int
) -> None:
    """Also: each of the published layouts is recognized by its shapes alone, and ComfyUI would read it."""
    config = json.loads((LAYOUTS / "zimage" / "transformer" / "config.json").read_text(encoding="utf-8"))
    with torch.device("meta"):
        denoiser = ZImageTransformer2DModel.from_config(config)
        net = family.new_controlnet(denoiser)
        layout = {**net.config, **changes, "control_layers_places": control_places(30, places)}
        found = ZImageControlNetModel.from_config(layout)
        if places in family.facts.block_counts:
            net = family.new_controlnet(denoiser, places)
            assert {name: net.config[name] for name in shape_of(found)} == shape_of(found)
    sizes = count(config, 1024, learned=Learned(blocks=places))
    assert sizes.denoiser.weights == sum(p.numel() for p in denoiser.parameters()) == family.facts.parameters
    assert sizes.controlnet.weights == sum(p.numel() for p in found.parameters())
    assert sizes.controlnet.weights // 10**6 == millions
    for units in (sizes.controlnet.units, sizes.denoiser.units):  # each residual is made once, and waited for once
        assert sum(unit.reads + unit.writes for unit in units) == sizes.residuals
    assert family.facts.blocks_of(found.config) == places
    shapes = {name: tuple(weight.shape) for name, weight in found.state_dict().items()}
    shown = ZIMAGE_FILES.config_from_shapes(shapes, "net")
    assert {name: found.config[name] for name in shown if name != "control_refiner_layers_places"} == {
        name: value for name, value in shown.items() if name != "control_refiner_layers_places"
    }
    assert ZIMAGE_FILES.why_misread(shapes, found.config) == ""
    assert "supports no net" in ZIMAGE_FILES.why_misread(shapes, {**found.config, "control_layers_places": [0, 15]})


@pytest.mark.parametrize("trained", [False, True])
def test_what_a_block_keeps_is_counted(trained: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """In bf16 with attention that keeps no matrix; the sizes are proportional to the tokens and to the width."""
    width, tokens = 96, 512
    module = "diffusers.models.transformers.transformer_z_image.dispatch_attention_fn"
    monkeypatch.setattr(module, lambda query, key, value, **_: Fused.apply(query, key, value))
    with torch.device("meta"):
        block = ZImageTransformerBlock(0, width, 2, 2, 1e-5, True).to(torch.bfloat16).requires_grad_(trained)
        rows = torch.empty(1, tokens, width, dtype=torch.bfloat16, requires_grad=True)
        places = torch.empty(1, tokens, width // 4, dtype=torch.complex64)
        time = torch.empty(1, width, dtype=torch.bfloat16)
    own = {parameter.untyped_storage()._cdata for parameter in block.parameters()}
    kept: dict[int, Any] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage()._cdata not in own:
            kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        block(rows, None, places, time)
    found = sum(tensor.untyped_storage().nbytes() for tensor in kept.values()) / 2
    assert found == pytest.approx(KEPT[trained] * width * tokens, rel=0.05)
