"""Without T5 one token stands for its 256 equal ones: what is predicted and learned stays that of diffusers' nets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import SD3ControlNetModel, SD3Transformer2DModel

from engine.families.encoder_sizes import T5_TOKENS
from engine.families.sd3 import TIMESTEPS, StableDiffusion3
from engine.families.text_encoding import together

FAMILY = StableDiffusion3()
FP32 = torch.float32
Nets = tuple[Any, Any]


def nets(base: Path, checkpointing: bool = False, dtype: torch.dtype = FP32) -> Nets:
    """A base and a ControlNet whose outputs are not zero; both, and the base as well, are trained."""
    denoiser = SD3Transformer2DModel.from_pretrained(base, subfolder="transformer", torch_dtype=torch.float32)
    net: Any = FAMILY.new_controlnet(denoiser)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        for layer in (net.controlnet_blocks, net.pos_embed_input):
            for weight in layer.parameters():
                torch.nn.init.normal_(weight, std=0.2)
    for one in (denoiser, net) if checkpointing else ():
        one.enable_gradient_checkpointing()
    return denoiser.to(dtype).train(), net.to(dtype).train()


def inputs(dtype: torch.dtype = FP32) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(dtype)

    hidden = torch.cat([noise(2, 32, 128), torch.zeros(2, 1, 128, dtype=dtype)], dim=1)
    return {"noisy": noise(2, 16, 8, 8), "control": noise(2, 16, 8, 8), "hidden": hidden, "pooled": noise(2, 64)}


def with_all_tokens(hidden: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.pad(hidden, (0, 0, 0, T5_TOKENS - 1))


def ours(both: Nets, hidden: torch.Tensor) -> torch.Tensor:
    given = inputs(hidden.dtype)
    text = {"hidden": hidden, "pooled": given["pooled"]}
    return FAMILY.predict(*both, given["noisy"], torch.tensor([0.3, 0.9]), text, given["control"])


def theirs(both: Nets) -> torch.Tensor:
    """Computed with diffusers' classes and all tokens."""
    (denoiser, net), given = both, inputs(both[0].dtype)
    read: dict[str, Any] = {
        "hidden_states": given["noisy"],
        "encoder_hidden_states": with_all_tokens(given["hidden"]),
        "timestep": TIMESTEPS * torch.tensor([0.3, 0.9]),
        "return_dict": False,
    }
    pooled = given["pooled"]
    (outputs,) = net(controlnet_cond=given["control"], pooled_projections=torch.zeros_like(pooled), **read)
    return denoiser(pooled_projections=pooled, block_controlnet_hidden_states=outputs, **read)[0]


@pytest.mark.parametrize(("checkpointing", "dtype"), [(False, FP32), (True, FP32), (True, torch.float64)])
def test_prediction_loss_and_every_gradient_are_those_of_all_tokens(
    tiny_sd3: Path, checkpointing: bool, dtype: torch.dtype
) -> None:
    """In fp64 keys are repeated as in half precision, without the rounding."""
    short, long = nets(tiny_sd3, checkpointing, dtype), nets(tiny_sd3, dtype=dtype)
    assert isinstance(short[1], SD3ControlNetModel)
    found, expected = ours(short, inputs(dtype)["hidden"]), theirs(long)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    for predicted in (found, expected):
        predicted.square().mean().backward()
    for mine, reference in zip(short, long, strict=True):
        for (name, weight), other in zip(mine.named_parameters(), reference.parameters(), strict=True):
            assert (weight.grad is None) == (other.grad is None), name
            if weight.grad is not None:
                torch.testing.assert_close(weight.grad, other.grad, rtol=1e-5, atol=1e-5, msg=name)


def test_a_text_with_t5_is_read_by_diffusers_attention(tiny_sd3: Path) -> None:
    """Also by nets that have read one without it before."""
    both = nets(tiny_sd3)
    with torch.no_grad():
        ours(both, inputs()["hidden"])
        assert torch.equal(ours(both, with_all_tokens(inputs()["hidden"])), theirs(nets(tiny_sd3)))


def test_captions_in_caches_of_earlier_versions_go_together_with_short_ones(tiny_sd3: Path) -> None:
    """They have all of T5's zeros, and shorter captions are filled up with zeros."""
    hidden = inputs()["hidden"]
    mixed = together([{"hidden": with_all_tokens(hidden[:1])}, {"hidden": hidden[1:]}])["hidden"]
    assert torch.equal(mixed, with_all_tokens(hidden))


def test_there_is_nothing_to_leave_out_of_a_text_without_t5() -> None:
    text = {"hidden": inputs()["hidden"]}
    assert torch.equal(FAMILY.without_optional_text(text, torch.tensor([True, False]))["hidden"], text["hidden"])
