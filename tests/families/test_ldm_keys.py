"""Names of diffusers and of the original code, at the real shapes of SD 1.5, SD 2.1 and SDXL (on the meta device)."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from accelerate import init_empty_weights
from diffusers import ControlNetModel, UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_controlnet_checkpoint

from engine.errors import UserError
from engine.families.ldm_keys import PREFIX, Layout, from_ldm, to_ldm

UNETS: dict[str, dict[str, Any]] = {
    "sd15": {"cross_attention_dim": 768, "attention_head_dim": 8},
    "sd21": {"cross_attention_dim": 1024, "attention_head_dim": [5, 10, 20, 20], "use_linear_projection": True},
    "sdxl": {  # unet/config.json of stable-diffusion-xl-base-1.0
        "sample_size": 128,
        "block_out_channels": (320, 640, 1280),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": [1, 2, 10],
        "attention_head_dim": [5, 10, 20],
        "cross_attention_dim": 2048,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
}


@cache
def real_net(version: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Config and weights without memory behind them, as ``from_unet`` makes them."""
    with init_empty_weights():
        net = ControlNetModel.from_unet(UNet2DConditionModel(**UNETS[version]), load_weights_from_unet=False)
    return dict(net.config), net.state_dict()


def shapes(tensors: dict[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


@pytest.mark.parametrize(("version", "tensors"), [("sd15", 340), ("sd21", 340), ("sdxl", 844)])
@pytest.mark.parametrize("prefix", ["", PREFIX])
def test_there_and_back_changes_nothing(version: str, tensors: int, prefix: str) -> None:
    config, ours = real_net(version)
    theirs = to_ldm(ours, config, prefix)
    assert len(ours) == len(theirs) == tensors
    assert all(name.startswith(prefix) for name in theirs)
    back = from_ldm(theirs)
    assert back.keys() == ours.keys()
    assert all(back[name] is tensor for name, tensor in ours.items())
    assert Layout.of_ldm_names(to_ldm(ours, config)) == Layout.of_config(config)


@pytest.mark.parametrize("version", UNETS)
def test_another_reader_finds_every_tensor_where_it_belongs(version: str) -> None:
    """The reader of diffusers, which is not ours (and passes over what SDXL adds)."""
    config, ours = real_net(version)
    read = convert_controlnet_checkpoint(to_ldm(ours, config), config)
    expected = {name: tensor for name, tensor in ours.items() if not name.startswith("add_embedding")}
    assert read.keys() == expected.keys()
    assert all(read[name] is tensor for name, tensor in expected.items())


def test_sd15_has_the_published_names_and_shapes() -> None:
    config, ours = real_net("sd15")
    theirs = shapes(to_ldm(ours, config))
    assert {name.split(".")[0] for name in theirs} == {
        "time_embed",
        "input_blocks",
        "middle_block",
        "middle_block_out",
        "zero_convs",
        "input_hint_block",
    }
    expected = {
        "time_embed.0.weight": (1280, 320),
        "input_blocks.0.0.weight": (320, 4, 3, 3),
        "input_blocks.1.0.emb_layers.1.weight": (320, 1280),
        "input_blocks.1.1.proj_in.weight": (320, 320, 1, 1),
        "input_blocks.1.1.proj_out.weight": (320, 320, 1, 1),
        "input_blocks.3.0.op.weight": (320, 320, 3, 3),
        "input_blocks.4.0.skip_connection.weight": (640, 320, 1, 1),
        "input_blocks.8.1.transformer_blocks.0.attn2.to_k.weight": (1280, 768),
        "input_blocks.8.1.transformer_blocks.0.ff.net.0.proj.weight": (10240, 1280),
        "input_blocks.9.0.op.weight": (1280, 1280, 3, 3),
        "input_blocks.11.0.in_layers.0.weight": (1280,),
        "middle_block.1.transformer_blocks.0.attn1.to_out.0.bias": (1280,),
        "middle_block.2.out_layers.3.weight": (1280, 1280, 3, 3),
        "middle_block_out.0.weight": (1280, 1280, 1, 1),
        "zero_convs.11.0.bias": (1280,),
        "input_hint_block.0.weight": (16, 3, 3, 3),
        "input_hint_block.12.weight": (256, 96, 3, 3),
        "input_hint_block.14.weight": (320, 256, 3, 3),
    }
    assert {name: theirs.get(name) for name in expected} == expected
    assert "zero_convs.12.0.weight" not in theirs and "input_blocks.10.1.norm.weight" not in theirs


def test_sdxl_has_the_published_names_and_shapes() -> None:
    config, ours = real_net("sdxl")
    theirs = shapes(to_ldm(ours, config))
    expected = {
        "label_emb.0.0.weight": (1280, 2816),
        "label_emb.0.2.weight": (1280, 1280),
        "input_blocks.4.1.transformer_blocks.1.attn2.to_k.weight": (640, 2048),
        "input_blocks.5.1.proj_in.weight": (640, 640),
        "input_blocks.8.1.transformer_blocks.9.norm3.weight": (1280,),
        "middle_block.1.transformer_blocks.9.attn1.to_q.weight": (1280, 1280),
        "zero_convs.8.0.weight": (1280, 1280, 1, 1),
    }
    assert {name: theirs.get(name) for name in expected} == expected
    assert "zero_convs.9.0.weight" not in theirs and "input_blocks.1.1.norm.weight" not in theirs


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"mid_block_type": "UNetMidBlock2D"}, "UNetMidBlock2D"),
        ({"down_block_types": ["AttnDownBlock2D"] * 4}, "AttnDownBlock2D"),
    ],
)
def test_a_net_that_the_original_code_cannot_hold_is_refused(change: dict[str, Any], words: str) -> None:
    config, ours = real_net("sd15")
    with pytest.raises(UserError, match=f"cannot be written with LDM names.*{words}"):
        to_ldm(ours, config | change)


def test_strange_and_missing_names_are_refused() -> None:
    config, ours = real_net("sd15")
    with pytest.raises(UserError, match="cannot be written.*a tensor class_embedding.weight"):
        to_ldm(ours | {"class_embedding.weight": ours["conv_in.bias"]}, config)
    theirs = to_ldm(ours, config)
    with pytest.raises(UserError, match="cannot be read.*a tensor output_blocks.0.0.bias"):
        from_ldm(theirs | {"output_blocks.0.0.bias": ours["conv_in.bias"]})
    for lost in ("input_blocks.5.0.in_layers.0.weight", "input_blocks.5.1.norm.weight", "zero_convs.0.0.weight"):
        with pytest.raises(UserError, match="incomplete or uneven"):
            from_ldm({name: tensor for name, tensor in theirs.items() if name != lost})
    with pytest.raises(UserError, match="cannot be read"):
        from_ldm({})
