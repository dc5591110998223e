"""LoHa and LoKr files: the difference as the papers define it, and merged into a base like a LoRA."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from engine.bases.merging import ready_base
from engine.errors import UserError
from engine.families.adapter_kinds import kind_of_file, why_unfit
from engine.families.registry import detect
from engine.families.weight_delta import Lycoris
from engine.runs.adapters import is_adapter
from engine.workspace.paths import Workspace


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(shape)


def test_loha_is_the_product_of_two_products() -> None:
    torch.manual_seed(0)
    tensors = {f"hada_w{n}_{side}": draw(*shape) for n in (1, 2) for side, shape in (("a", (6, 2)), ("b", (2, 36)))}
    delta = Lycoris(tensors, alpha=1.0).delta(torch.Size((6, 4, 3, 3)))
    first, second = (tensors[f"hada_w{n}_a"] @ tensors[f"hada_w{n}_b"] for n in (1, 2))
    torch.testing.assert_close(delta, (first * second * 0.5).reshape(6, 4, 3, 3))


def test_lokr_is_a_kronecker_product() -> None:
    """Also of a convolution, whose kernel belongs to the second side: block (i, j) is w1[i, j] times w2."""
    torch.manual_seed(0)
    w1, a, b = draw(2, 2), draw(3, 2), draw(2, 2 * 9)
    delta = Lycoris({"lokr_w1": w1, "lokr_w2_a": a, "lokr_w2_b": b}, alpha=4.0).delta(torch.Size((6, 4, 3, 3)))
    w2 = (a @ b).reshape(3, 2, 3, 3)
    for i in range(2):
        for j in range(2):
            torch.testing.assert_close(delta[3 * i : 3 * i + 3, 2 * j : 2 * j + 2], 2 * w1[i, j] * w2)
    whole = Lycoris({"lokr_w1": w1, "lokr_w2": w2}, alpha=4.0)
    torch.testing.assert_close(whole.delta(torch.Size((6, 4, 3, 3))), delta / 2)  # alpha has no meaning here


@pytest.mark.parametrize("method", ["hada", "lokr"])
def test_the_kernel_may_be_apart(method: str) -> None:
    torch.manual_seed(0)
    kernel, a, b = draw(2, 2, 3, 3), draw(2, 6), draw(2, 4)
    expected = torch.zeros(6, 4, 3, 3)
    for i in range(2):
        for j in range(2):
            expected += a[i][:, None, None, None] * b[j][None, :, None, None] * kernel[i, j]
    if method == "hada":
        tensors = {f"hada_{name}{n}{end}": one for n in (1, 2) for name, end, one in
                   (("w", "_a", a), ("w", "_b", b), ("t", "", kernel))}  # fmt: skip
        expected = expected.square()
    else:
        tensors = {"lokr_w1": torch.ones(1, 1), "lokr_w2_a": a, "lokr_w2_b": b, "lokr_t2": kernel}
    change = Lycoris(tensors, alpha=None)
    assert change.fits(torch.Size((6, 4, 3, 3))) and not change.fits(torch.Size((6, 5, 3, 3)))
    torch.testing.assert_close(change.delta(torch.Size((6, 4, 3, 3))), expected)


def test_a_file_is_merged_like_a_lora(workspace: Workspace, tiny_base: Path, tmp_path: Path) -> None:
    family, layer = detect(str(tiny_base)), "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    own = family.load_denoiser(str(tiny_base), torch.float32).state_dict()
    rows, columns = own[f"{layer}.weight"].shape
    torch.manual_seed(0)
    a, b = draw(rows, 2), draw(2, columns)
    flat = f"lora_unet_{layer.replace('.', '_')}"
    file = tmp_path / "style.safetensors"
    tensors = {f"{flat}.hada_w{n}_{side}": one.clone() for n in (1, 2) for side, one in (("a", a), ("b", b))}
    save_file({**tensors, f"{flat}.alpha": torch.tensor(1.0)}, file)
    assert kind_of_file(file) == "lora" and is_adapter(file) and why_unfit(file, family.facts) == ""
    merged = ready_base(workspace, f"{tiny_base} + {file}:0.5")
    found = family.load_denoiser(merged, torch.float32).state_dict()
    torch.testing.assert_close(found[f"{layer}.weight"], own[f"{layer}.weight"] + 0.5 * 0.5 * (a @ b).square())
    assert all(torch.equal(found[name], tensor) for name, tensor in own.items() if name != f"{layer}.weight")

    del tensors[f"{flat}.hada_w2_b"]
    save_file(tensors, file)
    with pytest.raises(UserError, match="has hada_w2_a, but not hada_w2_b"):
        ready_base(workspace, f"{tiny_base} + {file}:0.25")
