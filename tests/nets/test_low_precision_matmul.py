"""Products of the frozen base in 8 bits, and with sums in fp16."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from engine.config import TrainConfig, parse
from engine.errors import UserError
from engine.families.registry import detect
from engine.nets import weight_quantization
from engine.nets.frozen_layers import QuantizedLinear, dequantized_weight, quantize_base
from engine.nets.low_precision_matmul import EightBitLinear, matmul_mode, use_matmul_mode

CPU, CARD = torch.device("cpu"), torch.device("cuda", 0)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def layer_and_widened(kind: str, dtype: torch.dtype) -> tuple[nn.Linear, nn.Linear]:
    """A frozen layer that multiplies in 8 bits, and one with its widened weight in the usual way."""
    torch.manual_seed(0)
    wide = nn.Linear(192, 96).requires_grad_(False)
    wide.weight.mul_(torch.logspace(-2, 1, 96)[:, None])  # channels of very different size
    small, scale = weight_quantization.quantize(wide.weight, kind)
    layer: Any = nn.Linear(192, 96, dtype=dtype).requires_grad_(False)
    layer.__class__ = QuantizedLinear
    layer.weight.data = small
    layer.register_buffer("scale", scale)
    use_matmul_mode(layer, "8bit")
    wide.to(dtype).weight.data = dequantized_weight(layer, dtype)
    layer.bias.data = wide.bias.data
    return layer, wide


@pytest.mark.parametrize(("kind", "error"), [("int8", 0.02), ("fp8", 0.06)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_product_in_8_bits_is_near_the_widened_one_and_its_gradient_the_same(
    kind: str, error: float, dtype: torch.dtype
) -> None:
    layer, wide = layer_and_widened(kind, dtype)
    assert type(layer) is EightBitLinear and layer.weight.element_size() == 1
    rows = torch.randn(2, 24, 192) * torch.logspace(-3, 2, 24)[:, None]  # rows of very different size
    rows[0, 0] = 0
    ours, theirs = (rows.to(dtype).requires_grad_() for _ in range(2))
    answer, expected = layer(ours), wide(theirs)
    assert answer.dtype == dtype and answer.shape == expected.shape
    apart, size = (t.double().square().sum(-1).sqrt() for t in (answer - expected, expected - wide.bias))
    assert (apart <= error * size + 1e-3 * wide.bias.double().norm()).all(), "row by row"
    assert float(apart.detach().sum()) > 0, "it did multiply in 8 bits"

    gradient = torch.randn(answer.shape).to(dtype) * 1e-4
    answer.backward(gradient)
    expected.backward(gradient)
    assert ours.grad is not None and theirs.grad is not None
    tiny = {torch.float32: 1e-6, torch.bfloat16: 8e-3, torch.float16: 1e-3}[dtype]
    assert torch.allclose(ours.grad, theirs.grad, rtol=tiny, atol=tiny * float(theirs.grad.abs().max()) / 8)


@pytest.mark.parametrize("kind", ["int8", "fp8"])
def test_a_whole_base_predicts_nearly_as_with_the_widened_weights(tiny_base: Path, kind: str) -> None:
    family = detect(str(tiny_base))
    unets = [family.load_denoiser(str(tiny_base), torch.float32) for _ in range(3)]
    for unet in unets[:2]:
        quantize_base(unet, kind=kind, modulation="same", layers=family.layers)
    use_matmul_mode(unets[0], "8bit")
    assert sum(type(layer) is EightBitLinear for layer in unets[0].modules()) > 10
    noisy, text = torch.randn(2, 4, 8, 8), torch.randn(2, 8, 64)
    fast, usual, whole = (unet(noisy, torch.tensor([500]), text, return_dict=False)[0] for unet in unets)
    error, of_storage = ((one - whole).norm() / whole.norm() for one in (fast, usual))
    assert not torch.equal(fast, usual) and 0 < error < 3 * of_storage < 0.3


def train(**values: str) -> TrainConfig:
    return parse({"train": values}).train


@pytest.mark.parametrize(("capability", "found"), [((7, 5), []), ((8, 6), ["int8"]), ((8, 9), ["int8", "fp8"])])
def test_the_card_decides(capability: tuple[int, int], found: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda device: capability)
    for kind in ("int8", "fp8"):
        settings = train(base_products="8bit", base_storage=kind)
        products, why = matmul_mode(settings, torch.bfloat16, CARD)
        assert (products == "8bit") is (kind in found) is not bool(why)
        assert matmul_mode(settings, torch.float32, CPU) == ("8bit", "")
    assert matmul_mode(train(), torch.float16, CARD) == ("", "")
    sums = train(base_products="fp16_sums")
    assert matmul_mode(sums, torch.float16, CARD) == ("fp16_sums", "")
    assert matmul_mode(sums, torch.bfloat16, CARD)[1] and matmul_mode(sums, torch.float16, CPU)[1]
    monkeypatch.setattr("torch.backends.cuda.matmul", SimpleNamespace())
    assert "version of PyTorch" in matmul_mode(sums, torch.float16, CARD)[1]


def test_sums_in_fp16_are_set_around_frozen_linear_layers_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """What torch has for the whole process is on during the base's products, forward and backward, and never else."""
    setting = SimpleNamespace(allow_fp16_accumulation=False)
    monkeypatch.setattr("torch.backends.cuda.matmul", setting)
    seen: dict[int, list[bool]] = {}

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default):
                seen.setdefault(args[-1].shape[-1] if func.__name__[:2] == "mm" else args[2].shape[-1], []).append(
                    setting.allow_fp16_accumulation
                )
            return func(*args, **(kwargs or {}))

    torch.manual_seed(0)
    frozen, trained = nn.Linear(16, 24).requires_grad_(False), nn.Linear(24, 32)
    base = nn.Sequential(frozen, trained)
    x = torch.randn(40, 16, requires_grad=True)
    expected = torch.autograd.grad(base(x).square().sum(), x)[0]
    use_matmul_mode(base, "fp16_sums")
    with Watch():
        loss = base(x).square().sum()
        assert setting.allow_fp16_accumulation is False
        loss.backward()
    assert x.grad is not None and torch.allclose(x.grad, expected, rtol=1e-6)
    assert setting.allow_fp16_accumulation is False
    assert sorted(flag for flags in seen.values() for flag in flags) == [False] * 3 + [True] * 2

    def fail(*given: Any) -> None:
        assert setting.allow_fp16_accumulation
        raise RuntimeError("CUDA error")

    monkeypatch.setattr(functional, "linear", fail)
    with pytest.raises(RuntimeError, match="CUDA error"):
        frozen(x)
    assert setting.allow_fp16_accumulation is False, "after an error, too"


def test_8bit_products_are_refused_in_words_for_a_base_in_another_precision() -> None:
    with pytest.raises(UserError, match="need a base in 8 bits: set train.base_storage to int8 or fp8"):
        parse({"train": {"base_products": "8bit"}})
    assert parse({"train": {"base_products": "8bit", "base_storage": "fp8"}}).train.base_products == "8bit"
