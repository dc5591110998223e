"""A base in one file: recognized by its header, loaded offline, and refused in words where it is something else."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import CLIPTextModelWithProjection

from engine.errors import UserError
from engine.families import single_file
from engine.families.registry import describe, detect
from engine.families.single_file import LAYOUTS, clip_tokenizer, recognize
from tests.families.ldm_file import open_clip_name, real_shapes, write_header, write_single_file

UNET = "model.diffusion_model."
OF_SD1, OF_SD2, OF_SDXL = map(real_shapes, ("sd1", "sd2", "sdxl"))
PROJECTION = "conditioner.embedders.1.model.text_projection"
LINEAR_XL = {f"{name}.weight" if name == PROJECTION else name: shape for name, shape in OF_SDXL.items()}


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        pytest.fail("something was to be downloaded")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)


@pytest.mark.parametrize(
    ("name", "shapes", "words"),
    [
        ("dreamer", OF_SD1, "Stable Diffusion 1.x, predicts noise, made for 512 px"),
        ("dreamer.ckpt", OF_SD1, "Stable Diffusion 1.x, predicts noise, made for 512 px"),
        ("v2-1_768", OF_SD2, "Stable Diffusion 2.x, predicts velocity, made for 768 px"),
        ("v2-1_512-base", OF_SD2, "Stable Diffusion 2.x, predicts noise, made for 512 px"),
        ("database_768v", OF_SD2, "Stable Diffusion 2.x, predicts velocity, made for 768 px"),
        ("databaseMix", OF_SD2, "Stable Diffusion 2.x, predicts velocity, made for 768 px"),
        ("anime-2-0-base_768", OF_SD2, "Stable Diffusion 2.x, predicts velocity, made for 768 px"),
        ("xl", OF_SDXL, "Stable Diffusion XL, predicts noise, made for 1024 px"),
        ("noobXL_vPred05", OF_SDXL, "Stable Diffusion XL, predicts velocity, made for 1024 px"),
        ("merged-xl", LINEAR_XL, "Stable Diffusion XL, predicts noise, made for 1024 px"),
        (
            "noobXL-v-pred-ztsnr",
            OF_SDXL,
            "Stable Diffusion XL, predicts velocity, zero terminal SNR, made for 1024 px",
        ),
        (
            "xl-v",
            OF_SDXL | {"v_pred": (0,), "ztsnr": (0,)},
            "Stable Diffusion XL, predicts velocity, zero terminal SNR, made for 1024 px",
        ),
    ],
)
def test_a_file_is_recognized_by_its_header(tmp_path: Path, name: str, shapes: dict, words: str) -> None:
    file = name if name.endswith(".ckpt") else f"{name}.safetensors"
    assert describe(write_header(tmp_path / file, shapes)) == words


@pytest.mark.parametrize(
    ("shapes", "word"),
    [
        ({"lora_unet_down_blocks_0.lora_up.weight": (4, 4)}, "a LoRA"),
        ({"lllite_unet_input_blocks_4_1.conditioning1.0.weight": (16, 3, 4, 4)}, "a ControlNet-LLLite"),
        ({"task_embedding": (6, 320), "control_add_embedding.linear_1.weight": (1, 1)}, "a ControlNet Union"),
        ({"image_proj.proj.weight": (3, 1), "ip_adapter.1.to_k_ip.weight": (3, 7)}, "an IP-Adapter"),
        ({"down_blocks.0.resnets.0.conv1.weight": (320, 320, 3, 3)}, "the UNet of a base alone"),
        ({"text_model.embeddings.token_embedding.weight": (49408, 768)}, "a text encoder alone"),
        ({"encoder.conv_in.weight": (128, 3, 3, 3), "decoder.conv_out.weight": (3, 128, 3, 3)}, "a VAE alone"),
        ({"emb_params": (4, 768)}, "an embedding"),
        ({"cap_embedder.0.weight": (2560,), "layers.0.attention.qkv.weight": (3, 3)}, "folder in diffusers layout, as"),
        ({"control_model.input_hint_block.0.weight": (16, 3, 3, 3)}, "a ControlNet"),
        ({"double_blocks.0.img_attn.qkv.weight": (4, 4)}, "a Flux model"),
        ({"layers.0.attention.qkv.weight": (4, 4), "cap_embedder.0.weight": (4,)}, "a Z-Image.*diffusers layout"),
        ({"model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight": (4, 4)}, "a Stable Diffusion 3 model"),
        ({"model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight": (4, 4)}, "folder in diffusers layout, as"),
        (
            {"transformer_blocks.0.attn.to_q.weight": (1, 1)},
            "transformer of a base alone.*folder in diffusers layout, as",
        ),
        ({"distilled_guidance_layer.norms.0.scale": (1,), "double_blocks.0.img_attn.proj.weight": (1, 1)}, "a Chroma"),
        ({"double_stream_modulation_img.lin.weight": (1, 1), "double_blocks.0.img_attn.qkv.weight": (1,)}, "a FLUX.2"),
        ({"vision_model.embeddings.class_embedding": (1,)}, "an image encoder alone"),
        ({"encoder.block.0.layer.0.SelfAttention.k.weight": (1, 1)}, "a text encoder alone"),
        ({}, "it has no tensors"),
        (OF_SD1 | {f"{UNET}input_blocks.0.0.weight": (320, 9, 3, 3)}, "inpainting"),
        ({name: shape for name, shape in OF_SD1.items() if "first_stage" not in name}, "no VAE"),
        ({name: shape for name, shape in OF_SD1.items() if "cond_stage" not in name}, "no text encoder"),
        (OF_SD1 | {f"{UNET}input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (384, 1408)}, "unknown kind"),
        ({f"{UNET}input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (384, 1280)} | OF_SDXL, "the refiner"),
        (OF_SD2 | {f"{UNET}label_emb.0.0.weight": (1280, 1536)}, "unCLIP"),
        (OF_SDXL | {"edm_mean": (4,), "edm_std": (4,)}, "Playground v2.5"),
        (OF_SDXL | {"edm_vpred.sigma_max": (0,), "edm_vpred.sigma_min": (0,)}, "CosXL"),
        (OF_SD1 | {f"{UNET}time_embed.cond_proj.weight": (320, 256)}, "LCM"),
    ],
)
def test_something_else_is_refused_by_its_name(tmp_path: Path, shapes: dict, word: str) -> None:
    with pytest.raises(UserError, match=word):
        detect(write_header(tmp_path / "some.safetensors", shapes))


CONV, QKV = f"{UNET}middle_block.0.in_layers.2.bias", "conditioner.embedders.1.model.transformer.resblocks.3.attn."


def without(shapes: dict, *left_out: str) -> dict:
    return {name: shape for name, shape in shapes.items() if not any(part in name for part in left_out)}


@pytest.mark.parametrize(
    ("shapes", "why"),
    [
        (
            without(OF_SD1, CONV),
            "of its unet are not complete: 1 tensor of 686 missing, such as mid_block.resnets.0.c",
        ),
        (without(OF_SD1, "input_blocks.7", "output_blocks.1."), "of its unet are not complete"),
        (OF_SD1 | {CONV: (640,)}, "mid_block.resnets.0.conv1.bias has the shape 640 instead of 1280"),
        (OF_SD1 | {CONV: (640,)}, "not match those of Stable Diffusion 1.x"),
        (without(OF_SD1, "decoder.mid.attn_1.q"), "of its vae are not complete: 2 tensors of 248"),
        (without(OF_SD1, "first_stage_model.decoder"), "of its vae are not complete"),
        (without(OF_SD1, "layers.11."), "of its text_encoder are not complete: 16 tensors of 196"),
        (without(OF_SD2, "resblocks.20.mlp"), "of its text_encoder are not complete: 4 tensors of 372"),
        (without(OF_SDXL, "label_emb.0.2.weight"), "Its unet is not complete: the tensor label_emb.0.2.weight"),
        (without(OF_SDXL, QKV), "of its text_encoder_2 are not complete: 8 tensors of 517"),
        (without(OF_SDXL, "conditioner.embedders.1"), "text_encoder_2 is not complete: all of its tensors are missing"),
    ],
)
def test_a_file_that_lacks_some_tensors_is_refused_at_the_choice(tmp_path: Path, shapes: dict, why: str) -> None:
    with pytest.raises(UserError, match="some.safetensors is not complete") as refused:
        detect(write_header(tmp_path / "some.safetensors", shapes))
    assert why in refused.value.why and "a folder some in diffusers layout" in refused.value.try_this


YAML_V = 'model:\n  target: ldm.models.diffusion.ddpm.LatentDiffusion\n  params:\n    parameterization: "v"\n'
YAML_EPS = YAML_V.replace('"v"', "eps")
YAML_XL = """model:
  params:
    denoiser_config:
      params:
        scaling_config: {target: sgm.modules.diffusionmodules.denoiser_scaling.%s}
"""


@pytest.mark.parametrize(
    ("name", "shapes", "yaml", "words"),
    [
        ("some512base", OF_SD2, YAML_V, "predicts velocity, made for 768 px"),
        ("some768v", OF_SD2, YAML_EPS, "predicts noise, made for 512 px"),
        ("dreamer", OF_SD1, YAML_V, "predicts velocity, made for 512 px"),
        ("dreamer", OF_SD1, YAML_V + "    zero_terminal_snr: true\n", "predicts velocity, zero terminal SNR, made for"),
        ("xl", OF_SDXL | {"v_pred": (0,)}, YAML_XL % "EpsScaling", "predicts noise"),
        ("xl", OF_SDXL, YAML_XL % "VScaling", "predicts velocity"),
        ("xl", OF_SDXL, "model: 3", "predicts noise"),
    ],
)
def test_a_yaml_beside_a_file_decides(tmp_path: Path, name: str, shapes: dict, yaml: str, words: str) -> None:
    """As in AUTOMATIC1111. The answer of before it was there is not kept."""
    path = write_header(tmp_path / f"{name}.safetensors", shapes)
    describe(path)
    (tmp_path / f"{name}.yaml").write_text(yaml, encoding="utf-8")
    assert words in describe(path)


@pytest.mark.parametrize(
    ("yaml", "words"),
    [
        (YAML_XL % "VScalingWithEDMcNoise", "vscalingwithedmcnoise"),
        (YAML_V.replace('"v"', "x0"), "something other than noise or velocity"),
        ("a: [", "some.yaml cannot be read"),
        ("!!python/object/apply:os.mkdir [there]", "some.yaml cannot be read"),
    ],
)
def test_a_yaml_that_says_something_else_is_refused(
    tmp_path: Path, yaml: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = write_header(tmp_path / "some.safetensors", OF_SD1)
    (tmp_path / "some.yaml").write_text(yaml, encoding="utf-8")
    with pytest.raises(UserError) as refused:
        describe(path)
    assert words in f"{refused.value.what} {refused.value.why}" and not (tmp_path / "there").exists()


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    ran = tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> tuple:
            return Path.touch, (ran,)

    torch.save({"state_dict": {"x": Evil()}}, tmp_path / "evil.ckpt")
    with pytest.raises(UserError, match="code in it will not be run"):
        detect(str(tmp_path / "evil.ckpt"))
    assert not ran.exists()


@pytest.mark.parametrize("name", ["cut.safetensors", "cut.ckpt"])
def test_a_damaged_file_is_reported(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"nothing of the kind")
    with pytest.raises(UserError, match="damaged"):
        detect(str(tmp_path / name))


@pytest.mark.answers("Can I use the .safetensors or .ckpt file that I have?")
@pytest.mark.parametrize("ending", [".safetensors", ".ckpt"])
def test_every_part_of_a_file_equals_that_of_the_folder(tiny_base: Path, tmp_path: Path, ending: str) -> None:
    path = str(write_single_file(tiny_base, tmp_path / f"tiny{ending}"))
    family = detect(path)
    assert family.name == "sd1" and family.default_resolution(path) == 64
    fp32 = [torch.float32]
    for load, given in ((family.load_denoiser, fp32), (family.load_vae, []), (family.load_text_encoder, fp32)):
        ours, folders = (load(base, *given).state_dict() for base in (path, str(tiny_base)))
        assert ours.keys() == folders.keys()
        assert all(torch.equal(ours[name], folders[name]) for name in ours)
    first, second = (family.load_tokenizer(base)("a red circle").input_ids for base in (path, str(tiny_base)))
    assert first == second
    pipeline = family.pipeline(path, family.new_controlnet(family.load_denoiser(path, torch.float32)), torch.float32)
    assert pipeline.scheduler.config.prediction_type == "epsilon"


@pytest.mark.parametrize(
    ("layout", "part", "pad"), [("sd1", "tokenizer", 49407), ("sd2", "tokenizer", 0), ("sdxl", "tokenizer_2", 0)]
)
def test_the_tokenizer_gives_the_numbers_that_clip_was_trained_with(layout: str, part: str, pad: int) -> None:
    numbers = clip_tokenizer(layout, part)(["A photo of a  cat"], padding="max_length").input_ids[0]
    assert numbers[:7] == [49406, 320, 1125, 539, 320, 2368, 49407]  # as openai/CLIP's own tokenizer gives
    assert len(numbers) == 77 and set(numbers[7:]) == {pad}


@pytest.mark.parametrize(
    ("layout", "unet", "controlnet", "texts"),
    [
        ("sd1", 859_520_964, 361_279_120, [123_060_480]),
        ("sd2", 865_910_724, 364_228_240, [340_387_840]),
        ("sdxl", 2_567_463_684, 1_251_014_160, [123_060_480, 694_659_840]),
    ],
)
def test_the_layouts_have_as_many_weights_as_the_real_models(
    layout: str, unet: int, controlnet: int, texts: list[int]
) -> None:
    from accelerate import init_empty_weights
    from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    folder = LAYOUTS / layout
    with init_empty_weights():
        net = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(folder, subfolder="unet"))
        vae = AutoencoderKL.from_config(AutoencoderKL.load_config(folder, subfolder="vae"))
        control = ControlNetModel.from_unet(net, load_weights_from_unet=False)
        kinds = zip(("text_encoder", "text_encoder_2"), (CLIPTextModel, CLIPTextModelWithProjection), strict=True)
        encoders = [
            kind(CLIPTextConfig.from_pretrained(folder / part)) for part, kind in kinds if (folder / part).is_dir()
        ]
    assert net.num_parameters() == unet
    assert control.num_parameters() == controlnet
    assert vae.num_parameters() == 83_653_863
    assert [sum(p.numel() for p in encoder.parameters()) for encoder in encoders] == texts


def test_recognizing_reads_once_until_the_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_header(tmp_path / "model.safetensors", OF_SD1)
    found = recognize(path)
    assert recognize(path) is found
    assert recognize(write_header(tmp_path / "model.safetensors", OF_SDXL)).configs.name == "sdxl"


@pytest.mark.parametrize("linear", [False, True])
def test_the_projection_of_xls_second_text_encoder_is_read_as_matrix_and_as_linear_layer(
    linear: bool, tiny_sdxl: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = CLIPTextModelWithProjection.from_pretrained(tiny_sdxl / "text_encoder_2", dtype=torch.float32)
    wanted.text_projection.weight.data.normal_()
    state, held = dict(wanted.state_dict()), {}
    for name, weight in state.items():
        if ".self_attn.q_proj." in name:
            names = [name.replace("q_proj", f"{one}_proj") for one in "qkv"]
            start, _, kind = open_clip_name(name).partition(".self_attn.q_proj.")
            held[f"{start}.attn.in_proj_{kind}"] = torch.cat([state[one] for one in names])
        elif "self_attn.k_proj" not in name and "self_attn.v_proj" not in name and "position_ids" not in name:
            held[open_clip_name(name)] = weight
    projection = held.pop("text_projection")
    held["text_projection.weight" if linear else "text_projection"] = projection if linear else projection.T
    prefix = PROJECTION.removesuffix("text_projection")
    save_file({prefix + name: weight.contiguous() for name, weight in held.items()}, tmp_path / "xl.safetensors")
    monkeypatch.setattr(single_file, "recognize", lambda path: single_file.SingleFile(tiny_sdxl, {}))
    path = str(tmp_path / "xl.safetensors")
    read = single_file.load(CLIPTextModelWithProjection, path, "text_encoder_2", torch.float32)
    assert torch.equal(read.text_projection.weight, wanted.text_projection.weight)
